package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;
import org.dgemma.tokenizer.Tokenizer;
import org.junit.After;
import org.junit.Test;

/** Sessions of a bundle whose template has roles, thinking and tools. */
public class SpeakingSessionTest {
    private static final List<Message> ASKED = Collections.singletonList(Message.user("Write 4271."));
    private static final String TOOL = "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\"}}]";

    private final Bundle bundle;
    private final Tokenizer tokenizer;
    private Speaker engine;
    private Session session;

    public SpeakingSessionTest() throws Exception {
        Map<String, Object> vectors = Repository.json("tests/vectors/conversations.json");
        Map<?, ?> first = (Map<?, ?>) ((List<?>) vectors.get("cases")).get(0);
        bundle = Bundle.open(Speaking.write(vectors, first.get("chat")));
        tokenizer = Speaking.tokenizer(vectors, bundle.manifest());
    }

    @After
    public void close() {
        if (session != null) {
            session.close();
        }
    }

    /** Gives its answer behind so many tokens. */
    private static final class Speaker extends ToyEngine {
        private final int begin;

        Speaker(Bundle bundle, int begin, int stop, int... answer) {
            super(bundle, answer);
            this.begin = begin;
            this.stop = stop;
        }

        @Override
        int following(List<Integer> ids) {
            int at = ids.size() - begin;
            return at < answer.length ? answer[at] : at == answer.length ? stop : ToyBundle.PAD;
        }
    }

    /** A session whose model gives these ids and texts, then a stop token, to the conversation. */
    private Session answering(List<Message> messages, GenerateOptions options, Object... answer) {
        close();
        int begin = Prompt.ids(bundle.manifest(), tokenizer, messages, options).length;
        boolean calls = answer.length > 0 && answer[answer.length - 1].equals(Speaking.CALLED);
        engine = new Speaker(bundle, begin, calls ? Speaking.RESPONSE : Speaking.STOP, ids(answer));
        session = new Session(engine, tokenizer);
        return session;
    }

    private int[] ids(Object... parts) {
        IntList ids = new IntList();
        for (Object part : parts) {
            int[] more = part instanceof String ? tokenizer.encode((String) part) : new int[] {(Integer) part};
            ids.add(more, more.length);
        }
        return ids.toArray();
    }

    private static GenerateOptions options() {
        return GenerateOptions.DEFAULT.maxNewTokens(200);
    }

    /** Longer than a canvas, so that its markers lie in two of them; no callback ever shows one, nor a thought as text. */
    @Test
    public void aThoughtIsNotText() throws Exception {
        String thought = "Four, two, seven and one: so it is a number of four digits.";
        Object[] answer = {Speaking.THINK, "thought\n" + thought, Speaking.END, "Four two seven one."};
        assertTrue(ids("thought\n" + thought).length > 2 * ToyBundle.N);
        GenerateOptions options = options().think(true);
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        List<Integer> kinds = new ArrayList<>();
        CountingListener listener = new CountingListener() {
            @Override
            public void onStep(StepEvent event) {
                super.onStep(event);
                seen.add(event.thinking() + "|" + event.text());
                kinds.add(Collections.frequency(Arrays.asList(event.kinds()), TokenKind.THOUGHT));
            }
        };
        answering(ASKED, options, answer).start(ASKED, options, listener);
        Result result = listener.await().result;
        assertEquals("Four two seven one.", result.text);
        assertEquals(result.text, listener.text.toString());
        assertEquals(thought, result.thinking);
        assertEquals(Collections.emptyList(), result.warnings);
        assertEquals(StopReason.STOP, result.stopReason);
        assertArrayEquals(ids(answer), result.tokens);
        assertTrue(result.canvases > 2);
        assertTrue(seen.stream().noneMatch(one -> one.contains("channel") || one.contains("|thought")));
        assertTrue(seen.stream().anyMatch(one -> one.startsWith("Four, two") && one.endsWith("|")));
        assertEquals(ids(answer).length - ids("Four two seven one.").length, (int) kinds.get(kinds.size() - 1));
        Message message = result.message();
        assertEquals("assistant " + result.text + result.thinking, message.role + " " + message.content + message.thinking);
    }

    @Test
    public void anEmptyAnswerSaysWhy() {
        GenerateOptions options = options().think(true);
        Object[] endless = {Speaking.THINK, "thought\n" + String.join("", Collections.nCopies(20, "and so on "))};
        Result result = answering(ASKED, options, endless).generate(ASKED, options.maxNewTokens(20), null);
        assertEquals("", result.text);
        assertEquals(StopReason.LENGTH, result.stopReason);
        assertTrue(result.thinking, result.thinking.startsWith("and so on"));
        assertEquals(Collections.singletonList("the thought took all 20 tokens, so there is no answer; "
                + "allow more tokens, or leave thinking off"), result.warnings);
        Object[][] answers = {{Speaking.THINK, "so"}, {Speaking.THINK, "so", Speaking.END}};
        String[] said = {"the model ended inside its thought, ", "the model thought and then gave no answer; "};
        for (int i = 0; i < 2; i++) {
            result = answering(ASKED, options, answers[i]).generate(ASKED, options, null);
            assertEquals("", result.text);
            assertTrue(result.warnings.toString(), result.warnings.get(0).startsWith(said[i]));
        }
        assertEquals(Collections.emptyList(),
                answering(ASKED, options, "Hi.").generate(ASKED, options, null).warnings);
    }

