package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.PROMPT;
import static org.dgemma.runtime.SessionTest.says;
import static org.dgemma.runtime.SessionTest.session;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.dgemma.tokenizer.TokenizerException;
import org.junit.Test;

/** Canvases of which something is known before the first step: templates and drafts. */
public class GivenTest {
    private static final GenerateOptions DEFAULT = GenerateOptions.DEFAULT;
    private static final int N = ToyBundle.N;

    @Test
    public void templatesAreTextAndHoles() {
        assertEquals(Arrays.asList("Dear ", 8, ", come to ", 12, "."), Template.read("Dear {{8}}, come to {{12}}."));
        assertEquals(Arrays.asList(1, 2), Template.read("{{1}}{{2}}"));
        assertEquals(Arrays.asList(3, " {x} {{y}}"), Template.read("{{3}} {x} {{y}}"));
    }

    @Test
    public void aTemplateMayTakeSeveralCanvases() throws Exception {
        Manifest manifest = ToyEngine.of(200).bundle().manifest();
        List<Given> given = Given.fromTemplate(manifest, new ToyTokenizer(), "a{{16}}b{{15}}");
        assertEquals(3, given.size());
        assertArrayEquals(new int[] {N, N, 1}, given.stream().mapToInt(one -> one.length).toArray());
        assertArrayEquals(new int[] {1, 17}, given.get(0).holes.get(0));
        assertArrayEquals(new int[] {18, 33}, given.get(1).holes.get(0));
        assertTrue(given.get(2).holes.isEmpty());
        assertTrue(!given.get(0).ends && !given.get(1).ends && given.get(2).ends);
        assertTrue(!given.get(1).pinned[0] && given.get(1).pinned[1] && !given.get(2).pinned[0] && given.get(2).pinned[1]);
        assertEquals(ToyBundle.END_OF_TURN, given.get(2).ids[1]);
        try (Session session = session(ToyEngine.of(200))) {
            Result result = session.generate(PROMPT, DEFAULT.template("a{{16}}b{{15}}"), null);
            assertEquals(3, result.canvases);
            assertEquals(33, result.tokens.length);
            assertEquals(2, result.holes.size());
            says(PromptTooLongException.class, "leaves no room for",
                    () -> session.generate(PROMPT, DEFAULT.maxNewTokens(10000).template("{{190}}"), null));
            says(UsageException.class, "template has holes of 999999999 tokens, more than the context of 192; make them shorter",
                    () -> session.generate(PROMPT, DEFAULT.template("{{999999999}}"), null));
        }
    }

    @Test
    public void aTemplatePinsItsTextAndItsEnd() throws Exception {
        Manifest manifest = ToyEngine.of(200).bundle().manifest();
        Given given = Given.fromTemplate(manifest, new ToyTokenizer(), "ab{{2}}c").get(0);
        int[] known = new int[N];
        System.arraycopy(new int[] {197, 198, 0, 0, 199, ToyBundle.END_OF_TURN}, 0, known, 0, 6);
        assertArrayEquals(known, given.ids);
        for (int i = 0; i < N; i++) {
            assertEquals(i != 2 && i != 3, given.pinned[i]);
        }
        assertTrue(given.isTemplate());
        assertEquals(5, given.length);
        assertArrayEquals(new int[] {2, 4}, given.holes.get(0));
        assertEquals("all steps run", 0, given.firstStep(6));
    }

    @Test
    public void aDraftFillsCanvasesAndLeavesStepsOut() throws Exception {
        Manifest manifest = ToyEngine.of(200).bundle().manifest();
        char[] text = new char[N];
        Arrays.fill(text, 'a');
        List<Given> given = Given.fromDraft(manifest, new ToyTokenizer(), new String(text), 0.3);
        assertEquals("the stop token has no room on the first", 2, given.size());
        assertEquals(197, given.get(0).ids[N - 1]);
        assertEquals(ToyBundle.END_OF_TURN, given.get(1).ids[0]);
        assertEquals(ToyBundle.PAD, given.get(1).ids[1]);
        assertFalse(given.get(0).isTemplate());
        assertEquals(4, given.get(0).firstStep(6));
        assertEquals(5, Given.fromDraft(manifest, new ToyTokenizer(), "a", 0.01).get(0).firstStep(6));
        assertEquals(0, Given.fromDraft(manifest, new ToyTokenizer(), "a", 1).get(0).firstStep(6));
        long[] canvas = new long[N];
        long[] words = new long[N];
        words[0] = 0xffffffffL; // a uniform just below 1
        given.get(0).begin(canvas, words);
        assertEquals("a large uniform keeps the draft", 197, canvas[0]);
        assertEquals("a small one leaves the noise", 0, canvas[1]);
    }

