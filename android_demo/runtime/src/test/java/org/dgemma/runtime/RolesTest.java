package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.dgemma.format.Json;
import org.junit.Test;

/** Templates that lack something, and manifests that are wrong. */
public class RolesTest {
    private static final Message SYSTEM = Message.system("x");
    private static final Message USER = Message.user("x");
    private static final Message LATE = Message.developer("x");

    private final Map<String, Object> vectors;

    public RolesTest() throws Exception {
        vectors = Repository.json("tests/vectors/conversations.json");
    }

    @SuppressWarnings("unchecked")
    private Roles roles(Consumer<Map<String, Object>> change) throws Exception {
        Object first = ((List<?>) vectors.get("cases")).get(0);
        Map<String, Object> chat =
                (Map<String, Object>) Json.parse(Json.write(((Map<?, ?>) first).get("chat")));
        change.accept((Map<String, Object>) chat.get("roles"));
        return Bundle.open(Speaking.write(vectors, chat)).manifest().chat.roles;
    }

    private static Map<?, ?> member(Map<String, Object> roles, String key) {
        return (Map<?, ?>) roles.get(key);
    }

    private static void refused(String phrase, Roles roles, boolean think, boolean tools, int first, Message... messages) {
        List<Map<String, Object>> declared = !tools ? Collections.emptyList() : Collections.singletonList(
                Collections.singletonMap("function", Collections.singletonMap("name", "f")));
        String said = assertThrows(UsageException.class,
                () -> Composer.compose(roles, Arrays.asList(messages), think, declared, first)).getMessage();
        assertTrue(said, said.contains(phrase));
    }

    /** The option is named, or the message by its number, which a system turn of an option does not move. */
    @Test
    public void whatATemplateLacksIsNamed() throws Exception {
        Roles few = roles(roles -> {
            member(roles, "openings").keySet().retainAll(Arrays.asList("", "think"));
            member(roles, "turns").keySet().retainAll(Arrays.asList("user", "assistant"));
            roles.put("tools", null);
        });
        refused("this bundle does not support tools; leave out tools", few, false, true, 1, USER);
        refused("this bundle does not support system turns; leave out system", few, false, false, 0, SYSTEM, USER);
        refused("message 1: this bundle has no system turn; leave it out", few, false, false, 1, SYSTEM, USER);
        refused("message 2: this bundle has no developer turn here; use user, assistant", few, false, false, 1, USER, LATE);
        refused("this bundle does not support tools; leave tool_calls out", few, false, false, 1, USER,
                Message.assistant("").toolCalls(Arrays.asList(new ToolCall("f", Collections.emptyMap(), null))));
        Roles silent = roles(roles -> {
            member(roles, "openings").keySet().retainAll(Arrays.asList("", "think", "system"));
            member(roles, "turns").keySet().retainAll(Arrays.asList("user", "assistant"));
            member(roles, "answer").keySet().retainAll(Arrays.asList(""));
        });
        refused("this bundle does not support thinking; leave out think", silent, true, false, 1, USER);
        refused("message 2: this bundle has no developer turn here", silent, false, false, 0, SYSTEM, USER, LATE);
        Roles apart = roles(roles -> member(roles, "openings").keySet().retainAll(Arrays.asList("", "think", "system")));
        refused("no system with think; leave one of them out", apart, true, false, 1, SYSTEM, USER);
    }

    @SuppressWarnings("unchecked")
    private static void put(Map<String, Object> roles, String key, String inner, Object value) {
        ((Map<String, Object>) roles.get(key)).put(inner, value);
    }

    private void wrong(String phrase, Consumer<Map<String, Object>> change) {
        String said = assertThrows(BundleException.class, () -> roles(change)).getMessage();
        assertTrue(said, said.contains(phrase));
    }

    @Test
    public void aManifestWithOtherFormsIsRefused() throws Exception {
        wrong("chat.roles trim 'middle' is unknown; upgrade dgemma", roles -> roles.put("opening_trim", "middle"));
        wrong("chat.roles.tools.form 'json' is unknown; upgrade dgemma", roles -> put(roles, "tools", "form", "json"));
        wrong("'chat.roles.joins' must be no or before or both", roles -> roles.put("joins", "after"));
        wrong("'chat.roles.tools.reopens' must be no or yes", roles -> put(roles, "tools", "reopens", true));
        wrong("opening 'system+think' must have 2 pieces",
                roles -> put(roles, "openings", "system+think", Arrays.asList(Arrays.asList(2))));
        wrong("nothing opens an answer", roles -> member(roles, "answer").clear());
        wrong("markers must have a text", roles -> put(roles, "channel", "open_text", ""));
    }

    @Test
    public void thoughtsInEarlierAnswersAreCut() throws Exception {
        Roles.Channel channel = roles(roles -> {}).channel;
        String[][] cases = {{"a", "a"}, {"", ""}, {"<|channel>x<channel|>a", "a"}, {"a<|channel>x<channel|>b<channel|>c", "abc"},
            {"a<channel|>b<|channel>c", "ab"}, {"<|channel><channel|>", ""}, {"<|channe<channel|>l>a", "<|channel>a"}};
        for (String[] each : cases) {
            assertEquals(each[1], channel.withoutThoughts(each[0]));
        }
    }
}
