package org.dgemma.demo;

import android.content.Context;
import android.content.res.Resources;
import android.view.View;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.SeekBar;
import android.widget.TextView;
import java.text.NumberFormat;
import java.util.List;
import org.dgemma.runtime.StopReason;

/**
 * One question with its answer: the canvas while it resolves, then the text, and the steps to be seen again. In slow
 * motion the steps are shown one by one at a pace that eyes follow, whatever the model's own.
 */
final class TurnView extends LinearLayout {
    private static final long SLOW_MS = 420;
    /** Frames that wait at most, so that a long answer does not fall far behind. */
    private static final int MOST_WAITING = 12;

    private final Turn turn;
    private final Button think;
    private final TextView thinking;
    private final TextView answer;
    private final CanvasView canvas;
    private final View steps;
    private final SeekBar seek;
    private final TextView step;
    private final TextView stats;
    private final Runnable next = this::showNext;

    private boolean slow;
    private boolean waiting;
    private boolean replaying;
    /** Index of the frame on the screen. */
    private int shown = -1;
    /** Answer and figures stand. */
    private boolean finished;

    TurnView(Context context, Turn turn, boolean slow) {
        super(context);
        this.turn = turn;
        this.slow = slow;
        setOrientation(VERTICAL);
        inflate(context, R.layout.turn, this);
        TextView prompt = findViewById(R.id.turn_prompt);
        prompt.setText(turn.prompt);
        think = findViewById(R.id.turn_think);
        thinking = findViewById(R.id.turn_thinking);
        think.setOnClickListener(view -> unfold(thinking.getVisibility() == GONE));
        answer = findViewById(R.id.turn_answer);
        canvas = findViewById(R.id.turn_canvas);
        steps = findViewById(R.id.turn_steps);
        seek = findViewById(R.id.turn_seek);
        step = findViewById(R.id.turn_step);
        stats = findViewById(R.id.turn_stats);
        seek.setOnSeekBarChangeListener(new Scrub());
        findViewById(R.id.turn_replay).setOnClickListener(view -> replay());
        // What was already there when the view was made is not played again.
        shown = Math.max(-1, turn.frames().size() - (turn.running() ? 2 : 1));
        sync();
    }

    Turn turn() {
        return turn;
    }

    /** All that has happened is on the screen. */
    boolean upToDate() {
        return finished || (turn.running() && shown == turn.frames().size() - 1);
    }

    void slow(boolean value) {
        slow = value;
    }

    /** Take over what is new in the turn. */
    void sync() {
        if (turn.state() == Turn.State.EARLIER || turn.state() == Turn.State.FAILED) {
            stopPlaying();
            finish();
        } else if (!finished && !waiting) {
            showNext();
        }
    }

    private void showNext() {
        waiting = false;
        List<Frame> frames = turn.frames();
        int last = frames.size() - 1;
        if (shown < last) {
            shown = Math.max(shown + 1, last - MOST_WAITING);
            showFrame(frames.get(shown), true);
            if (slow || replaying) {
                waiting = true;
                postDelayed(next, SLOW_MS);
            } else if (shown < last) {
                showNext();
            } else if (!turn.running()) {
                finish();
            }
        } else if (replaying) {
            replaying = false;
            finish();
        } else if (turn.running()) {
            if (frames.isEmpty()) {
                stats.setText(turn.state() == Turn.State.STOPPING ? R.string.stopping : R.string.waiting);
            }
        } else {
            finish();
        }
    }

    private void showFrame(Frame frame, boolean animated) {
        canvas.show(turn.shownAt(shown), animated);
        step.setText(getResources().getString(R.string.step_of, shown + 1, turn.frames().size()));
        if (!finished) {
            Resources words = getResources();
            String live = words.getString(
                    R.string.live_step, frame.step, frame.mostSteps, frame.accepted(), frame.pieces.length);
            stats.setText(frame.canvas == 0 ? live : words.getString(R.string.live_canvas, frame.canvas + 1, live));
        } else {
            seek.setProgress(shown);
        }
    }

