package org.dgemma.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.text.Editable;
import android.text.TextWatcher;
import android.view.KeyEvent;
import android.view.View;
import android.view.inputmethod.EditorInfo;
import android.view.inputmethod.InputMethodManager;
import android.widget.Button;
import android.widget.EditText;
import android.widget.ImageButton;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The chat: a prompt, the canvas that resolves, the turns before. */
public final class ChatActivity extends Activity implements ModelHolder.Observer {
    private static final String PROMPTS = "prompts";
    private static final String THOUGHTS = "thoughts";
    private static final String ANSWERS = "answers";
    private static final String SETTINGS_OPEN = "settings_open";

    private DemoApp app;
    private ModelHolder holder;
    private EditText prompt;
    private ImageButton send;
    private LinearLayout turns;
    private ScrollView scroll;
    private SettingsPanel panel;

    @Override
    protected void onCreate(@Nullable Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.activity_chat);
        Screens.fitInsets(findViewById(R.id.root));
        app = (DemoApp) getApplication();
        holder = app.holder();
        prompt = findViewById(R.id.prompt);
        send = findViewById(R.id.send);
        turns = findViewById(R.id.turns);
        scroll = findViewById(R.id.scroll);
        panel = new SettingsPanel(findViewById(R.id.settings), app.settings());
        panel.onSlowMotion(this::pace);
        findViewById(R.id.tune).setOnClickListener(view -> panel.toggle());
        findViewById(R.id.new_chat).setOnClickListener(view -> holder.newChat());
        findViewById(R.id.benchmark).setOnClickListener(view -> open(BenchmarkActivity.class));
        findViewById(R.id.choose).setOnClickListener(view -> open(BundlesActivity.class));
        send.setOnClickListener(view -> sendOrStop());
        prompt.setOnEditorActionListener(this::onKeyboard);
        prompt.addTextChangedListener(new OnText(this::showSend));
        if (saved != null) {
            panel.show(saved.getBoolean(SETTINGS_OPEN));
            restore(saved);
        }
    }

    /** Of a process that is gone: its chat can be read, the model does not know it. */
    private void restore(Bundle saved) {
        String[] prompts = saved.getStringArray(PROMPTS);
        String[] thoughts = saved.getStringArray(THOUGHTS);
        String[] answers = saved.getStringArray(ANSWERS);
        if (prompts == null || thoughts == null || answers == null) {
            return;
        }
        List<Turn> earlier = new ArrayList<>();
        for (int i = 0; i < prompts.length; i++) {
            earlier.add(Turn.earlier(prompts[i], thoughts[i], answers[i]));
        }
        app.restore(earlier);
    }

    @Override
    protected void onSaveInstanceState(Bundle out) {
        super.onSaveInstanceState(out);
        List<Turn> all = holder.turns();
        String[] prompts = new String[all.size()];
        String[] thoughts = new String[all.size()];
        String[] answers = new String[all.size()];
        for (int i = 0; i < prompts.length; i++) {
            prompts[i] = all.get(i).prompt;
            thoughts[i] = all.get(i).thinking();
            answers[i] = all.get(i).text();
        }
        out.putStringArray(PROMPTS, prompts);
        out.putStringArray(THOUGHTS, thoughts);
        out.putStringArray(ANSWERS, answers);
        out.putBoolean(SETTINGS_OPEN, panel.shown());
    }

    @Override
    protected void onStart() {
        super.onStart();
        holder.observe(this);
        app.startUp();
        onModelChanged();
    }

    @Override
    protected void onStop() {
        holder.forget(this);
        super.onStop();
    }

    private void open(Class<? extends Activity> screen) {
        startActivity(new Intent(this, screen));
    }

    /** Back ends a run first, then closes what is open, then leaves. */
    @Override
    @SuppressWarnings("deprecation") // Android 8 has no other; an app for Android 15 still gets the call.
    public void onBackPressed() {
        if (holder.running()) {
            holder.stop();
        } else if (panel.shown()) {
            panel.show(false);
        } else {
            super.onBackPressed();
        }
    }

    private boolean onKeyboard(TextView view, int action, @Nullable KeyEvent key) {
        boolean enter = key != null && key.getKeyCode() == KeyEvent.KEYCODE_ENTER && key.isCtrlPressed()
                && key.getAction() == KeyEvent.ACTION_DOWN;
        if ((action == EditorInfo.IME_ACTION_SEND || enter) && !holder.running()) {
            sendOrStop();
            return true;
        }
        return false;
    }

    private void sendOrStop() {
        if (holder.running()) {
            holder.stop();
            return;
        }
        String text = prompt.getText().toString().trim();
        if (text.isEmpty() || !panel.apply()) {
            return;
        }
        prompt.setText("");
        getSystemService(InputMethodManager.class).hideSoftInputFromWindow(prompt.getWindowToken(), 0);
        holder.send(text, app.settings().options(holder.name()));
    }

    private void pace() {
        for (int i = 0; i < turns.getChildCount(); i++) {
            ((TurnView) turns.getChildAt(i)).slow(app.settings().slowMotion());
        }
    }

    @Override
    public void onModelChanged() {
        showTitle();
        showTurns();
        showProblem();
        showSend();
        getWindow().getDecorView().setKeepScreenOn(holder.running());
    }

    private void showTitle() {
        TextView title = findViewById(R.id.title);
        TextView subtitle = findViewById(R.id.subtitle);
        Model model = holder.model();
        if (model != null) {
            title.setText(model.name());
            int used = holder.used();
            subtitle.setText(used == 0 ? model.description()
                    : getString(R.string.used_context, model.description(), used, model.context()));
            panel.about(model);
        } else {
            Bundles.Entry entry = holder.folder() == null ? null : new Bundles.Entry(holder.folder(),
                    Bundles.Origin.ADDED);
            title.setText(entry == null ? getString(R.string.app_name) : entry.name);
            boolean broken = holder.state() == ModelHolder.State.BROKEN;
            boolean asleep = holder.state() == ModelHolder.State.NONE && entry != null;
            subtitle.setText(broken ? R.string.no_bundle : asleep ? R.string.asleep : R.string.opening);
        }
        findViewById(R.id.choose).setContentDescription(
                getString(R.string.choose_bundle, title.getText(), subtitle.getText()));
    }

    private void showTurns() {
        List<Turn> all = holder.turns();
        boolean added = false;
        while (turns.getChildCount() > 0 && !shows(all, turns.getChildCount() - 1)) {
            turns.removeViewAt(turns.getChildCount() - 1);
        }
        for (int i = 0; i < all.size(); i++) {
            if (i < turns.getChildCount()) {
                ((TurnView) turns.getChildAt(i)).sync();
            } else {
                turns.addView(new TurnView(this, all.get(i), app.settings().slowMotion()));
                added = true;
            }
        }
        findViewById(R.id.welcome).setVisibility(all.isEmpty() && holder.model() != null ? View.VISIBLE : View.GONE);
        showSuggestions();
        if (added) {
            scroll.post(() -> scroll.fullScroll(View.FOCUS_DOWN));
        }
    }

    private boolean shows(List<Turn> all, int index) {
        return index < all.size() && ((TurnView) turns.getChildAt(index)).turn() == all.get(index);
    }

    private void showSuggestions() {
        LinearLayout list = findViewById(R.id.suggestions);
        Model model = holder.model();
        if (model == null || list.getTag() == model) {
            return;
        }
        list.setTag(model);
        list.removeAllViews();
        int which = "tiny".equals(model.name()) ? R.array.suggestions_tiny : R.array.suggestions;
        for (String text : getResources().getStringArray(which)) {
            Button button = (Button) getLayoutInflater().inflate(R.layout.suggestion, list, false);
            button.setText(text);
            button.setOnClickListener(view -> {
                prompt.setText(text);
                sendOrStop();
            });
            list.addView(button);
        }
    }

    private void showProblem() {
        Problem problem = holder.problem();
        if (problem == null) {
            Screens.hideError(this);
            return;
        }
        Screens.showError(
                this, getString(problem.kind.title),
                problem.kind == Problem.Kind.MEMORY ? getString(R.string.error_memory_text) : problem.line,
                getString(problem.kind.action), () -> react(problem.kind));
    }

    private void react(Problem.Kind kind) {
        if (kind == Problem.Kind.BUNDLE) {
            open(BundlesActivity.class);
        } else if (kind == Problem.Kind.CONTEXT) {
            holder.newChat();
        } else {
            holder.dismissProblem();
        }
    }

    private void showSend() {
        boolean running = holder.running();
        boolean able = running || (prompt.getText().toString().trim().length() > 0 && holder.folder() != null
                && holder.state() != ModelHolder.State.BROKEN);
        send.setImageResource(running ? R.drawable.ic_stop : R.drawable.ic_send);
        send.setContentDescription(getString(running ? R.string.stop : R.string.send));
        send.setEnabled(able);
        send.setAlpha(able ? 1f : 0.4f);
    }

    /** Only what comes after a change. */
    private static final class OnText implements TextWatcher {
        private final Runnable then;

        OnText(Runnable then) {
            this.then = then;
        }

        @Override
        public void beforeTextChanged(CharSequence text, int start, int count, int after) {}

        @Override
        public void onTextChanged(CharSequence text, int start, int before, int count) {}

        @Override
        public void afterTextChanged(Editable text) {
            then.run();
        }
    }
}
