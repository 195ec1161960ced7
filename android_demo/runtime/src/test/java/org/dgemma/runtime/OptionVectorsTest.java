package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.junit.Test;

/** The shared vectors of options: they follow Java's reading of the options, and the exported bundle gives them. */
public class OptionVectorsTest {
    /** Nats; kernels sum in other orders. */
    private static final double ENTROPY = 2e-4;

    private static final List<String> IN_GRAPH =
            Arrays.asList("temperature", "max_steps", "entropy_bound", "schedule", "confidence", "stability");

    private final Map<String, Object> head;
    private final Manifest.SamplerConfig sampler;
    private final int n;
    private final int vocab;
    private final int pad;
    private final int[] stops;

    public OptionVectorsTest() throws Exception {
        head = Repository.json("tests/vectors/options.json");
        assertEquals(1, number(head.get("format")));
        n = number(head.get("canvas_length"));
        vocab = number(head.get("vocab_size"));
        pad = number(head.get("pad_token_id"));
        stops = TrajectoriesTest.ints(head.get("eos_token_ids"));
        sampler = Bundle.open(ToyBundle.write(manifest -> {
            manifest.put("sampler", head.get("sampler"));
            manifest.put("steps", ((Map<?, ?>) head.get("sampler")).get("steps"));
        })).manifest().sampler;
    }

    private static int number(Object value) {
        return ((Number) value).intValue();
    }

    static double[] reals(Object list) {
        return list == null ? new double[0]
                : ((List<?>) list).stream().mapToDouble(value -> ((Number) value).doubleValue()).toArray();
    }

    private static final class Run {
        final int[] promptIds;
        final long seed;
        final Map<String, Object> said;
        final int[] tokens;
        final int[] step;
        final double[] temperature;
        final double[] bound;
        final int[][] argmax;
        final double[][] entropy;
        final boolean[][] accepted;
        final int[][] canvasOut;

        Run(Map<?, ?> values) {
            promptIds = TrajectoriesTest.ints(values.get("prompt_ids"));
            seed = Long.parseUnsignedLong((String) values.get("seed"));
            said = new LinkedHashMap<>();
            ((Map<?, ?>) values.get("options")).forEach((name, value) -> said.put((String) name, value));
            tokens = TrajectoriesTest.ints(values.get("tokens"));
            step = TrajectoriesTest.ints(values.get("step"));
            temperature = reals(values.get("temperature"));
            bound = reals(values.get("entropy_bound"));
            argmax = TrajectoriesTest.rows(values.get("argmax"));
            canvasOut = TrajectoriesTest.rows(values.get("canvas_out"));
            entropy = ((List<?>) values.get("entropy")).stream().map(OptionVectorsTest::reals).toArray(double[][]::new);
            List<?> texts = (List<?>) values.get("accepted");
            accepted = new boolean[texts.size()][];
            for (int i = 0; i < accepted.length; i++) {
                String text = (String) texts.get(i);
                accepted[i] = new boolean[text.length()];
                for (int j = 0; j < text.length(); j++) {
                    accepted[i][j] = text.charAt(j) == '1';
                }
            }
        }

        SamplerOptions sampler() {
            SamplerOptions found = SamplerOptions.EXPORTED;
            for (Map.Entry<String, Object> each : said.entrySet()) {
                found = with(found, each.getKey(), each.getValue());
            }
            return found;
        }

        int least() {
            return number(said.getOrDefault("min_tokens", 0));
        }
    }

    static SamplerOptions with(SamplerOptions options, String name, Object value) {
        switch (name) {
            case "temperature":
                return options.temperature(reals(value)[0], reals(value)[1]);
            case "max_steps":
                return options.maxSteps(number(value));
            case "entropy_bound":
                return options.entropyBound(reals(value)[0], reals(value)[1]);
            case "schedule":
                return options.schedule(schedule(value));
            case "confidence":
                return options.confidence((Double) value);
            case "stability":
                return options.stability(number(value));
            case "top_k":
                return options.topK(number(value));
            case "top_p":
                return options.topP((Double) value);
            case "min_p":
                return options.minP((Double) value);
            case "logit_bias":
                for (Object each : (List<?>) value) {
                    Object bias = ((List<?>) each).get(1);
                    options = options.logitBias(number(((List<?>) each).get(0)),
                            bias instanceof Number ? ((Number) bias).doubleValue() : Double.NEGATIVE_INFINITY);
                }
                return options;
            case "ban":
                return options.ban(TrajectoriesTest.ints(value));
            default:
                assertEquals("min_tokens", name);
                return options;
        }
    }

    private static Schedule schedule(Object value) {
        if (value instanceof String) {
            return value.equals("cosine") ? Schedule.COSINE : Schedule.LINEAR;
        }
        Map<?, ?> table = (Map<?, ?>) value;
        return Schedule.table(reals(table.get("temperature")), reals(table.get("entropy_bound")));
    }

    private List<Run> runs() {
        List<Run> found = new ArrayList<>();
        ((List<?>) head.get("runs")).forEach(values -> found.add(new Run((Map<?, ?>) values)));
        return found;
    }

