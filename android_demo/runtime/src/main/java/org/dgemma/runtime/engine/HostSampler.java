package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import java.nio.FloatBuffer;
import org.dgemma.runtime.Manifest.ModelConfig;
import org.dgemma.runtime.Manifest.SamplerConfig;
import org.jspecify.annotations.Nullable;

/**
 * A step's sampler on the processor, from products with tiles of ids: the contract of docs/design/sampling.md.
 *
 * <p>Block sums are float32, running sums float64. A vocabulary of several tiles is walked once for the figures of every block,
 * and tiles in which draws fall are computed again, so that one tile of logits is held at a time. R rows, t ids of a tile, V
 * vocabulary, D hidden, K candidates.
 */
final class HostSampler {
    static final int BLOCK = 256;
    /** Likeliest ids that a step puts out, at least. */
    private static final int CANDIDATES = 16;

    /** Products of the rows with a tile's ids, before the cap. */
    interface Products {
        /** [R, t], to be read before the next call. */
        FloatBuffer of(int tile) throws OrtException;
    }

    /** What a step decides, [R] and of candidates [R, K]. */
    static final class Drawn {
        final long[] canvas, argmax, drawn, likeliest;
        final float[] entropy, soft, logProbs;
        final boolean[] accepted;

        private Drawn(int rows, int hidden, int kept) {
            canvas = new long[rows];
            argmax = new long[rows];
            drawn = new long[rows];
            likeliest = new long[rows * kept];
            entropy = new float[rows];
            soft = new float[rows * hidden];
            logProbs = new float[rows * kept];
            accepted = new boolean[rows];
        }
    }

    /** {first id, end} of each tile; all but the last are multiples of a block. */
    private final int[][] tiles;
    private final int vocab;
    private final float cap;
    private final SamplerConfig policy;
    private final IdTable table;
    private final Rows workers;
    private final int topK;
    private final int kept;
    private float[][] weights = new float[0][];

    HostSampler(int[][] tiles, ModelConfig model, SamplerConfig policy, IdTable table, Rows workers) {
        this.tiles = tiles;
        this.vocab = model.vocabSize;
        this.cap = (float) model.finalLogitSoftcapping;
        this.policy = policy;
        this.table = table;
        this.workers = workers;
        topK = policy.soft.equals("exact") ? 0 : Integer.parseInt(policy.soft.substring("topk:".length()));
        kept = Math.min(Math.max(topK, CANDIDATES), vocab);
    }

    /** The likeliest id of each row; of equal ones the first. */
    long[] next(Products products, int rows) throws OrtException {
        long[] ids = new long[rows];
        float[] best = new float[rows];
        for (int tile = 0; tile < tiles.length; tile++) {
            FloatBuffer found = products.of(tile);
            int first = tiles[tile][0];
            int size = tiles[tile][1] - first;
            for (int row = 0; row < rows; row++) {
                for (int i = 0; i < size; i++) {
                    float logit = logit(found.get(row * size + i));
                    if (first + i == 0 || logit > best[row]) {
                        best[row] = logit;
                        ids[row] = first + i;
                    }
                }
            }
        }
        return ids;
    }

    /** One step. {@code words} [2][R], each in 0 … 2³²−1. */
    Drawn sample(Products products, int rows, long[][] words, float temperature) throws OrtException {
        TileFigures figures = new TileFigures(rows, tiles, kept);
        double[][] soft = topK > 0 ? null : new double[rows][table.hidden];
        if (weights.length != rows) {
            weights = new float[rows][tiles[0][1] - tiles[0][0]];
        }
        for (int tile = 0; tile < tiles.length; tile++) {
            walk(products.of(tile), tile, rows, temperature, figures, soft);
        }
        Drawn out = new Drawn(rows, table.hidden, kept);
        figures.join();
        for (int row = 0; row < rows; row++) {
            out.entropy[row] = figures.entropy(row);
            figures.candidates(row, out.likeliest, out.logProbs);
            out.argmax[row] = out.likeliest[row * kept];
            soft(row, soft == null ? null : soft[row], figures, out);
        }
        draw(products, rows, words[0], temperature, figures, out.drawn);
        accept(out.entropy, policy.entropyBound, out.accepted);
        for (int row = 0; row < rows; row++) {
            out.canvas[row] = out.accepted[row] ? out.drawn[row] : words[1][row] * vocab >>> 32;
        }
        return out;
    }

