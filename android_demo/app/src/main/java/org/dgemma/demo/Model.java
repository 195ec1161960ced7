package org.dgemma.demo;

import java.io.File;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.StopReason;

/** An open bundle as the screens see it. Calls come from the main thread, but for {@link #close}. */
interface Model extends AutoCloseable {
    /** Opens bundles, off the main thread. */
    interface Opener {
        /** @throws DgemmaException what is wrong with the bundle or the engine, in one line */
        Model open(File folder);
    }

    /** As {@link org.dgemma.runtime.GenerationListener}: exactly one terminal call, last; on another thread. */
    interface Listener {
        void onFrame(Frame frame);

        void onDone(Summary summary);

        void onFailed(DgemmaException error);
    }

    /** Of the checkpoint, such as tiny. */
    String name();

    /** Recipe and engine, for people. */
    String description();

    int canvasLength();

    int steps();

    /** Positions in all. */
    int context();

    /** Whether it can be told to think before it answers. */
    boolean thinks();

    void start(String prompt, GenerateOptions options, Listener listener);

    /** End the run as soon as can be; harmless when none runs. */
    void cancel();

    /** Cancel, wait, free everything. */
    @Override
    void close();

    /** What is kept of a {@link Result}. */
    final class Summary {
        final String text;
        /** What it thought before; no part of the text. */
        final String thinking;
        final int tokens;
        final int steps;
        final StopReason reason;
        /** Of prefill, denoising and commits, without loading. */
        final double seconds;
        final double tokensPerForward;
        /** Tokens of prompts and answers that the model holds now. */
        final int used;

        Summary(
                String text, String thinking, int tokens, int steps, StopReason reason, double seconds,
                double tokensPerForward, int used) {
            this.text = text;
            this.thinking = thinking;
            this.tokens = tokens;
            this.steps = steps;
            this.reason = reason;
            this.seconds = seconds;
            this.tokensPerForward = tokensPerForward;
            this.used = used;
        }

        double tokensPerSecond() {
            return seconds > 0 ? tokens / seconds : 0;
        }
    }
}