    @Test
    public void aConversationWithTools() throws Exception {
        GenerateOptions options = options().tools(TOOL);
        Object[] call = {"Look.", Speaking.CALL, "call:f{town:", Speaking.QUOTE, "a}b and so on, long", Speaking.QUOTE,
            ",n:3}", Speaking.CALLED};
        List<Boolean> unfinished = Collections.synchronizedList(new ArrayList<>());
        CountingListener listener = new CountingListener() {
            @Override
            public void onStep(StepEvent event) {
                super.onStep(event);
                boolean open = count(event.argmax, Speaking.CALLED) == 0 && event.text().startsWith("Look.");
                open &= event.kinds()[event.kinds().length - 1] == TokenKind.CALL;
                unfinished.add(open);
                wrong.addAll(open && !event.text().equals("Look.") ? Arrays.asList(event.text()) : Arrays.asList());
            }
        };
        answering(ASKED, options, call).start(ASKED, options, listener);
        Result result = listener.await().result;
        assertTrue("a call that has no end yet", unfinished.contains(true));
        assertEquals("Look.", listener.text.toString());
        assertEquals("Look.", result.text);
        assertEquals(1, result.toolCalls.size());
        assertEquals("{id=call_0, type=function, function={name=f, arguments={town=a}b and so on, long, n=3}}}",
                result.toolCalls.get(0).toMap().toString());
        int[] held = session.prefixIds();
        assertEquals(Speaking.RESPONSE, held[held.length - 1]);
        List<Message> turns = Arrays.asList(ASKED.get(0), result.message(), Message.tool("call_0", "cold"));
        int before = engine.encoded.stream().mapToInt(Integer::intValue).sum();
        session.generate(turns, options.continued(true).maxNewTokens(1), null);
        int more = engine.encoded.stream().mapToInt(Integer::intValue).sum() - before;
        assertTrue("what the prefix held was encoded again: " + more, more < held.length);
        int[] whole = Prompt.ids(bundle.manifest(), tokenizer, turns, options);
        assertArrayEquals(whole, Arrays.copyOf(session.prefixIds(), whole.length));
    }

    @Test
    public void aCallWithoutAnEndIsTextOnceTheAnswerHasEnded() throws Exception {
        GenerateOptions options = options().tools(TOOL);
        CountingListener listener = new CountingListener();
        answering(ASKED, options, "Look: ", Speaking.CALL, "call:f{a:1, and on it goes, far").start(
                ASKED, options, listener);
        Result result = listener.await().result;
        assertEquals("Look: call:f{a:1, and on it goes, far", result.text);
        assertEquals(result.text, listener.text.toString());
        assertEquals(Collections.singletonList(
                "a tool call cannot be read (it has no end) and is left in the text"), result.warnings);
    }

    /** A text prompt goes on from a prefix without thoughts; a whole conversation gives the same ids. */
    @Test
    public void goingOnDropsThoughts() {
        Object[] answer = {Speaking.THINK, "thought\nhm\n", Speaking.END, "Four."};
        answering(ASKED, options(), answer);
        Result first = session.generate(ASKED, options(), null);
        List<Message> turns = Arrays.asList(ASKED.get(0), first.message(), Message.user("And now?"));
        int[] whole = Prompt.ids(bundle.manifest(), tokenizer, turns, options());
        assertEquals("the empty one of the last answer", 1, count(whole, Speaking.THINK));
        session.generate("And now?", options().continued(true).maxNewTokens(1), null);
        assertArrayEquals(whole, Arrays.copyOf(session.prefixIds(), whole.length));
    }

    private static int count(int[] ids, int id) {
        return (int) Arrays.stream(ids).filter(one -> one == id).count();
    }

    @Test
    public void aSystemTurnAndThinkingReachThePrompt() {
        GenerateOptions options = options().system("Be brief.").think(true);
        answering(ASKED, options, "Hi.").generate("Write 4271.", options, null);
        int[] ids = session.prefixIds();
        assertEquals(105, ids[1]);
        assertEquals("the marker of thinking", 1, count(ids, 98));
        assertEquals(0, count(ids, Speaking.THINK));
        assertTrue(tokenizer.decode(ids).contains("Be brief."));
        assertEquals("Hi.", session.decodeGreedy("Write 4271.", options).text);
        Manifest.ChatTemplate chat = bundle.manifest().chat;
        assertTrue(chat.thinks() && chat.hasSystem() && chat.hasTools());
    }

    private interface Given {
        void run() throws Exception;
    }

    private static void refused(String phrase, Given given) {
        String said = assertThrows(UsageException.class, given::run).getMessage();
        assertTrue(said, said.contains(phrase));
        assertFalse(said, said.contains("\n"));
    }

    private void refused(String phrase, String messages, UnaryOperator<GenerateOptions> change) {
        refused(phrase, () -> session.generate(Messages.read(messages), change.apply(options()), null));
    }

