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
 * The shared trajectories: their rules hold in Java's arithmetic, a session over an engine that replays them gives them, and
 * so does one over the exported bundle.
 */
public class TrajectoriesTest {
    /** Nats; kernels sum in other orders. */
    private static final float ENTROPY = 2e-4f;

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
        final int canvases;
        final int positionForwards;
        final ComputePolicy compute;

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
            canvases = number(values, "canvases");
            positionForwards = number(values, "passes");
            compute = compute((Map<?, ?>) values.get("work"));
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

    private static ComputePolicy compute(Map<?, ?> asked) {
        if (asked == null) {
            return ComputePolicy.ALL;
        }
        ComputePolicy compute = ComputePolicy.ALL.earlyCommit((Double) asked.get("settle"))
                .recheck((Boolean) asked.get("repair"))
                .speculate((Boolean) asked.get("speculate"));
        return asked.get("canvas") == null ? compute : "auto".equals(asked.get("canvas")) ? compute.startWidthAuto()
                : compute.startWidth(number(asked, "canvas"));
    }

    static int[] ints(Object list) {
        return Arrays.stream(NoiseTest.longs(list)).mapToInt(Math::toIntExact).toArray();
    }

    static int[][] rows(Object list) {
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
        return runs("runs");
    }

    /** Those that leave positions out. */
    private List<Run> workRuns() throws Exception {
        return runs("work_runs");
    }

    private static List<Run> runs(String name) throws Exception {
        List<Run> found = new ArrayList<>();
        for (Object values : (List<?>) Repository.json("tests/vectors/trajectories.json").get(name)) {
            found.add(new Run(cast(values)));
        }
        return found;
    }

