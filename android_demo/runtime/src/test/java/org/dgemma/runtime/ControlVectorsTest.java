package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.dgemma.DgemmaException;
import org.junit.Test;

/** The shared vectors of control: what the Python runtime says under options that say something of the answer. */
public class ControlVectorsTest {
    private static final SessionOptions LOAD = SessionOptions.DEFAULT.engine("onnx").threads(1);
    /** Kernels sum in other orders. */
    private static final double LOGPROB = 2e-4;

    private final Map<String, Object> head;

    public ControlVectorsTest() throws Exception {
        head = Repository.json("tests/vectors/control.json");
        assertEquals(1, number(head, "format"));
    }

    private static int number(Map<?, ?> values, String name) {
        return ((Number) values.get(name)).intValue();
    }

    private List<Map<?, ?>> runs() {
        return entries(head, "runs");
    }

    private static List<Map<?, ?>> entries(Map<?, ?> values, String name) {
        List<Map<?, ?>> found = new ArrayList<>();
        ((List<?>) values.get(name)).forEach(each -> found.add((Map<?, ?>) each));
        return found;
    }

    static GenerateOptions options(Map<?, ?> run) {
        Map<?, ?> said = (Map<?, ?>) run.get("options");
        GenerateOptions options = GenerateOptions.DEFAULT.maxNewTokens(128).trace(true)
                .seed(Long.parseUnsignedLong((String) run.get("seed")));
        for (Map.Entry<?, ?> each : said.entrySet()) {
            options = with(options, said, (String) each.getKey(), each.getValue());
        }
        return options;
    }

    private static GenerateOptions with(GenerateOptions options, Map<?, ?> said, String name, Object value) {
        switch (name) {
            case "template":
                return options.template((String) value);
            case "draft":
                return said.get("strength") == null ? options.draft((String) value)
                        : options.draft((String) value, (Double) said.get("strength"));
            case "strength":
                return options;
            case "logprobs":
                return options.logprobs(number(said, name));
            case "min_tokens":
                return options.minTokens(number(said, name));
            case "adaptive":
                return options.adaptive((Boolean) value);
            case "early_commit":
                return options.compute(options.compute.earlyCommit((Double) value));
            case "recheck":
                return options.compute(options.compute.recheck((Boolean) value));
            case "fallback":
                return options.fallback(value.equals("autoregressive"));
            case "loop":
                return options.loop(value.equals("graph") ? Loop.GRAPH : Loop.HOST);
            case "stop":
                return options.stop(value instanceof List ? ((List<?>) value).toArray(new String[0]) : new String[] {(String) value});
            case "ban":
                return options.ban((String) value);
            case "regex":
                return options.structure(Structure.regex((String) value));
            case "json_schema":
                return options.structure(schema(value));
            case "choices":
                return options.structure(Structure.choices(((List<?>) value).toArray(new String[0])));
            case "choice_probabilities":
                return options.choiceProbabilities((Boolean) value);
            case "start_width":
                return options.compute(options.compute.startWidthAuto());
            case "guidance":
                return options.guidance(guidance(said));
            case "negative":
            case "guidance_steps":
                return options;
            case "decoder":
                return options.trace(false).decoder(Decoder.AUTOREGRESSIVE);
            case "max_new_tokens":
                return options.maxNewTokens(number(said, name));
            case "continue_":
                return options.continued((Boolean) value);
            case "raw":
                return options.raw((Boolean) value);
            case "think":
                return options.think((Boolean) value);
            default:
                return options.sampler(OptionVectorsTest.with(options.sampler, name, value));
        }
    }

    private static Guidance guidance(Map<?, ?> said) {
        Guidance found = Guidance.of((Double) said.get("guidance"));
        Object negative = said.get("negative");
        if (negative != null) {
            found = negative instanceof String ? found.negative((String) negative)
                    : found.negative(TrajectoriesTest.ints(negative));
        }
        String steps = (String) said.get("guidance_steps");
        if (steps == null) {
            return found;
        }
        String[] ends = steps.split(":");
        return found.steps(Integer.parseInt(ends[0]), Integer.parseInt(ends[ends.length - 1]));
    }

    @SuppressWarnings("unchecked")
    private static Structure schema(Object value) {
        return Structure.jsonSchema((Map<String, Object>) value);
    }

