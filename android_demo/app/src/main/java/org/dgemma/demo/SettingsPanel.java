package org.dgemma.demo;

import android.view.View;
import android.widget.EditText;
import android.widget.Switch;
import android.widget.TextView;
import java.security.SecureRandom;

/** Seed, most new tokens and switches, above the chat. */
final class SettingsPanel {
    private final View root;
    private final Settings settings;
    private final EditText seed;
    private final EditText maxNewTokens;
    private final Switch slowMotion;
    private final SecureRandom random = new SecureRandom();

    SettingsPanel(View root, Settings settings) {
        this.root = root;
        this.settings = settings;
        seed = root.findViewById(R.id.seed);
        maxNewTokens = root.findViewById(R.id.max_tokens);
        slowMotion = root.findViewById(R.id.slow_motion);
        Switch adaptive = root.findViewById(R.id.adaptive);
        seed.setText(Long.toUnsignedString(settings.seed()));
        maxNewTokens.setText(String.valueOf(settings.maxNewTokens()));
        adaptive.setChecked(settings.adaptive());
        slowMotion.setChecked(settings.slowMotion());
        Switch think = root.findViewById(R.id.think);
        think.setChecked(settings.think());
        think.setOnCheckedChangeListener((view, on) -> settings.think(on));
        adaptive.setOnCheckedChangeListener((view, on) -> settings.adaptive(on));
        // Short, so that it can be said and typed again.
        root.findViewById(R.id.dice).setOnClickListener(
                view -> seed.setText(String.valueOf(random.nextInt(1_000_000))));
    }

    void onSlowMotion(Runnable then) {
        slowMotion.setOnCheckedChangeListener((view, on) -> {
            settings.slowMotion(on);
            then.run();
        });
    }

    boolean shown() {
        return root.getVisibility() == View.VISIBLE;
    }

    void show(boolean shown) {
        root.setVisibility(shown ? View.VISIBLE : View.GONE);
    }

    void toggle() {
        show(!shown() || !apply());
    }

    void about(Model model) {
        Switch remember = root.findViewById(R.id.remember);
        remember.setOnCheckedChangeListener(null);
        remember.setChecked(settings.remember(model.name()));
        remember.setOnCheckedChangeListener((view, on) -> settings.remember(model.name(), on));
        root.findViewById(R.id.think).setVisibility(model.thinks() ? View.VISIBLE : View.GONE);
        TextView about = root.findViewById(R.id.about);
        about.setText(root.getResources().getString(
                R.string.about_bundle, model.canvasLength(), model.steps(), model.context()));
    }

    /** Keep what was typed; false, with the mistake shown, when it is no number that can be used. */
    boolean apply() {
        Long value = Settings.parseSeed(seed.getText().toString());
        int most;
        try {
            most = Integer.parseInt(maxNewTokens.getText().toString().trim());
        } catch (NumberFormatException error) {
            most = 0;
        }
        seed.setError(value == null ? root.getResources().getString(R.string.bad_seed) : null);
        maxNewTokens.setError(most < 1 ? root.getResources().getString(R.string.bad_max_tokens) : null);
        if (value == null || most < 1) {
            show(true);
            return false;
        }
        settings.seed(value);
        settings.maxNewTokens(most);
        return true;
    }
}