    /** The first rule that a run does not follow, null for none: what can be checked without a model. */
    private String brokenRule(Run run) {
        SamplerOptions options = run.sampler();
        float[] temperatures = options.temperatures(sampler);
        double[] bounds = options.bounds(sampler);
        int still = 0;
        for (int i = 0; i < run.step.length; i++) {
            if (run.step[i] != temperatures.length - i || (float) run.temperature[i] != temperatures[i]
                    || Math.abs((run.bound.length > 0 ? run.bound[i] : sampler.entropyBound) - bounds[i]) > 1e-12) {
                return "row " + i + ": schedule";
            }
            long[] words = new long[2 * n];
            Noise.words(Noise.streamKey(run.seed, 0, i + 1), words);
            double mean = 0;
            for (int k = 0; k < n; k++) {
                double ahead = 0;
                for (int j = 0; j < n; j++) {
                    boolean before = run.entropy[i][j] < run.entropy[i][k] || run.entropy[i][j] == run.entropy[i][k] && j < k;
                    ahead += before ? run.entropy[i][j] : 0;
                }
                boolean accepted = run.accepted[i][k];
                if (accepted != ahead <= bounds[i] && Math.abs(ahead - bounds[i]) > 1e-4) {
                    return "row " + i + ": accepted";
                }
                int token = run.argmax[i][k];
                int out = run.canvasOut[i][k];
                if (!accepted && out != Noise.token(words[n + k], vocab)) {
                    return "row " + i + ": renoise";
                }
                if (never(run, options, k, token) || accepted && never(run, options, k, out)) {
                    return "row " + i + ": banned";
                }
                if (temperatures[i] == (float) SamplerOptions.GREEDY && accepted && out != token) {
                    return "row " + i + ": greedy";
                }
                mean += run.entropy[i][k] / n;
            }
            still = i > 0 && Arrays.equals(run.argmax[i], run.argmax[i - 1]) ? still + 1 : 0;
            boolean stop = still >= options.stability(sampler) && mean < options.confidence(sampler);
            if ((i + 1 == run.step.length) != (stop || run.step[i] == 1)) {
                return "row " + i + ": stop";
            }
        }
        int[] last = run.argmax[run.argmax.length - 1];
        return Arrays.equals(run.tokens, Arrays.copyOf(last, Progress.visible(last, stops))) ? null : "tokens";
    }

    private boolean never(Run run, SamplerOptions options, int position, int id) {
        boolean ends = id == pad || Progress.contains(stops, id);
        return options.bias(id) == Double.NEGATIVE_INFINITY || position < run.least() && ends;
    }

    @Test
    public void runsFollowTheContract() {
        assertTrue(runs().size() >= 24);
        for (Run run : runs()) {
            assertNull(run.said.toString(), brokenRule(run));
        }
    }

    @Test
    public void aReaderThatForgetsAnOptionIsTold() {
        Set<String> found = new TreeSet<>();
        for (Run run : runs()) {
            for (String name : new ArrayList<>(run.said.keySet())) {
                Object value = run.said.remove(name);
                if (brokenRule(run) != null) {
                    found.add(name);
                }
                run.said.put(name, value);
            }
        }
        assertTrue(found.toString(), found.containsAll(IN_GRAPH));
    }

    private GenerateOptions options(Run run, Loop loop) {
        return GenerateOptions.DEFAULT.seed(run.seed).maxNewTokens(number(head.get("max_new_tokens"))).trace(true)
                .loop(loop).sampler(run.sampler()).minTokens(run.least());
    }

    private static void same(Run run, Result result) {
        Trajectory found = result.trajectory;
        assertNotNull(found);
        String what = run.said.toString();
        assertArrayEquals(what, run.tokens, result.tokens);
        assertArrayEquals(what, run.step, found.step);
        assertTrue(what, Arrays.deepEquals(run.argmax, found.argmax));
        assertTrue(what, Arrays.deepEquals(run.canvasOut, found.canvasOut));
        assertTrue(what, Arrays.deepEquals(run.accepted, found.accepted));
        assertEquals(what, run.bound.length > 0, found.entropyBound != null);
        for (int i = 0; i < run.step.length; i++) {
            assertEquals(what, (float) run.temperature[i], found.temperature[i], 0);
            if (found.entropyBound != null) {
                assertEquals(what, run.bound[i], found.entropyBound[i], 1e-12);
            }
            for (int j = 0; j < run.entropy[i].length; j++) {
                assertEquals(what, run.entropy[i][j], found.entropy[i][j], ENTROPY);
            }
        }
    }

    @Test
    public void theExportedBundleGivesThem() {
        SessionOptions load = SessionOptions.DEFAULT.engine("onnx").threads(1);
        int changed = 0;
        int fused = 0;
        try (Session session = Session.load(Repository.bundle("tiny"), load)) {
            for (Run run : runs()) {
                same(run, session.generate(run.promptIds, options(run, Loop.HOST), null));
                if (IN_GRAPH.containsAll(run.said.keySet())) {
                    same(run, session.generate(run.promptIds, options(run, Loop.GRAPH), null));
                    fused++;
                }
                GenerateOptions plain = options(run, Loop.HOST).sampler(SamplerOptions.EXPORTED).minTokens(0);
                Trajectory other = session.generate(run.promptIds, plain, null).trajectory;
                assertNotNull(other);
                changed += Arrays.deepEquals(run.canvasOut, other.canvasOut) ? 0 : 1;
            }
        }
        System.out.println("tiny: " + runs().size() + " shared runs under options equal, " + fused + " by both loops");
        assertTrue("control: options hardly change anything", changed > runs().size() / 2);
    }
}