    static Result generate(Session session, Map<?, ?> run, GenerateOptions options) {
        Object prompt = run.get("prompt");
        if (prompt instanceof String || prompt == null) {
            return session.generate((String) prompt, options, null);
        }
        return ((List<?>) prompt).get(0) instanceof Map ? session.generate(Messages.read(prompt), options, null)
                : session.generate(TrajectoriesTest.ints(prompt), options, null);
    }

    static void sameAnswer(String what, Map<?, ?> run, Result result) {
        assertEquals(what, run.get("text"), result.text);
        assertArrayEquals(what, TrajectoriesTest.ints(run.get("tokens")), result.tokens);
        assertEquals(what, run.get("holes"), result.holes);
        assertEquals(what, number(run, "steps"), result.steps);
        assertEquals(what, number(run, "canvases"), result.canvases);
        assertEquals(what, number(run, "position_forwards"), result.positionForwards);
        assertEquals(what, run.get("stop_reason"), result.stopReason.word());
        assertEquals(what, run.get("loop"), result.loop);
        Map<?, ?> probabilities = (Map<?, ?>) run.get("choice_probabilities");
        assertEquals(what, probabilities == null, result.choiceProbabilities == null);
        if (probabilities != null && result.choiceProbabilities != null) {
            assertEquals(what, new ArrayList<>(probabilities.keySet()), new ArrayList<>(result.choiceProbabilities.keySet()));
            probabilities.forEach((choice, value) ->
                    assertEquals(what, (Double) value, result.choiceProbabilities.get(choice), LOGPROB));
        }
    }

    static void same(Map<?, ?> run, Result result, Session session) {
        String what = run.get("options").toString();
        sameAnswer(what, run, result);
        assertArrayEquals(what, TrajectoriesTest.ints(run.get("prefix")), session.prefixIds());
        boolean fellBack = result.loop.equals("decode");
        assertEquals(what, fellBack, result.warnings.toString().contains("; this answer is autoregressive"));
        double[] logprobs = result.logprobs.stream().mapToDouble(one -> one.logprob).toArray();
        assertArrayEquals(what, OptionVectorsTest.reals(run.get("logprobs")), logprobs, LOGPROB);
        assertArrayEquals(what, OptionVectorsTest.reals(run.get("entropies")), doubles(result.entropies), LOGPROB);
        Trajectory trajectory = result.trajectory;
        assertNotNull(trajectory);
        assertArrayEquals(what, TrajectoriesTest.ints(run.get("canvas_index")), trajectory.canvasIndex);
        assertArrayEquals(what, TrajectoriesTest.ints(run.get("step")), trajectory.step);
        int[][] begun = TrajectoriesTest.rows(run.get("begun"));
        for (int i = 0; i < trajectory.step.length; i++) {
            boolean first = i == 0 || trajectory.canvasIndex[i] != trajectory.canvasIndex[i - 1];
            assertArrayEquals(what, first ? begun[trajectory.canvasIndex[i]] : trajectory.canvasOut[i - 1], trajectory.canvasIn[i]);
            assertEquals(what, ((List<?>) run.get("accepted")).get(i), bits(trajectory.accepted[i]));
        }
        assertTrue(what, Arrays.deepEquals(TrajectoriesTest.rows(run.get("argmax")), trajectory.argmax));
        assertTrue(what, Arrays.deepEquals(TrajectoriesTest.rows(run.get("canvas_out")), trajectory.canvasOut));
    }

    private static double[] doubles(float[] values) {
        double[] found = new double[values.length];
        for (int i = 0; i < found.length; i++) {
            found[i] = values[i];
        }
        return found;
    }

    static String bits(boolean[] values) {
        StringBuilder text = new StringBuilder();
        for (boolean value : values) {
            text.append(value ? '1' : '0');
        }
        return text.toString();
    }

