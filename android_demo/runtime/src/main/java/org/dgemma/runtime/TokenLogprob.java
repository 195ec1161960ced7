package org.dgemma.runtime;

import java.util.Collections;
import java.util.Map;

/**
 * Natural log-probability of a committed token, from the step that last ran its position, of the tempered distribution.
 */
public final class TokenLogprob {
    public final int token;
    /** Negative infinity where all the likeliest ids were banned. */
    public final double logprob;
    /** Likeliest ids and their log-probabilities, falling, as many as were asked for. */
    public final Map<Integer, Double> top;

    TokenLogprob(int token, double logprob, Map<Integer, Double> top) {
        this.token = token;
        this.logprob = logprob;
        this.top = Collections.unmodifiableMap(top);
    }
}