    private List<Run> allRuns() throws Exception {
        List<Run> all = new ArrayList<>(runs());
        all.addAll(workRuns());
        return all;
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
        if (run.positionForwards != n * (run.step.length + run.canvases - 1)) {
            return "passes";
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
    public void whatIsNotAskedForIsThatOfPython() {
        Map<?, ?> defaults = (Map<?, ?>) head.get("work_defaults");
        assertEquals(defaults.get("settle"), ComputePolicy.EARLY_COMMIT);
        assertEquals(defaults.get("draft_settle"), ComputePolicy.DRAFT_EARLY_COMMIT);
        assertEquals(number(defaults, "narrowest"), ComputePolicy.NARROWEST);
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
            if (graph.equals("check")) {
                check(feeds, outputs.get("next_tokens"));
            } else if (!graph.equals("encode")) {
                assertEquals(run.compute.isAll() ? "denoise" : "denoise_active", graph);
                step(feeds, outputs);
            }
        }

        private void step(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            int number = steps - run.step[row] + 1;
            long[] words = new long[2 * n];
            Noise.words(Noise.streamKey(run.seed, run.canvasIndex[row], number), words);
            int rows = (int) feeds.get("canvas").size(1);
            for (int i = 0; i < rows; i++) {
                int at = run.compute.isAll() ? i : (int) id(feeds.get("positions"), i);
                assertEquals(run.canvasIn[row][at], id(feeds.get("canvas"), i));
                assertEquals(words[at], id(feeds.get("words"), i));
                assertEquals(words[n + at], id(feeds.get("words"), rows + i));
                outputs.get("next_canvas").data.putLong(8 * i, run.canvasOut[row][at]);
                outputs.get("argmax").data.putLong(8 * i, run.argmax[row][at]);
                outputs.get("entropy").data.putFloat(4 * i, run.entropy[row][at]);
                outputs.get("accepted").data.put(i, (byte) (run.accepted[row][at] ? 1 : 0));
            }
            double r = (double) run.step[row] / steps;
            assertEquals((float) (value("t_min") + (value("t_max") - value("t_min")) * r),
                    feeds.get("temperature").data.getFloat(0), 0);
            row++;
        }

        /** Greedy decoding wrote the tokens; what it says after an id that is not among them is not recorded. */
        private void check(Map<String, Tensor> feeds, Tensor next) {
            int start = (int) number(feeds.get("start")) - run.promptIds.length;
            for (int i = 0; i < next.size(1); i++) {
                int following = start + (int) id(feeds.get("rows"), i) + 1;
                assertTrue("the prompt is asked about only where it ends", following >= 0);
                put(next, i, following < run.tokens.length ? run.tokens[following] : ToyBundle.END_OF_TURN);
            }
        }
    }

    private Bundle toy() throws Exception {
        return Bundle.open(ToyBundle.write(manifest -> {
            Map<String, Object> model = cast(manifest.get("model"));
            model.put("vocab_size", vocab);
            model.put("canvas_length", n);
            model.put("eos_token_ids", head.get("eos_token_ids"));
            manifest.put("canvas_length", n);
            manifest.put("context", 1024);
            manifest.put("steps", steps);
            manifest.put("sampler", head.get("sampler"));
        }));
    }

    private Result generate(Session session, Run run, ComputePolicy compute) {
        GenerateOptions options = GenerateOptions.DEFAULT.seed(run.seed).maxNewTokens(most).trace(true).compute(compute);
        return session.generate(run.promptIds, options, null);
    }

    /** What a result has otherwise than a run, null for nothing. */
    private static String difference(Run run, Result result) {
        Trajectory t = result.trajectory;
        return !Arrays.equals(run.tokens, result.tokens) ? "tokens"
                : run.canvases != result.canvases || run.step.length != result.steps ? "canvases or steps"
                : run.positionForwards != result.positionForwards ? "passes"
                : !run.stopReason.equals(result.stopReason.word()) ? "stop reason"
                : !Arrays.equals(run.step, t.step) || !Arrays.equals(run.canvasIndex, t.canvasIndex) ? "step"
                : !Arrays.deepEquals(run.canvasIn, t.canvasIn) ? "canvas_in"
                : !Arrays.deepEquals(run.argmax, t.argmax) ? "argmax"
                : !Arrays.deepEquals(run.accepted, t.accepted) ? "accepted"
                : !Arrays.deepEquals(run.canvasOut, t.canvasOut) ? "canvas_out" : null;
    }

    private static float entropyError(Run run, Trajectory t) {
        float worst = 0;
        for (int i = 0; i < t.entropy.length; i++) {
            for (int j = 0; j < t.entropy[i].length; j++) {
                worst = Math.max(worst, Math.abs(run.entropy[i][j] - t.entropy[i][j]));
            }
        }
        return worst;
    }

    @Test
    public void aSessionReplaysThem() throws Exception {
        Bundle bundle = toy();
        assertEquals(12, workRuns().size());
        for (Run run : allRuns()) {
            Result result = generate(new Session(new Replay(bundle, run), null), run, run.compute);
            assertNull(difference(run, result));
            assertEquals(0, entropyError(run, result.trajectory), 0);
        }
    }

    @Test
    public void otherWorkIsNotWhatWasRecorded() throws Exception {
        Bundle bundle = toy();
        for (Run run : workRuns()) {
            Session session = new Session(new Replay(bundle, run), null);
            try {
                assertNotNull(difference(run, generate(session, run, run.compute.earlyCommit(1e-9))));
            } catch (AssertionError | RuntimeException fed) { // it ran what was not recorded
                assertNotNull(fed);
            }
        }
    }

    @Test
    public void theExportedBundleGivesThem() throws Exception {
        SessionOptions options = SessionOptions.DEFAULT.engine("onnx").threads(1);
        try (Session session = Session.load(Repository.bundle("tiny"), options)) {
            float worst = 0;
            for (Run run : allRuns()) {
                Result result = generate(session, run, run.compute);
                assertNull(difference(run, result));
                worst = Math.max(worst, entropyError(run, result.trajectory));
                ComputePolicy other = run.compute.isAll() ? ComputePolicy.ALL.earlyCommit(2) : ComputePolicy.ALL;
                assertNotNull("control: another policy", difference(run, generate(session, run, other)));
                if (run.compute.speculate) {
                    Result greedy = session.decodeGreedy(run.promptIds, GenerateOptions.DEFAULT.maxNewTokens(most));
                    assertArrayEquals("the text of greedy decoding", greedy.tokens, result.tokens);
                }
            }
            System.out.println("tiny: " + allRuns().size() + " shared trajectories equal, entropies within " + worst + " nats");
            assertTrue("entropy error " + worst, worst <= ENTROPY);
        }
    }
}