    @Test
    public void theExportedBundleGivesThem() {
        int changed = 0;
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Map<?, ?> run : runs()) {
                GenerateOptions options = options(run);
                Result result = generate(session, run, options);
                same(run, result, session);
                Result other = generate(session, run, options.seed(options.seed + 1));
                assertNotNull(result.trajectory);
                assertNotNull(other.trajectory);
                changed += Arrays.deepEquals(result.trajectory.canvasOut, other.trajectory.canvasOut) ? 0 : 1;
            }
        }
        System.out.println("tiny: " + runs().size() + " shared runs under control equal");
        assertTrue("control: another seed hardly changes anything", changed > runs().size() / 2);
    }

    /** Token by token: stop strings, conversations, and a prefix that is there. */
    @Test
    public void theExportedBundleDecodesThem() {
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Map<?, ?> run : entries(head, "decoded")) {
                GenerateOptions options = GenerateOptions.DEFAULT.maxNewTokens(128).decoder(Decoder.AUTOREGRESSIVE);
                Map<?, ?> said = (Map<?, ?>) run.get("options");
                for (Map.Entry<?, ?> each : said.entrySet()) {
                    options = with(options, said, (String) each.getKey(), each.getValue());
                }
                Result result = generate(session, run, options);
                sameAnswer(said.toString(), run, result);
                assertArrayEquals(said.toString(), TrajectoriesTest.ints(run.get("prefix")), session.prefixIds());
                assertEquals(0, result.entropies.length);
            }
        }
    }

    /** What is refused before work, in Python's words, but for how options are spelled. */
    @Test
    public void theExportedBundleRefuses() {
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Object each : (List<?>) head.get("refused")) {
                List<?> held = (List<?>) each;
                Map<String, Object> run = new HashMap<>();
                run.put("prompt", held.get(0));
                run.put("options", held.get(1));
                run.put("seed", "0");
                DgemmaException error =
                        assertThrows(held.toString(), DgemmaException.class, () -> generate(session, run, options(run)));
                Matcher snake = Pattern.compile("_([a-z])").matcher((String) held.get(2));
                StringBuffer camel = new StringBuffer();
                while (snake.find()) {
                    snake.appendReplacement(camel, snake.group(1).toUpperCase(Locale.ROOT));
                }
                assertEquals(snake.appendTail(camel).toString(), error.getMessage());
                assertEquals("before the prefix has changed", 0, session.prefixIds().length);
            }
        }
    }

    @Test
    public void theExportedBundleGivesTheSamples() {
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Map<?, ?> held : entries(head, "samples")) {
                String what = held.get("options").toString();
                Object prompt = held.get("prompt");
                int n = number(held, "n");
                Samples samples = prompt instanceof List
                        ? session.sample(TrajectoriesTest.ints(prompt), options(held).trace(false), n)
                        : session.sample((String) prompt, options(held).trace(false), n);
                List<Map<?, ?>> results = entries(held, "results");
                assertEquals(what, n, samples.results.size());
                for (int i = 0; i < n; i++) {
                    sameAnswer(what + " " + i, results.get(i), samples.results.get(i));
                    assertEquals(i > 0, samples.results.get(i).prefillPositionForwards == 0);
                }
                List<Object> votes = new ArrayList<>();
                samples.votes().forEach((answer, count) -> votes.add(Arrays.asList(answer, count)));
                assertEquals(what, held.get("votes").toString(), votes.toString());
                assertEquals(what, number(held, "best"), samples.results.indexOf(samples.best()));
                assertEquals(what, (Double) held.get("agreement"), samples.agreement(), 0);
                assertArrayEquals(what, TrajectoriesTest.ints(held.get("prefix")), session.prefixIds());
            }
        }
    }

    /** Its kernels round otherwise in other versions, so the holes may differ; the text around them may not. */
    @Test
    public void theShippedBundleKeepsWhatIsGiven() {
        int templates = 0;
        int equal = 0;
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            for (Map<?, ?> run : runs()) {
                Result result = generate(session, run, options(run));
                equal += run.get("text").equals(result.text) ? 1 : 0;
                String template = (String) ((Map<?, ?>) run.get("options")).get("template");
                if (template != null) {
                    StringBuilder form = new StringBuilder();
                    for (Object piece : Template.read(template)) {
                        form.append(piece instanceof String ? Pattern.quote((String) piece) : "(.*)");
                    }
                    assertTrue(template + ": " + result.text, Pattern.matches(form.toString(), result.text));
                    templates++;
                }
            }
        }
        System.out.println("tiny-w8: " + equal + " of " + runs().size() + " texts under control are those of the float bundle");
        assertFalse(templates < 5);
        assertTrue("hardly a text in common", equal > runs().size() / 2);
    }
}
