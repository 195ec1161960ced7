package org.dgemma.demo;

import android.app.Activity;
import android.view.View;
import android.widget.Button;
import android.widget.TextView;

/** What all screens share. */
final class Screens {
    private Screens() {}

    /** Keep clear of bars, cut-outs and the keyboard: from Android 15 on, windows reach under them. */
    @SuppressWarnings("deprecation") // The calls that Android 8 has.
    static void fitInsets(View root) {
        root.setOnApplyWindowInsetsListener((view, insets) -> {
            view.setPadding(
                    insets.getSystemWindowInsetLeft(), insets.getSystemWindowInsetTop(),
                    insets.getSystemWindowInsetRight(), insets.getSystemWindowInsetBottom());
            return insets.consumeSystemWindowInsets();
        });
    }

    static void titleBar(Activity screen, CharSequence title) {
        TextView text = screen.findViewById(R.id.bar_title);
        text.setText(title);
        screen.findViewById(R.id.back).setOnClickListener(view -> screen.finish());
    }

    static void showError(Activity screen, CharSequence title, CharSequence line, CharSequence action, Runnable then) {
        TextView titleView = screen.findViewById(R.id.error_title);
        TextView textView = screen.findViewById(R.id.error_text);
        Button button = screen.findViewById(R.id.error_action);
        titleView.setText(title);
        textView.setText(line);
        button.setText(action);
        button.setOnClickListener(view -> then.run());
        screen.findViewById(R.id.error).setVisibility(View.VISIBLE);
    }

    static void hideError(Activity screen) {
        screen.findViewById(R.id.error).setVisibility(View.GONE);
    }
}
