package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.says;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.tokenizer.Tokenizer;
import org.junit.Test;

/** What guidance takes and refuses, and the ids of its negative prompt; `ControlVectorsTest` has the steps. */
public class GuidanceTest {
    private static final GenerateOptions DEFAULT = GenerateOptions.DEFAULT;

    @Test
    public void whatIsNoGuidanceIsRefused() {
        says(UsageException.class, "guidance -0.5 must be a number from 0 to 100; 1 changes nothing", () -> Guidance.of(-0.5));
        says(UsageException.class, "guidance nan must be a number from 0 to 100; 1 changes nothing",
                () -> Guidance.of(Double.NaN));
        says(UsageException.class, "negative must be non-empty text, or ids", () -> Guidance.of(2).negative(""));
        says(UsageException.class, "negative must be non-empty text, or ids", () -> Guidance.of(2).negative(new int[0]));
        says(UsageException.class, "negative must be non-empty text, or ids", () -> Guidance.of(2).negative(3, -1));
        says(UsageException.class, "guidanceSteps (0, 2) must be the first and the last step, such as 2 and 8",
                () -> Guidance.of(2).steps(0, 2));
        ComputePolicy some = ComputePolicy.ALL.earlyCommit(0.1).recheck(true);
        says(UsageException.class, "guidance needs every position in every step; leave earlyCommit and recheck out",
                () -> DEFAULT.compute(some).guidance(Guidance.of(1)));
    }

    @Test
    public void stepsAreCountedFromOne() {
        Guidance some = Guidance.of(0.5).steps(2, 3);
        assertArrayEquals(new boolean[] {false, true, true, false},
                new boolean[] {some.guides(1), some.guides(2), some.guides(3), some.guides(4)});
        assertTrue(Guidance.of(0).guides(1));
        assertFalse(Guidance.of(1).guides(1));
    }

    @Test
    public void aBundleWithoutTheGraphIsRefused() throws Exception {
        try (Session session = SessionTest.session(ToyEngine.of(200))) {
            says(UsageException.class, "guidance: this bundle has no 'denoise_guided' for onnx; use engine onnx; "
                    + "if the bundle is too old, export it again",
                    () -> session.generate(SessionTest.PROMPT, DEFAULT.guidance(Guidance.of(1)), null));
            assertEquals(0, session.prefixIds().length);
        }
    }

    /** It goes through the chat template with the same system turn, thinking and tools, and starts a conversation. */
    @Test
    public void theNegativePromptIsAConversation() throws Exception {
        Map<String, Object> vectors = Repository.json("tests/vectors/conversations.json");
        Map<?, ?> first = (Map<?, ?>) ((List<?>) vectors.get("cases")).get(0);
        Bundle bundle = Bundle.open(Speaking.write(vectors, first.get("chat")));
        Tokenizer tokenizer = Speaking.tokenizer(vectors, bundle.manifest());
        Speech speech = new Speech(bundle, tokenizer);
        GenerateOptions plain = DEFAULT.guidance(Guidance.of(2).negative("Write 4271."));
        Message system = Message.system("Be brief.");
        Message user = Message.user("Write 4271.");
        int[] brief = speech.prefix(Arrays.asList(system, user), DEFAULT);
        int[] alone = speech.prefix(Collections.singletonList(user), DEFAULT);
        assertTrue(tokenizer.decode(brief).contains("Be brief."));
        assertArrayEquals(alone, negative(speech, plain, null));
        assertArrayEquals(alone, negative(speech, plain.continued(true), Collections.singletonList(Message.user("x"))));
        assertArrayEquals(brief, negative(speech, plain, Arrays.asList(system, Message.user("x"))));
        assertArrayEquals(brief, negative(speech, plain.system("Be brief."), null));
        assertArrayEquals(speech.prefix(Collections.singletonList(user), DEFAULT.think(true)),
                negative(speech, plain.think(true), Collections.singletonList(Message.user("x"))));
        assertArrayEquals(tokenizer.encode("Write 4271."), negative(speech, plain.raw(true), null));
        assertArrayEquals(new int[] {3, 7}, negative(speech, DEFAULT.guidance(Guidance.of(2).negative(3, 7)), null));
        says(UsageException.class, "prompt id " + Speaking.VOCAB + " must be an integer from 0 to " + (Speaking.VOCAB - 1),
                () -> negative(speech, DEFAULT.guidance(Guidance.of(2).negative(Speaking.VOCAB)), null));
    }

    private static int[] negative(Speech speech, GenerateOptions options, List<Message> messages) {
        Guidance found = speech.withNegative(options, messages).guidance;
        assertNotNull(found);
        return found.ids();
    }
}
