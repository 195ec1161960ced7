package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.engine.Tensor;
import org.junit.Test;

/**
 * The shared trajectories: their rules hold in Java's arithmetic, and a session over an engine that replays them gives
 * them.
 */
public class TrajectoriesTest {
    private static final class Run {
        final long seed;
        final int[] promptIds;
        final int[] canvasIndex;
        final int[] step;
        final int[][] canvasIn;
        final int[][] argmax;
        final float[][] entropy;
        final boolean[][] accepted;
        final int[][] canvasOut;
        final int[] tokens;
        final String stopReason;

        Run(Map<String, Object> values) {
            seed = Long.parseUnsignedLong(values.get("seed").toString());
            promptIds = ints(values.get("prompt_ids"));
            canvasIndex = ints(values.get("canvas_index"));
            step = ints(values.get("step"));
            canvasIn = rows(values.get("canvas_in"));
            argmax = rows(values.get("argmax"));
            canvasOut = rows(values.get("canvas_out"));
            tokens = ints(values.get("tokens"));
            stopReason = (String) values.get("stop_reason");
            List<?> entropies = (List<?>) values.get("entropy");
            List<?> accepts = (List<?>) values.get("accepted");
            entropy = new float[step.length][];
            accepted = new boolean[step.length][];
            for (int i = 0; i < step.length; i++) {
                entropy[i] = NaiveSampler.floats(entropies.get(i));
                accepted[i] = SamplingTest.booleans(accepts.get(i));
            }
        }
    }

    private static int[] ints(Object list) {
        return Arrays.stream(NoiseTest.longs(list)).mapToInt(Math::toIntExact).toArray();
    }

    private static int[][] rows(Object list) {
        return ((List<?>) list).stream().map(TrajectoriesTest::ints).toArray(int[][]::new);
    }

    private final Map<String, Object> head;
    private final int n;
    private final int vocab;
    private final int steps;
    private final int most;
    private final int[] stops;

    public TrajectoriesTest() throws Exception {
        head = Repository.json("tests/vectors/trajectories.json");
        n = number(head, "canvas_length");
        vocab = number(head, "vocab_size");
        steps = number(sampler(), "steps");
        most = number(head, "max_new_tokens");
        stops = ints(head.get("eos_token_ids"));
    }

    private static int number(Map<?, ?> values, String name) {
        return ((Number) values.get(name)).intValue();
    }

    private Map<?, ?> sampler() {
        return (Map<?, ?>) head.get("sampler");
    }

    private double value(String name) {
        return ((Number) sampler().get(name)).doubleValue();
    }

