package org.dgemma.demo;

import org.dgemma.DgemmaException;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.PromptTooLongException;
import org.dgemma.tokenizer.TokenizerException;
import org.jspecify.annotations.Nullable;

/** What went wrong, as the error panel shows it. */
final class Problem {
    enum Kind {
        BUNDLE(R.string.error_bundle, R.string.choose_other),
        RUN(R.string.error_run, R.string.dismiss),
        CONTEXT(R.string.error_context, R.string.new_chat),
        MEMORY(R.string.error_memory, R.string.dismiss);

        final int title;
        final int action;

        Kind(int title, int action) {
            this.title = title;
            this.action = action;
        }
    }

    final Kind kind;
    /** The exception's line; empty for MEMORY, which the app words itself. */
    final String line;

    Problem(Kind kind, @Nullable String line) {
        this.kind = kind;
        this.line = line == null ? "" : line;
    }

    static Kind kindOf(DgemmaException error) {
        if (error instanceof PromptTooLongException) {
            return Kind.CONTEXT;
        }
        boolean bundle = error instanceof BundleException || error instanceof EngineException
                || error instanceof TokenizerException;
        return bundle ? Kind.BUNDLE : Kind.RUN;
    }
}