    /** Show the answer, and the steps below it on demand. */
    private void finish() {
        finished = true;
        int last = turn.frames().size() - 1;
        shown = last;
        canvas.setVisibility(GONE);
        answer.setVisibility(VISIBLE);
        String text = turn.text().trim();
        answer.setText(text.isEmpty() ? getResources().getString(whyEmpty()) : text);
        think.setVisibility(turn.thinking().isEmpty() ? GONE : VISIBLE);
        thinking.setText(turn.thinking());
        stats.setText(figures());
        steps.setVisibility(last > 0 ? VISIBLE : GONE);
        seek.setMax(Math.max(0, last));
        seek.setProgress(last);
        step.setText(getResources().getString(R.string.step_of, last + 1, last + 1));
    }

    /** Show what the model thought, which is folded at first. */
    private void unfold(boolean shown) {
        thinking.setVisibility(shown ? VISIBLE : GONE);
        think.setText(shown ? R.string.hide_thinking : R.string.show_thinking);
    }

    private int whyEmpty() {
        Model.Summary summary = turn.summary();
        if (summary == null || turn.thinking().isEmpty() || summary.reason == StopReason.CANCELLED) {
            return R.string.empty_answer;
        }
        return summary.reason == StopReason.LENGTH ? R.string.thought_length
                : summary.reason == StopReason.CONTEXT ? R.string.thought_context : R.string.thought_only;
    }

    private void replay() {
        if (!finished || turn.frames().isEmpty()) {
            return;
        }
        stopPlaying();
        replaying = true;
        shown = -1;
        showCanvas();
        showNext();
    }

    /** Show one step of a run that has ended. */
    void scrubTo(int index) {
        if (finished && index < turn.frames().size()) {
            stopPlaying();
            shown = index;
            showCanvas();
            showFrame(turn.frames().get(index), true);
        }
    }

    private void showCanvas() {
        think.setVisibility(GONE);
        unfold(false);
        answer.setVisibility(GONE);
        canvas.setVisibility(VISIBLE);
    }

    private void stopPlaying() {
        removeCallbacks(next);
        waiting = false;
        replaying = false;
    }

    private String figures() {
        Resources words = getResources();
        Model.Summary summary = turn.summary();
        if (turn.state() == Turn.State.EARLIER) {
            return words.getString(R.string.earlier);
        }
        if (summary == null) {
            return words.getString(R.string.error_run);
        }
        String count = words.getQuantityString(R.plurals.steps, summary.steps, summary.steps);
        if (summary.reason == StopReason.CANCELLED) {
            return words.getString(R.string.stats_cancelled, count);
        }
        NumberFormat whole = NumberFormat.getIntegerInstance();
        NumberFormat tenths = NumberFormat.getNumberInstance();
        tenths.setMinimumFractionDigits(1);
        tenths.setMaximumFractionDigits(1);
        String line = words.getString(
                R.string.stats, words.getQuantityString(R.plurals.tokens, summary.tokens, summary.tokens), count,
                whole.format(summary.tokensPerSecond()), tenths.format(summary.tokensPerForward));
        if (summary.reason == StopReason.LENGTH) {
            return words.getString(R.string.stats_length, line);
        }
        return summary.reason == StopReason.CONTEXT ? words.getString(R.string.stats_context, line) : line;
    }

    @Override
    protected void onDetachedFromWindow() {
        super.onDetachedFromWindow();
        stopPlaying();
    }

    /** A finger on the steps. */
    private final class Scrub implements SeekBar.OnSeekBarChangeListener {
        @Override
        public void onProgressChanged(SeekBar bar, int progress, boolean fromUser) {
            if (fromUser) {
                scrubTo(progress);
            }
        }

        @Override
        public void onStartTrackingTouch(SeekBar bar) {}

        /** At the last step the text stands again. */
        @Override
        public void onStopTrackingTouch(SeekBar bar) {
            if (bar.getProgress() == bar.getMax()) {
                finish();
            }
        }
    }
}
