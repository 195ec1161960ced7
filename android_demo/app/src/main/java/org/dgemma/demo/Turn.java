package org.dgemma.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** One question and its answer. Main thread only. */
final class Turn {
    enum State { RUNNING, STOPPING, DONE, FAILED, EARLIER }

    final String prompt;
    private final List<Frame> frames = new ArrayList<>();
    private State state = State.RUNNING;
    private Model.@Nullable Summary summary;
    private String text = "";
    private String thinking = "";

    Turn(String prompt) {
        this.prompt = prompt;
    }

    /** Of a chat that the model no longer knows. */
    static Turn earlier(String prompt, String thinking, String text) {
        Turn turn = new Turn(prompt);
        turn.thinking = thinking;
        turn.text = text;
        turn.state = State.EARLIER;
        return turn;
    }

    State state() {
        return state;
    }

    boolean running() {
        return state == State.RUNNING || state == State.STOPPING;
    }

    /** Every step so far, in order. */
    List<Frame> frames() {
        return Collections.unmodifiableList(frames);
    }

    Model.@Nullable Summary summary() {
        return summary;
    }

    /** What is committed, or stood on the canvas when the run ended. */
    String text() {
        return text;
    }

    /** What the model thought before it answered, known once it has ended; empty for nothing. */
    String thinking() {
        return thinking;
    }

    void add(Frame frame) {
        frames.add(frame);
        text = frame.text;
    }

    void stopping() {
        if (state == State.RUNNING) {
            state = State.STOPPING;
        }
    }

    void done(Model.Summary result) {
        summary = result;
        text = result.text;
        thinking = result.thinking;
        state = State.DONE;
    }

    void failed() {
        state = State.FAILED;
    }

    /** The model forgot this turn. */
    void forget() {
        frames.clear();
        state = State.EARLIER;
    }

    /** Free the steps; the text stays. */
    void dropFrames() {
        frames.clear();
    }

    /** The last frame of each canvas up to the frame at an index, in order: what the view shows at that moment. */
    List<Frame> shownAt(int index) {
        List<Frame> shown = new ArrayList<>();
        for (int i = 0; i <= index && i < frames.size(); i++) {
            Frame frame = frames.get(i);
            if (!shown.isEmpty() && shown.get(shown.size() - 1).canvas == frame.canvas) {
                shown.remove(shown.size() - 1);
            }
            shown.add(frame);
        }
        return shown;
    }
}
