package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.dgemma.format.Json;
import org.dgemma.tokenizer.Tokenizer;
import org.junit.Test;

/** The ids that the Python runtime gives whole conversations, and what it reads of answers, as both stand in the vectors. */
public class ConversationVectorsTest {
    private final Map<String, Object> vectors;
    private final List<Case> cases = new ArrayList<>();

    /** One chat template. */
    private static final class Case {
        final Map<?, ?> held;
        final Manifest manifest;
        final Tokenizer tokenizer;
        final AnswerReader reader;

        Case(Map<String, Object> vectors, Map<?, ?> held) throws Exception {
            this.held = held;
            manifest = Bundle.open(Speaking.write(vectors, held.get("chat"))).manifest();
            tokenizer = Speaking.tokenizer(vectors, manifest);
            reader = new AnswerReader(tokenizer, manifest.chat.roles);
        }

        List<?> rows(String key) {
            return (List<?>) held.get(key);
        }
    }

    public ConversationVectorsTest() throws Exception {
        vectors = Repository.json("tests/vectors/conversations.json");
        assertEquals(1L, vectors.get("format"));
        for (Object held : (List<?>) vectors.get("cases")) {
            cases.add(new Case(vectors, (Map<?, ?>) held));
        }
        assertEquals(2, cases.size());
    }

    @Test
    public void promptsAreEqual() {
        List<?> tools = (List<?>) vectors.get("tools");
        int prompts = 0;
        int differ = 0;
        for (Case each : cases) {
            for (Object row : each.rows("prompts")) {
                List<?> prompt = (List<?>) row;
                int declared = ((Long) prompt.get(2)).intValue();
                GenerateOptions options = GenerateOptions.DEFAULT.think((Boolean) prompt.get(1))
                        .tools(tools.subList(0, declared));
                List<Message> messages = Messages.read(Json.write(prompt.get(0)));
                int[] ids = Prompt.ids(each.manifest, each.tokenizer, messages, options);
                String which = Json.write(prompt.subList(0, 3));
                assertEquals(which, prompt.get(3).toString(), Arrays.toString(ids));
                GenerateOptions other = options.think(!options.think);
                differ += Arrays.equals(ids, Prompt.ids(each.manifest, each.tokenizer, messages, other)) ? 0 : 1;
                prompts++;
            }
        }
        assertTrue("prompts: " + prompts, prompts > 60);
        assertTrue("control: the switch for thinking must show", differ > prompts / 2);
    }

    @Test
    public void answersAreEqual() {
        int answers = 0;
        for (Case each : cases) {
            for (Object row : each.rows("answers")) {
                List<?> answer = (List<?>) row;
                Answer read = each.reader.read(Speaking.ints(answer.get(0)), (Boolean) answer.get(1));
                List<Object> calls = new ArrayList<>();
                for (ToolCall call : read.toolCalls) {
                    calls.add(Arrays.asList(call.name, call.arguments, call.id));
                }
                Map<String, Object> found = new LinkedHashMap<>();
                found.put("text", read.text);
                found.put("thinking", read.thinking);
                found.put("tool_calls", calls);
                found.put("warnings", read.warnings);
                found.put("thinks", read.thinks);
                assertEquals(Json.write(answer.get(0)), Json.write(answer.get(2)), Json.write(found));
                answers++;
            }
        }
        assertTrue("answers: " + answers, answers > 150);
    }

    /** Wherever canvases end, kinds stay what they were, and what is told joins to the text. */
    @Test
    public void whereACanvasEndsMakesNoDifference() {
        Random random = new Random(1);
        boolean naiveDiffers = false;
        for (Case each : cases) {
            for (Object row : each.rows("answers")) {
                List<?> answer = (List<?>) row;
                int[] ids = Speaking.ints(answer.get(0));
                boolean inside = (Boolean) answer.get(1);
                TokenKind[] kinds = each.reader.kinds(ids, inside);
                TextStream stream = new TextStream(each.reader.hasMarkers());
                TextStream naive = new TextStream(false);
                StringBuilder told = new StringBuilder();
                StringBuilder naively = new StringBuilder();
                for (int end = 0; end < ids.length; end += 1 + random.nextInt(3)) {
                    int[] part = Arrays.copyOf(ids, end);
                    assertEquals(Arrays.asList(kinds).subList(0, end), Arrays.asList(each.reader.kinds(part, inside)));
                    told.append(stream.grow(each.reader.soFar(part, inside).text));
                    naively.append(naive.grow(each.reader.read(part, inside).text));
                }
                String text = each.reader.read(ids, inside).text;
                told.append(stream.finish(text));
                naively.append(naive.finish(text));
                assertEquals(Json.write(answer), Trim.of(text, "start"), told.toString());
                naiveDiffers |= !naively.toString().equals(text);
            }
        }
        assertTrue("control: calls without an end must not be told", naiveDiffers);
    }

    /** No order of markers is an exception, and none shows in text or thoughts. */
    @Test
    public void noOrderOfMarkersFails() {
        Random random = new Random(2);
        int[] ids = {98, 100, 101, 105, 48, 49, 50, 51, 52, 46, 47, 510, 520, 530, 540, 600, 250, 470, 700};
        for (Case each : cases) {
            for (int round = 0; round < 3000; round++) {
                int[] answer = random.ints(random.nextInt(30), 0, ids.length).map(i -> ids[i]).toArray();
                Answer read = each.reader.read(answer, random.nextBoolean());
                for (String text : Arrays.asList(read.text, read.thinking)) {
                    assertFalse(text, text.contains("<|") || text.contains("|>"));
                }
            }
        }
    }
}
