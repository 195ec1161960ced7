package org.dgemma.runtime.structure;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.IntStream;
import org.dgemma.runtime.EngineException;

/**
 * The likeliest canvas whose text is in a language, by dynamic programming over (position, state). N positions, S states. It
 * knows scores, states and ids, and nothing of steps or texts.
 */
final class BestPath {
    private static final double NEVER = Double.NEGATIVE_INFINITY;
    private static final int ENDED = -1;

    private final TokenAutomaton automaton;
    private final Scores scores;
    private final Place place;
    private final int n;
    private final int room;
    /** [N + 1][S + 1] the best score of the rest of the canvas, from a position and a state on. */
    private final double[][] best;
    /** [N] the likeliest stop id; its score, with all that stands behind it, is {@link #end}. */
    private final int[] stop;
    private final double[] end;
    /** [N] the likeliest id that may stand behind the end. */
    private final int[] tail;
    /** Where each candidate leads. */
    private final Map<Integer, int[]> moves = new HashMap<>();
    // The best that next() has found.
    private double found;
    private int foundId;
    private int foundState;

    /** Where a canvas stands in an answer. */
    static final class Place {
        /** That the answer so far has led to. */
        final int state;
        /** Positions that the answer's ids may take; a stop id may stand behind them. */
        final int room;
        /** Ids that later canvases can hold; 0: this is the last one. */
        final int after;
        /** Ids that end an answer, in rising order; the answer's end takes the likeliest of them. */
        final int[] stops;
        /** Those, and what may stand behind the end as well. */
        final int[] tails;

        Place(int state, int room, int after, int[] stops, int pad) {
            this.state = state;
            this.room = room;
            this.after = after;
            this.stops = Arrays.stream(stops).sorted().distinct().toArray();
            tails = IntStream.concat(Arrays.stream(stops), IntStream.of(pad)).sorted().distinct().toArray();
        }
    }

    private BestPath(TokenAutomaton automaton, Scores scores, Place place) {
        this.automaton = automaton;
        this.scores = scores;
        this.place = place;
        n = scores.positions();
        room = Math.min(place.room, n);
        best = new double[n + 1][automaton.dead + 1];
        stop = new int[n];
        end = new double[n];
        tail = new int[n];
        double behind = 0;
        for (int i = n - 1; i >= 0; i--) {
            stop[i] = scores.best(i, place.stops);
            end[i] = scores.of(i, stop[i]) + behind;
            tail[i] = scores.best(i, place.tails);
            behind += scores.of(i, tail[i]);
        }
        for (int id : scores.known()) {
            moves.put(id, automaton.moves(id));
        }
    }

    /**
     * The ids [N] of the likeliest canvas that leaves the answer in the language: it ends the answer with a stop id where the
     * state accepts, or reaches a state from which the ids of later canvases are enough. Of equally likely ids the lowest is
     * taken. Throws EngineException where there is no such canvas.
     */
    static int[] of(TokenAutomaton automaton, Scores scores, Place place) {
        BestPath path = new BestPath(automaton, scores, place);
        path.fill();
        return path.ids();
    }

    private void fill() {
        int after = room == n ? place.after : 0;
        for (int state = 0; state <= automaton.dead; state++) {
            best[n][state] = automaton.distance[state] <= after ? 0 : NEVER;
        }
        for (int i = n - 1; i >= 0; i--) {
            double[] here = best[i];
            double[] following = best[i + 1];
            for (int state = 0; state <= automaton.dead; state++) {
                here[state] = automaton.accepting[state] ? end[i] : NEVER;
            }
            if (i >= room) {
                continue;
            }
            for (int state = 0; state < automaton.dead; state++) {
                double most = NEVER;
                for (int edge = automaton.row[state]; edge < automaton.row[state + 1]; edge++) {
                    most = Math.max(most, following[automaton.target[edge]]);
                }
                here[state] = Math.max(here[state], most + scores.floor[i]);
            }
            for (int k = 0; k < scores.ids[i].length; k++) {
                int[] own = moves.get(scores.ids[i][k]);
                for (int j = 0; j < own.length; j += 2) {
                    here[own[j]] = Math.max(here[own[j]], following[own[j + 1]] + scores.logProbs[i][k]);
                }
            }
        }
    }

    private int[] ids() {
        int[] path = new int[n];
        int state = place.state;
        for (int i = 0; i < n; i++) {
            next(i, state);
            if (i == 0 && !(found > NEVER)) {
                throw new EngineException(
                        "no canvas leaves the answer in its language, although there was one; please report this");
            }
            path[i] = foundId;
            state = foundState;
            if (state == ENDED) {
                System.arraycopy(tail, i + 1, path, i + 1, n - i - 1);
                break;
            }
        }
        return path;
    }

    /** Finds the best score from a state at position i on, its id and the state behind that. */
    private void next(int i, int state) {
        found = NEVER;
        foundId = 0;
        foundState = ENDED;
        if (automaton.accepting[state]) {
            offer(end[i], stop[i], ENDED);
        }
        if (i >= room) {
            return;
        }
        double[] following = best[i + 1];
        for (int edge = automaton.row[state]; edge < automaton.row[state + 1]; edge++) {
            int to = automaton.target[edge];
            offer(following[to] + scores.floor[i], automaton.id[edge], to);
        }
        for (int k = 0; k < scores.ids[i].length; k++) {
            int to = automaton.step(state, scores.ids[i][k]);
            if (to != automaton.dead) {
                offer(following[to] + scores.logProbs[i][k], scores.ids[i][k], to);
            }
        }
    }

    private void offer(double score, int id, int state) {
        if (score > found || score == found && id < foundId) {
            found = score;
            foundId = id;
            foundState = state;
        }
    }
}