    @Test
    public void whatCannotBeIsSaid() {
        answering(ASKED, options());
        String user = "{\"role\": \"user\", \"content\": \"x\"}";
        UnaryOperator<GenerateOptions> same = options -> options;
        refused("messages must be a list", "[]", same);
        refused("messages must be a list", "{}", same);
        refused("messages are not JSON", "[", same);
        refused("message 1: role 'robot' is unknown; choose one of system", "[{\"role\": \"robot\"}]", same);
        refused("message 1: content must be a string", "[{\"role\": \"user\"}]", same);
        refused("message 1: unknown key 'say'", "[{\"role\": \"user\", \"content\": \"x\", \"say\": 1}]", same);
        refused("message 2: a tool's result must follow", "[" + user + ", {\"role\": \"tool\", \"content\": \"x\"}]", same);
        refused("message 1: content part 2 has type 'image'; only text",
                "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"x\"}, {\"type\": \"image\"}]}]", same);
        refused("message 1: arguments of 'f' must be an object", "[{\"role\": \"assistant\", \"tool_calls\": "
                + "[{\"function\": {\"name\": \"f\", \"arguments\": \"{\"}}]}]", same);
        refused("begin with a system turn; leave system out", "[{\"role\": \"system\", \"content\": \"x\"}]",
                options -> options.system("y"));
        refused("which messages need; leave it out", "[" + user + "]", options -> options.raw(true));
        refused("raw skips the chat template, which system, think and tools need; leave it out",
                () -> options().raw(true).think(true));
        refused("system must be a non-empty string", () -> options().system(" \n"));
        refused("tools must be a list", () -> options().tools("{}"));
        refused("tools are not JSON", () -> options().tools("["));
        refused("tool 1: must be an object such as", () -> options().tools("[{\"name\": \"f\"}]"));
        refused("every property must be an object", () -> options().tools(
                "[{\"function\": {\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": 1}}}}]"));
        refused("'type' of a schema must be a string", () -> options().tools(
                "[{\"function\": {\"name\": \"f\", \"parameters\": {\"items\": {\"type\": 1}}}}]"));
        refused("tool 1: description of the response must be a string", () -> options().tools(
                "[{\"function\": {\"name\": \"f\", \"response\": {\"description\": 105}}}]"));
        refused("tool 1 must be an object of JSON values", () -> options().tools(
                Collections.singletonList(Collections.singletonMap("function", new Object()))));
        refused("ids are used as they are", () -> session.generate(new int[] {5}, options().think(true), null));
        refused("give the whole conversation as messages",
                () -> session.generate("x", options().think(true).continued(true), null));
        refused("tool calls belong in an assistant's message", () -> Message.user("x").toolCalls(
                Collections.singletonList(new ToolCall("f", Collections.emptyMap(), null))));
        refused("the content of a message must be a string", () -> Message.user(null));
    }

    @Test
    public void textPartsAreJoined() {
        String parts = "{\"type\": \"text\", \"text\": \" Write \"}, {\"type\": \"text\", \"text\": \"4271. \"}";
        Message several = Messages.read("[{\"role\": \"user\", \"content\": [" + parts + "]}]").get(0);
        Message one = Messages.read("[{\"role\": \"user\", \"content\": [" + parts.split(", \\{")[0] + "]}]").get(0);
        assertEquals("Write4271.", several.content);
        assertEquals(" Write ", one.content);
    }

    /** Users and answers by turns are what every template has; the rest is refused by name. */
    @Test
    public void aTemplateWithoutRoles() throws Exception {
        ToyTokenizer bytes = new ToyTokenizer();
        session = new Session(ToyEngine.of(200, 201), bytes);
        List<Message> turns = Arrays.asList(Message.user("hi"), Message.assistant("ho"), Message.user("hi"));
        session.generate(turns, options(), null);
        int[] whole = session.prefixIds();
        session.reset();
        int[] first = Chat.ids(session.bundle().manifest(), bytes, "hi", new int[0]);
        IntList wanted = new IntList();
        for (int[] more : new int[][] {first, bytes.encode("ho"), {ToyBundle.END_OF_TURN, ToyBundle.START}, Arrays.copyOfRange(first, 1, first.length),
                {200, 201, ToyBundle.END_OF_TURN}}) {
            wanted.add(more, more.length);
        }
        assertArrayEquals(wanted.toArray(), whole);
        refused("this bundle does not support thinking; leave out think",
                () -> session.generate("hi", options().think(true), null));
        refused("this bundle does not support tools; leave out tools", () -> session.generate("hi", options().tools(TOOL), null));
        refused("this bundle does not support system turns; leave out system",
                () -> session.generate("hi", options().system("x"), null));
        refused("message 2: the last must be a user's", () -> session.generate(turns.subList(0, 2), options(), null));
        refused("message 1: this bundle has no system turn here; it takes user and assistant turns in alternation",
                () -> session.generate(Arrays.asList(Message.system("x"), turns.get(0)), options(), null));
        assertFalse(session.bundle().manifest().chat.thinks());
    }
}
