package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Pattern;
import org.dgemma.format.Json;
import org.junit.Test;

/** Answers of a language, of the shipped bundle: every one is valid, whatever the options and the model's wishes. */
public class StructuredSessionTest {
    private static final SessionOptions LOAD = SessionOptions.DEFAULT.engine("onnx").threads(1);
    private static final String PROMPT = "Make a sentence: name Nina, item ladder, colour yellow, city Paris.";
    private static final String[] REGEXES = {
        "a{3,5}é", "(yes|no)", "\\{\"name\": \"[^\"]*\", \"age\": [0-9]+\\}", "a{33}", ".*", "(a{0,150}b)?", "[0-9]{16}|[a-z]{17}",
        "[^a-z]{3}😀?", "(?:[A-Z][a-z]+ ){2,30}end"};

    private static List<GenerateOptions> ways() {
        GenerateOptions plain = GenerateOptions.DEFAULT.maxNewTokens(90);
        SamplerOptions sampler = SamplerOptions.EXPORTED;
        return Arrays.asList(
                plain, plain.adaptive(false).sampler(sampler.maxSteps(2)), plain.sampler(sampler.maxSteps(1)),
                plain.sampler(sampler.temperature(0)), plain.sampler(sampler.temperature(9).maxSteps(4)),
                plain.sampler(sampler.entropyBound(0.01)), plain.compute(ComputePolicy.ALL.earlyCommit(0.01)),
                plain.compute(ComputePolicy.ALL.earlyCommit(0.1).recheck(true)), plain.draft("hello there", 0.3));
    }

    @Test
    public void answersAreOfTheirLanguage() {
        int outside = 0;
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            for (String regex : REGEXES) {
                for (GenerateOptions options : ways()) {
                    GenerateOptions structured = options.seed(outside).structure(Structure.regex(regex));
                    Result result = session.generate(PROMPT, structured, null);
                    assertTrue(regex + ": " + result.text, Pattern.compile(regex, Pattern.DOTALL).matcher(result.text).matches());
                    assertTrue(result.tokens.length <= 90 && result.stopReason != StopReason.CANCELLED);
                    assertTrue(result.warnings.toString(), result.warnings.isEmpty() || result.text.isEmpty());
                }
                String free = session.generate(PROMPT, ways().get(0), null).text;
                outside += Pattern.compile(regex, Pattern.DOTALL).matcher(free).matches() ? 0 : 1;
            }
        }
        assertEquals("control: without structure, the model says something else", REGEXES.length - 1, outside);
    }

    @Test
    public void schemasAndChoices() {
        String schema = "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"enum\": [\"x\", \"y\"]}}, "
                + "\"required\": [\"a\", \"b\"]}";
        Structure structure = Structure.jsonSchema(schema);
        assertEquals(structure, Structure.jsonSchema(schema.replace(", ", ",")));
        assertEquals(structure.hashCode(), Structure.jsonSchema(schema).hashCode());
        assertNotEquals(structure, Structure.regex(schema));
        Structure choices = Structure.choices("yes", "no", "may|be");
        assertEquals("choices 'yes|no|may|be'", choices.toString());
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            for (int seed = 0; seed < 3; seed++) {
                GenerateOptions options = GenerateOptions.DEFAULT.seed(seed).sampler(SamplerOptions.EXPORTED.temperature(5, 3));
                String text = session.generate(PROMPT, options.structure(structure), null).text;
                Map<?, ?> found = (Map<?, ?>) Json.parse(text);
                assertNotNull(found);
                assertTrue(found.get("a") instanceof Number && Arrays.asList("x", "y").contains(found.get("b")));
                Result chosen = session.generate(PROMPT, options.structure(choices).choiceProbabilities(true), null);
                assertTrue(choices.choices.contains(chosen.text));
                assertNotNull(chosen.choiceProbabilities);
                assertEquals(1, chosen.choiceProbabilities.values().stream().mapToDouble(p -> p).sum(), 1e-9);
            }
            Samples samples = session.sample(PROMPT, GenerateOptions.DEFAULT.structure(choices), 3);
            assertTrue(choices.choices.containsAll(samples.votes().keySet()));
        }
    }

    @Test
    public void aCancelledAnswerIsABeginning() {
        AtomicReference<Session> here = new AtomicReference<>();
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            here.set(session);
            GenerateOptions options = GenerateOptions.DEFAULT.structure(Structure.regex("[ab]{90}"));
            Result result = session.generate(PROMPT, options, event -> {
                if (event.canvasIndex == 1) {
                    here.get().cancel();
                }
            });
            assertEquals(StopReason.CANCELLED, result.stopReason);
            assertEquals(64, result.text.length());
            assertEquals(Collections.singletonList("the answer was cancelled, so it is only the beginning of a text that the regex "
                    + "allows"), result.warnings);
        }
    }

    @Test
    public void compilingHearsACancel() throws Exception {
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            session.generate(PROMPT, GenerateOptions.DEFAULT, null);
            int[] before = session.prefixIds();
            AtomicBoolean done = new AtomicBoolean();
            Thread other = new Thread(() -> {
                while (!done.get()) {
                    session.cancel();
                    Thread.yield();
                }
            });
            other.start();
            try {
                GenerateOptions options = GenerateOptions.DEFAULT.structure(Structure.regex("(a|b)*a(a|b){13}"));
                Result result = session.generate(PROMPT, options, null);
                assertEquals(StopReason.CANCELLED, result.stopReason);
                assertEquals(0, result.steps);
            } finally {
                done.set(true);
                other.join();
            }
            assertArrayEquals("the prefix is as it was", before, session.prefixIds());
        }
    }

    @Test
    public void whatIsNoStructureIsRefused() {
        assertThrows(UsageException.class, () -> Structure.choices());
        assertThrows(UsageException.class, () -> Structure.choices("a"));
        assertThrows(UsageException.class, () -> Structure.choices("a", ""));
        assertThrows(UsageException.class, () -> Structure.choices("a", "b", "a"));
        assertThrows(UsageException.class, () -> Structure.jsonSchema("{"));
        assertThrows(UsageException.class, () -> Structure.jsonSchema("[1]"));
        assertThrows(UsageException.class, () -> Structure.jsonSchema(Collections.singletonMap("const", Double.NaN)));
        GenerateOptions options = GenerateOptions.DEFAULT.structure(Structure.regex("a"));
        assertThrows(UsageException.class, () -> options.choiceProbabilities(true));
        assertFalse(options.structure(null).choiceProbabilities);
        try (Session session = Session.load(Repository.bundle("tiny-w8"), LOAD)) {
            assertThrows(UsageException.class, () -> session.decodeGreedy(PROMPT, options));
            UsageException error = assertThrows(UsageException.class,
                    () -> session.generate(PROMPT, options.structure(Structure.regex("\u0600{3}x{300}")), null));
            assertTrue(error.getMessage(), error.getMessage().startsWith("maxNewTokens 256 is less than the "));
        }
    }
}