    /** A tile's figures, its weights relative to its own maximum, and its part of the mean embedding. */
    private void walk(
            FloatBuffer products, int tile, int rows, float temperature, TileFigures figures, double @Nullable [][] soft) {
        int first = tiles[tile][0];
        int size = tiles[tile][1] - first;
        double[] factors = new double[rows];
        workers.each(rows, row -> {
            float[] own = weights[row];
            for (int i = 0; i < size; i++) {
                own[i] = logit(products.get(row * size + i)) / temperature;
            }
            double before = figures.maximum(row);
            figures.add(tile, row, own, size);
            double after = figures.maximum(row);
            factors[row] = Math.exp(figures.maximum(tile, row) - after);
            if (soft != null && tile > 0 && after > before) {
                double shrink = Math.exp(before - after);
                for (int i = 0; i < soft[row].length; i++) {
                    soft[row][i] *= shrink;
                }
            }
        });
        if (soft != null) {
            table.addExpected(weights, first, size, factors, soft, workers);
        }
    }

    /** float32: 1 − 2 / (e^2x + 1) is tanh, and faster than the library's. */
    private float logit(float product) {
        double x = product / cap;
        return (float) (1 - 2 / (Math.exp(2 * x) + 1)) * cap;
    }

    /** The row's mean embedding [D]: of all ids, or of the likeliest. */
    private void soft(int row, double @Nullable [] sum, TileFigures figures, Drawn out) {
        int hidden = table.hidden;
        double[] mean = sum == null ? new double[hidden] : sum;
        double total = figures.total(row);
        if (sum == null) {
            float[] embedded = new float[hidden];
            total = 0;
            for (int k = 0; k < topK; k++) {
                double weight = Math.exp(out.logProbs[row * kept + k] - out.logProbs[row * kept]);
                total += weight;
                table.embed(out.likeliest[row * kept + k], embedded);
                for (int i = 0; i < hidden; i++) {
                    mean[i] += weight * embedded[i];
                }
            }
        }
        for (int i = 0; i < hidden; i++) {
            out.soft[row * hidden + i] = (float) (mean[i] / total);
        }
    }

    /** Ids by inverse CDF: the block of every draw, then the id in it. */
    private void draw(
            Products products, int rows, long[] words, float temperature, TileFigures figures, long[] drawn)
            throws OrtException {
        TileFigures.Draw[] draws = new TileFigures.Draw[rows];
        boolean[] wanted = new boolean[tiles.length];
        for (int row = 0; row < rows; row++) {
            draws[row] = figures.draw(row, (words[row] >>> 8) * 0x1p-24);
            wanted[draws[row].tile] = true;
        }
        for (int tile = 0; tile < tiles.length; tile++) {
            if (!wanted[tile]) {
                continue;
            }
            int size = tiles[tile][1] - tiles[tile][0];
            FloatBuffer found = tiles.length == 1 ? null : products.of(tile);
            for (int row = 0; row < rows; row++) {
                TileFigures.Draw draw = draws[row];
                if (draw.tile != tile) {
                    continue;
                }
                int from = draw.first - tiles[tile][0];
                int count = Math.min(BLOCK, size - from);
                double running = draw.before;
                int at = 0;
                for (int i = 0; i < count; i++) {
                    running += found == null ? weights[row][from + i]
                            : (float) Math.exp(logit(found.get(row * size + from + i)) / temperature - figures.maximum(row));
                    at += running <= draw.target ? 1 : 0;
                }
                drawn[row] = draw.first + Math.min(at, count - 1);
            }
        }
    }

    /** Positions whose predecessors in entropy order (ties: lower index first) sum to at most the bound. */
    static void accept(float[] entropy, double bound, boolean[] accepted) {
        for (int i = 0; i < entropy.length; i++) {
            double ahead = 0;
            for (int j = 0; j < entropy.length; j++) {
                if (entropy[j] < entropy[i] || entropy[j] == entropy[i] && j < i) {
                    ahead += entropy[j];
                }
            }
            accepted[i] = ahead <= bound;
        }
    }
}