    private List<Run> runs() throws Exception {
        List<Run> found = new ArrayList<>();
        for (Object values : (List<?>) Repository.json("tests/vectors/trajectories.json").get("runs")) {
            found.add(new Run(cast(values)));
        }
        return found;
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> cast(Object values) {
        return (Map<String, Object>) values;
    }

    private int[] noise(long seed, int canvas, int stream, int from) {
        long[] words = new long[from + n];
        Noise.words(Noise.streamKey(seed, canvas, stream), words);
        int[] tokens = new int[n];
        for (int i = 0; i < n; i++) {
            tokens[i] = (int) Noise.token(words[from + i], vocab);
        }
        return tokens;
    }

    /** The first rule of the contract that a run does not follow, null for none. */
    private String brokenRule(Run run) {
        int still = 0;
        List<Integer> committed = new ArrayList<>();
        for (int i = 0; i < run.step.length; i++) {
            int canvas = run.canvasIndex[i];
            boolean first = run.step[i] == steps;
            int[] before = first ? noise(run.seed, canvas, 0, 0) : run.canvasOut[i - 1];
            if (!Arrays.equals(before, run.canvasIn[i])) {
                return "row " + i + ": canvas_in";
            }
            if (!Arrays.equals(NaiveSampler.accept(run.entropy[i], value("entropy_bound")), run.accepted[i])) {
                return "row " + i + ": accepted";
            }
            int[] renoised = noise(run.seed, canvas, steps - run.step[i] + 1, n);
            for (int j = 0; j < n; j++) {
                if (!run.accepted[i][j] && run.canvasOut[i][j] != renoised[j]) {
                    return "row " + i + ": renoise";
                }
            }
            still = !first && Arrays.equals(run.argmax[i], run.argmax[i - 1]) ? still + 1 : 0;
            double mean = 0;
            for (float entropy : run.entropy[i]) {
                mean += entropy / (double) n;
            }
            boolean stop = still >= value("stability_threshold") && mean < value("confidence_threshold");
            boolean last = i + 1 == run.step.length || run.canvasIndex[i + 1] != canvas;
            if (last != (stop || run.step[i] == 1)) {
                return "row " + i + ": stop";
            }
            for (int j = 0; last && j < n; j++) {
                committed.add(run.argmax[i][j]);
            }
        }
        int[] all = committed.stream().limit(most).mapToInt(Integer::intValue).toArray();
        return Arrays.equals(run.tokens, Arrays.copyOf(all, Progress.visible(all, stops))) ? null : "tokens";
    }

    @Test
    public void runsFollowTheContract() throws Exception {
        assertEquals(4, runs().size());
        for (Run run : runs()) {
            assertNull(brokenRule(run));
        }
    }

    @Test
    public void oneChangedValueIsNoticed() throws Exception {
        for (int what = 0; what < 6; what++) {
            Run run = runs().get(0);
            int last = run.step.length - 1;
            int rejected = 0;
            while (run.accepted[0][rejected]) {
                rejected++;
            }
            switch (what) {
                case 0:
                    run.canvasIn[0][0] ^= 1;
                    break;
                case 1:
                    run.canvasOut[0][rejected] ^= 1;
                    break;
                case 2:
                    run.accepted[0][rejected] = true;
                    break;
                case 3:
                    run.argmax[last][0] ^= 1;
                    break;
                case 4:
                    run.tokens[0]++;
                    break;
                default:
                    Arrays.fill(run.entropy[last], 1);
            }
            assertNotNull("change " + what, brokenRule(run));
        }
    }

    /** Gives the recorded steps, and fails when it is not fed what they were recorded from. */
    private final class Replay extends ToyEngine {
        private final Run run;
        private int row;

        Replay(Bundle bundle, Run run) {
            super(bundle);
            this.run = run;
        }

        @Override
        public void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            if (!graph.equals("denoise")) {
                return;
            }
            int number = steps - run.step[row] + 1;
            long[] words = new long[2 * n];
            Noise.words(Noise.streamKey(run.seed, run.canvasIndex[row], number), words);
            for (int i = 0; i < n; i++) {
                assertEquals(run.canvasIn[row][i], id(feeds.get("canvas"), i));
                assertEquals(words[i], id(feeds.get("words"), i));
                assertEquals(words[n + i], id(feeds.get("words"), n + i));
                outputs.get("next_canvas").data.putLong(8 * i, run.canvasOut[row][i]);
                outputs.get("argmax").data.putLong(8 * i, run.argmax[row][i]);
                outputs.get("entropy").data.putFloat(4 * i, run.entropy[row][i]);
                outputs.get("accepted").data.put(i, (byte) (run.accepted[row][i] ? 1 : 0));
            }
            double r = (double) run.step[row] / steps;
            assertEquals((float) (value("t_min") + (value("t_max") - value("t_min")) * r),
                    feeds.get("temperature").data.getFloat(0), 0);
            row++;
        }
    }

    @Test
    public void aSessionReplaysThem() throws Exception {
        Bundle bundle = Bundle.open(ToyBundle.write(manifest -> {
            Map<String, Object> model = cast(manifest.get("model"));
            model.put("vocab_size", vocab);
            model.put("canvas_length", n);
            model.put("eos_token_ids", head.get("eos_token_ids"));
            manifest.put("canvas_length", n);
            manifest.put("context", 1024);
            manifest.put("steps", steps);
            manifest.put("sampler", head.get("sampler"));
        }));
        for (Run run : runs()) {
            Session session = new Session(new Replay(bundle, run), null);
            GenerateOptions options = GenerateOptions.DEFAULT.seed(run.seed).maxNewTokens(most).trace(true);
            Result result = session.generate(run.promptIds, options, null);
            assertArrayEquals(run.tokens, result.tokens);
            assertEquals(run.step.length, result.steps);
            assertEquals(run.stopReason, result.stopReason.word());
            assertArrayEquals(run.step, result.trajectory.step);
            assertTrue(Arrays.deepEquals(run.argmax, result.trajectory.argmax));
        }
    }
}