    @Test
    public void theAnswerIsTheTemplate() throws Exception {
        try (Session session = session(ToyEngine.of(200, 201, 202, 203, 204, 205, 206))) {
            Result result = session.generate(PROMPT, DEFAULT.template("ab{{2}}c").trace(true).logprobs(0), null);
            assertArrayEquals(new int[] {197, 198, 202, 203, 199}, result.tokens);
            assertEquals(Collections.singletonList(new ToyTokenizer().decode(new int[] {202, 203})), result.holes);
            assertEquals(StopReason.STOP, result.stopReason);
            assertEquals("what is fixed is certain", 0, result.logprobs.get(0).logprob, 0);
            int[] prefix = session.prefixIds();
            assertEquals(ToyBundle.END_OF_TURN, prefix[prefix.length - 1]);
            Trajectory trajectory = result.trajectory;
            assertNotNull(trajectory);
            for (int i = 0; i < trajectory.step.length; i++) {
                assertEquals(197, trajectory.canvasIn[i][0]);
                assertTrue(trajectory.accepted[i][0] && trajectory.entropy[i][0] == 0);
            }
            assertEquals("nothing stays", 7, session.generate(PROMPT, DEFAULT, null).tokens.length);
            session.generate((String) null, DEFAULT.template("ab{{2}}c"), null);
            int[] opening = {ToyBundle.BOS, ToyBundle.START_OF_TURN, ToyBundle.MODEL, ToyBundle.START};
            assertArrayEquals("an answer to nothing", opening, Arrays.copyOf(session.prefixIds(), 4));
        }
    }

    @Test
    public void whatCannotBeIsRefused() throws Exception {
        GenerateOptions some = DEFAULT.template("a{{2}}");
        says(UsageException.class, "template 'abc' has no hole; write {{8}} for one of 8 tokens", () -> DEFAULT.template("abc"));
        says(UsageException.class, "template 'a{{0}}' has a hole of 0 tokens; a hole has 1 or more",
                () -> DEFAULT.template("a{{0}}"));
        says(UsageException.class, "template must be non-empty text", () -> DEFAULT.template(""));
        says(UsageException.class, "draft must be non-empty text", () -> DEFAULT.draft(""));
        says(UsageException.class, "strength 0.0 must be a number above 0 and at most 1", () -> DEFAULT.draft("a", 0));
        says(UsageException.class, "strength says how much of a draft is noise; give draft as well, or leave it out",
                () -> DEFAULT.draft(null, 0.2));
        says(UsageException.class, "give template or draft, not both", () -> some.draft("a"));
        says(UsageException.class, "template needs decoder diffusion and loop host: otherwise every canvas starts from noise",
                () -> some.loop(Loop.GRAPH));
        ComputePolicy narrow = ComputePolicy.ALL.startWidthAuto().speculate(true);
        says(UsageException.class, "draft fills the whole canvas; leave startWidth and speculate out",
                () -> DEFAULT.draft("a").compute(narrow));
        says(UsageException.class, "template determines where the answer ends; leave stop out", () -> some.stop("x"));
        says(UsageException.class, "minTokens cannot be combined with template, which can end it sooner; leave one out",
                () -> some.minTokens(1));
        try (Session session = session(ToyEngine.of(200))) {
            says(UsageException.class, "template takes 3 tokens; maxNewTokens 2 is less",
                    () -> session.generate(PROMPT, some.maxNewTokens(2), null));
            says(UsageException.class, "without prompt, a template starts a new conversation; give one",
                    () -> session.generate((String) null, some.continued(true), null));
            says(UsageException.class, "the prompt is empty; give some text",
                    () -> session.generate((String) null, DEFAULT.draft("a"), null));
            says(UsageException.class, "template needs decoder diffusion", () -> session.decodeGreedy(PROMPT, some));
            assertEquals(0, session.prefixIds().length);
        }
        try (Session session = new Session(ToyEngine.of(200), null)) {
            says(TokenizerException.class, "this bundle has no tokenizer, which template and draft need; leave them out",
                    () -> session.generate(PROMPT, some, null));
        }
    }
}
