package org.dgemma.runtime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Map;
import java.util.function.IntToDoubleFunction;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.runtime.structure.Scores;
import org.dgemma.runtime.structure.StructuredCanvas;
import org.jspecify.annotations.Nullable;

/**
 * What the options of a generation make of one step's outputs: acceptance, the draw, the likeliest ids. What they leave alone
 * stays as the graph gave it. N canvas, K candidates.
 */
final class Steering {
    private final Manifest manifest;
    private final Map<String, Tensor> results;
    private final long[] ids;
    private final float[] logProbs;
    private final Candidates candidates;
    private SamplerOptions options = SamplerOptions.EXPORTED;
    private boolean wanted;
    private CanvasLoop.Known known = new CanvasLoop.Known();

    /** @param results what a step puts out, with candidates where the graph has them */
    Steering(Manifest manifest, Map<String, Tensor> results) {
        this.manifest = manifest;
        this.results = results;
        Tensor likeliest = results.get("likeliest");
        int size = likeliest == null ? 0 : (int) likeliest.size(2);
        ids = new long[size];
        logProbs = new float[size];
        candidates = new Candidates(manifest.canvasLength, size);
    }

    /**
     * Begins a canvas.
     *
     * @param wanted whether {@link #candidates} are wanted
     */
    void reset(SamplerOptions options, CanvasLoop.Known known, boolean wanted) {
        this.options = options;
        this.known = known;
        this.wanted = wanted;
        candidates.clear();
    }

    /** Of all positions that have run since the canvas began. */
    Candidates candidates() {
        return candidates;
    }

    /**
     * Decides the rows of a step, whose values are the first of each array.
     *
     * @param rows their positions
     * @param bound on entropies, in nats
     * @param words [2N] of all positions
     */
    void decide(
            int[] rows, float temperature, double bound, long[] words, int[] argmax, float[] entropy, boolean[] accepted,
            int[] canvas) {
        draw(rows, temperature, bound, words, argmax, entropy, accepted, canvas);
        hold(rows, argmax, entropy, accepted, canvas);
        if (known.structured != null && isFinite(entropy, rows.length)) { // NaN is an error for whoever takes the step
            fit(known.structured, rows, argmax, accepted, canvas);
        }
    }

    private static boolean isFinite(float[] entropy, int count) {
        boolean found = true;
        for (int i = 0; i < count; i++) {
            found &= !Float.isNaN(entropy[i]);
        }
        return found;
    }

    /** Acceptance, and what accepted rows take. */
    private void draw(
            int[] rows, float temperature, double bound, long[] words, int[] argmax, float[] entropy, boolean[] accepted,
            int[] canvas) {
        boolean greedy = temperature == (float) SamplerOptions.GREEDY;
        double exported = manifest.sampler.entropyBound;
        boolean redraws = options.cuts() || options.tilts() || rows[0] < known.least;
        if (!greedy && !redraws && !wanted && bound == exported) {
            return;
        }
        boolean[] own = bound == exported ? null : accept(entropy, rows.length, bound);
        for (int i = 0; i < rows.length; i++) {
            boolean before = accepted[i];
            accepted[i] = own == null ? before : own[i] && (before || bound > exported);
            int drawn = !accepted[i] || before ? canvas[i] : drawn(i);
            if (redraws || wanted) {
                drawn = redrawn(i, rows[i], words[rows[i]], temperature, drawn, argmax, accepted);
            }
            if (accepted[i]) {
                canvas[i] = greedy ? argmax[i] : drawn;
            } else if (before) {
                canvas[i] = (int) Noise.token(words[words.length / 2 + rows[i]], manifest.model.vocabSize);
            }
        }
    }

    /** Rows whose ids are given stay as they are: certain and accepted. */
    private void hold(int[] rows, int[] argmax, float[] entropy, boolean[] accepted, int[] canvas) {
        Given given = known.given;
        if (given == null) {
            return;
        }
        for (int i = 0; i < rows.length; i++) {
            if (given.pinned[rows[i]]) {
                argmax[i] = given.ids[rows[i]];
                entropy[i] = 0;
                accepted[i] = true;
                canvas[i] = given.ids[rows[i]];
                candidates.pin(rows[i], given.ids[rows[i]]);
            }
        }
    }

    /** The likeliest canvas of the language that the answer must be of takes the place of the likeliest ids. */
    private void fit(StructuredCanvas structured, int[] rows, int[] argmax, boolean[] accepted, int[] canvas) {
        Scores scores = structured.scores();
        for (int i = 0; i < rows.length; i++) {
            score(i, scores, rows[i]);
        }
        structured.hold(rows, scores, argmax, accepted, canvas);
    }

    /** Tells what a row of the step says of a position. */
    void score(int row, Scores scores, int position) {
        read(row);
        scores.set(position, ids, logProbs, manifest.model.vocabSize);
    }

    /** Into {@link #ids} and {@link #logProbs}. */
    private void read(int row) {
        LongBuffer likeliest = results.get("likeliest").data.asLongBuffer();
        FloatBuffer values = results.get("log_probs").data.asFloatBuffer();
        for (int k = 0; k < ids.length; k++) {
            ids[k] = likeliest.get(row * ids.length + k);
            logProbs[k] = values.get(row * ids.length + k);
        }
    }

    /** What a row draws in place of {@code drawn}; its argmax and whether it is accepted may change as well. */
    private int redrawn(int row, int position, long word, float temperature, int drawn, int[] argmax, boolean[] accepted) {
        read(row);
        CutDraw.sort(ids, logProbs);
        IntToDoubleFunction biases = position < known.least ? this::early : options::bias;
        boolean touched = CutDraw.tilt(ids, logProbs, biases, temperature);
        if (wanted) {
            candidates.put(position, ids, logProbs);
        }
        if (touched) {
            argmax[row] = (int) ids[0];
        }
        boolean[] kept = CutDraw.kept(logProbs, options);
        if (!kept[0]) { // all are banned
            argmax[row] = filler(biases);
            accepted[row] = false;
            return drawn;
        }
        boolean again = options.cuts() || touched || biases.applyAsDouble(drawn) != 0;
        return again ? (int) CutDraw.draw(ids, logProbs, kept, word) : drawn;
    }

    /** The bias of an id at a position that the answer must not end before. */
    private double early(int id) {
        boolean ends = id == manifest.model.padTokenId || Progress.contains(manifest.model.eosTokenIds, id);
        return ends ? Double.NEGATIVE_INFINITY : options.bias(id);
    }

    /** Padding, or where it is banned, the first id that is not. */
    private int filler(IntToDoubleFunction biases) {
        int found = manifest.model.padTokenId;
        for (int id = 0; biases.applyAsDouble(found) == Double.NEGATIVE_INFINITY; id++) {
            found = id;
        }
        return found;
    }

    private int drawn(int row) {
        return (int) results.get("drawn").data.asLongBuffer().get(row);
    }

    /** Which of the first entropies are accepted: those ahead (smaller, or equal before it) sum to at most the bound. */
    static boolean[] accept(float[] entropy, int count, double bound) {
        boolean[] found = new boolean[count];
        for (int i = 0; i < count; i++) {
            double ahead = 0;
            for (int j = 0; j < count; j++) {
                ahead += entropy[j] < entropy[i] || entropy[j] == entropy[i] && j < i ? entropy[j] : 0;
            }
            found[i] = ahead <= bound;
        }
        return found;
    }
}
