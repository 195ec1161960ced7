package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** A golden trajectory of a bundle: what its exporter's Python runtime generated. */
final class Golden {
    long seed;
    int[] promptIds;
    int[] canvasIndex;
    int[] step;
    float[] temperature;
    int[][] canvasIn;
    int[][] argmax;
    float[][] entropy;
    boolean[][] accepted;
    int[][] canvasOut;
    int[] tokens;

    /** All of a bundle. */
    static List<Golden> of(File bundle) throws Exception {
        Npz npz = Npz.read(new File(bundle, "golden.npz"));
        List<Golden> found = new ArrayList<>();
        for (int i = 0; npz.has("artifact_" + i + "_tokens"); i++) {
            String prefix = "artifact_" + i + "_";
            Golden golden = new Golden();
            golden.seed = npz.longs("seeds")[i];
            golden.promptIds = npz.ints(prefix + "prompt_ids");
            golden.canvasIndex = npz.ints(prefix + "canvas_index");
            golden.step = npz.ints(prefix + "step");
            golden.temperature = npz.floats(prefix + "temperature");
            golden.canvasIn = npz.intRows(prefix + "canvas_in");
            golden.argmax = npz.intRows(prefix + "argmax");
            golden.entropy = npz.floatRows(prefix + "entropy");
            golden.accepted = npz.boolRows(prefix + "accepted");
            golden.canvasOut = npz.intRows(prefix + "canvas_out");
            golden.tokens = npz.ints(prefix + "tokens");
            found.add(golden);
        }
        assertFalse(bundle + " has golden trajectories", found.isEmpty());
        return found;
    }

    /** As verify/golden.py asks: 128 tokens, or as many whole canvases as the context has room for. */
    private int most(Manifest manifest) {
        int n = manifest.canvasLength;
        return Math.min(128, (manifest.context - promptIds.length) / n * n);
    }

    Trajectory generate(Session session, Loop loop) {
        return generate(session, loop, seed);
    }

    Trajectory generate(Session session, Loop loop, long seed) {
        GenerateOptions options = GenerateOptions.DEFAULT
                .seed(seed).loop(loop).trace(true)
                .maxNewTokens(most(session.bundle().manifest()));
        Trajectory trajectory = session.generate(promptIds, options, null).trajectory;
        assertNotNull(trajectory);
        return trajectory;
    }

    /** The first array that differs, null for none. */
    String difference(Trajectory t) {
        if (!Arrays.equals(promptIds, t.promptIds)) {
            return "prompt_ids";
        }
        if (!Arrays.equals(canvasIndex, t.canvasIndex) || !Arrays.equals(step, t.step)) {
            return "step";
        }
        if (!Arrays.equals(temperature, t.temperature)) {
            return "temperature";
        }
        if (!Arrays.deepEquals(canvasIn, t.canvasIn) || !Arrays.deepEquals(canvasOut, t.canvasOut)) {
            return "canvas";
        }
        if (!Arrays.deepEquals(argmax, t.argmax) || !Arrays.deepEquals(accepted, t.accepted)) {
            return "argmax or accepted";
        }
        return Arrays.equals(tokens, t.tokens) ? null : "tokens";
    }

    /** The largest, in nats. */
    float entropyError(Trajectory t) {
        float worst = 0;
        for (int i = 0; i < t.entropy.length; i++) {
            for (int j = 0; j < t.entropy[i].length; j++) {
                worst = Math.max(worst, Math.abs(entropy[i][j] - t.entropy[i][j]));
            }
        }
        return worst;
    }

    /** Counts the equal trajectories and answers of a quantized bundle; both loops must agree, and most answers be equal. */
    static void count(String name) throws Exception {
        if (!Repository.isMade(name)) {
            System.out.println(name + " was not made, so it is not compared");
            return;
        }
        File bundle = Repository.bundle(name);
        int equal = 0;
        int sameTokens = 0;
        try (Session session = Session.load(bundle, SessionOptions.DEFAULT.engine("onnx"))) {
            for (Golden golden : Golden.of(bundle)) {
                Trajectory host = golden.generate(session, Loop.HOST);
                Trajectory graph = golden.generate(session, Loop.GRAPH);
                assertArrayEquals("both loops", host.tokens, graph.tokens);
                assertTrue(Arrays.deepEquals(host.canvasOut, graph.canvasOut));
                equal += golden.difference(host) == null ? 1 : 0;
                sameTokens += Arrays.equals(golden.tokens, host.tokens) ? 1 : 0;
            }
        }
        System.out.println(name + ": " + equal + " of 5 golden trajectories equal, " + sameTokens + " of 5 answers");
        assertTrue(name + " has hardly a golden answer in common", sameTokens >= 3);
    }
}
