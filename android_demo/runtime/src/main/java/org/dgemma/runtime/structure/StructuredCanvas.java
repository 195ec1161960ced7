package org.dgemma.runtime.structure;

import org.jspecify.annotations.Nullable;

/** One canvas of an answer of a language. N canvas. */
public final class StructuredCanvas {
    private final TokenAutomaton automaton;
    private final BestPath.Place place;
    private final int n;
    /** [N] its likeliest ids of the language, as of the last step; null before the first. */
    private int @Nullable [] ids;

    StructuredCanvas(TokenAutomaton automaton, BestPath.Place place, int n) {
        this.automaton = automaton;
        this.place = place;
        this.n = n;
    }

    /** Of a step: of positions that do not run, nothing but their ids is possible. */
    public Scores scores() {
        Scores scores = new Scores(n);
        int[] before = ids;
        for (int i = 0; before != null && i < n; i++) {
            scores.pin(i, before[i]);
        }
        return scores;
    }

    /**
     * The likeliest canvas takes the place of the argmax of a step's rows [R], and of the next canvas at accepted positions.
     *
     * @param scores {@link #scores}, with those rows set
     */
    public void hold(int[] rows, Scores scores, int[] argmax, boolean[] accepted, int[] canvas) {
        int[] path = BestPath.of(automaton, scores, place);
        for (int i = 0; i < rows.length; i++) {
            argmax[i] = path[rows[i]];
            canvas[i] = accepted[i] ? argmax[i] : canvas[i];
        }
        ids = path;
    }
}
