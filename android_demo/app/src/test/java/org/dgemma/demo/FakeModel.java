package org.dgemma.demo;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.StopReason;

/** A model whose steps a test takes by hand. */
final class FakeModel implements Model {
    final List<String> prompts = new ArrayList<>();
    final List<GenerateOptions> options = new ArrayList<>();
    Listener listener;
    Frame last;
    int cancels;
    boolean thinks;
    volatile boolean closed;

    @Override
    public String name() {
        return "fake";
    }

    @Override
    public String description() {
        return "by hand";
    }

    @Override
    public int canvasLength() {
        return 4;
    }

    @Override
    public int steps() {
        return 16;
    }

    @Override
    public int context() {
        return 100;
    }

    @Override
    public boolean thinks() {
        return thinks;
    }

    @Override
    public void start(String prompt, GenerateOptions asked, Listener told) {
        if (listener != null) {
            throw new IllegalStateException("busy");
        }
        prompts.add(prompt);
        options.add(asked);
        listener = told;
        last = null;
    }

    @Override
    public void cancel() {
        cancels++;
    }

    @Override
    public void close() {
        closed = true;
    }

    /** A step whose canvas holds these words; those in capitals are accepted, the others doubtful. */
    void step(int canvas, int step, String... words) {
        float[] entropy = new float[words.length];
        boolean[] accepted = new boolean[words.length];
        int[] ids = new int[words.length];
        for (int i = 0; i < words.length; i++) {
            accepted[i] = words[i].equals(words[i].toUpperCase(java.util.Locale.ROOT));
            entropy[i] = accepted[i] ? 0 : 3;
            ids[i] = words[i].isEmpty() ? 1 : words[i].hashCode();
        }
        last = Frame.of(
                canvas, step, 16, ids, words, entropy, accepted, 100, new int[] {1}, String.join(" ",
                        Arrays.asList(words)),
                last);
        listener.onFrame(last);
        AppTest.idle();
    }

    void end(String text, StopReason reason) {
        end(text, "", reason);
    }

    void end(String text, String thinking, StopReason reason) {
        Listener told = listener;
        listener = null;
        told.onDone(new Summary(text, thinking, 8, 4, reason, 0.1, 2, 20));
        AppTest.idle();
    }

    void fail(org.dgemma.DgemmaException error) {
        Listener told = listener;
        listener = null;
        told.onFailed(error);
        AppTest.idle();
    }
}
