package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.zip.GZIPInputStream;
import org.dgemma.tokenizer.Tokenizer;
import org.dgemma.tokenizer.Tokenizers;
import org.junit.Test;

/** The ids that the Python runtime appends for a user's turn, for chat templates of every kind. */
public class ChatVectorsTest {
    private final Map<String, Object> vectors;

    public ChatVectorsTest() throws Exception {
        vectors = Repository.json("tests/vectors/chat.json");
    }

    @Test
    public void turnsAreEqual() throws Exception {
        assertEquals(1L, vectors.get("format"));
        int turns = 0;
        for (Object listed : (List<?>) vectors.get("cases")) {
            Map<?, ?> held = (Map<?, ?>) listed;
            Manifest manifest = manifest(held);
            Tokenizer tokenizer = tokenizer(manifest, held);
            for (Object turn : (List<?>) held.get("turns")) {
                List<?> row = (List<?>) turn;
                int[] ids = Chat.ids(manifest, tokenizer, (String) row.get(0), ints(row.get(1)));
                String which = held.get("file") + " " + held.get("chat") + " " + row;
                assertEquals(which, row.get(2).toString(), Arrays.toString(ids));
                turns++;
            }
        }
        assertTrue("turns: " + turns, turns > 1000);
    }

    /** A template without its new keys is one that neither trims nor adds text. */
    @Test
    public void keysThatAreAbsentChangeNothing() throws Exception {
        Manifest.ChatTemplate chat = Bundle.open(ToyBundle.write()).manifest().chat;
        assertEquals("", chat.userLead + chat.userTail);
        assertEquals("none", chat.trim);
    }

    @Test
    public void anUnknownTrimIsRefused() throws Exception {
        File folder = ToyBundle.write(manifest -> chat(manifest).put("trim", "middle"));
        String said = assertThrows(BundleException.class, () -> Bundle.open(folder)).getMessage();
        assertEquals(new File(folder, "manifest.json")
                + ": chat.trim 'middle' is unknown; upgrade dgemma, or export the bundle again", said);
    }

    @Test
    public void markersOfRolesAreMarkers() throws Exception {
        String roles = "{\"openings\":{\"\":[[2]],\"system\":[[2,105,\"system\"],[106]]},\"opening_trim\":\"both\","
                + "\"turns\":{\"user\":{\"before\":[105,\"user\"],\"after\":[106],\"trim\":\"both\"}},"
                + "\"answer\":{\"\":[105,\"model\",107,\"thought\",108]},\"joins\":\"no\",\"drops_thoughts\":\"yes\","
                + "\"keeps_thinking\":\"none\",\"channel\":{\"open\":107,\"close\":108,\"name\":\"thought\",\"open_text\":\"<\","
                + "\"close_text\":\">\"},\"tools\":{\"form\":\"gemma\",\"declaration\":[46,47],\"call\":[48,49],"
                + "\"response\":[50,51],\"quote\":52,\"null\":\"None\",\"reopens\":\"no\",\"closes\":\"no\"}}";
        Manifest manifest = Bundle.open(ToyBundle.write(
                values -> chat(values).put("roles", org.dgemma.format.Json.parse(roles)))).manifest();
        for (int marker : new int[] {46, 49, 51, 52, 105, 106, 107, 108}) {
            assertTrue("" + marker, Arrays.binarySearch(Chat.markerIds(manifest), marker) >= 0);
        }
    }

    @Test
    public void withoutAStopTokenNothingEndsAnAnswer() throws Exception {
        Manifest manifest = Bundle.open(ToyBundle.write(values -> {
            model(values).put("eos_token_ids", Arrays.asList());
            chat(values).put("trim", "both");
        })).manifest();
        int[] ids = Chat.ids(manifest, new ToyTokenizer(), "\u00A0\n", new int[] {ToyBundle.BOS, 200});
        assertEquals(Arrays.toString(new int[] {ToyBundle.START, ToyBundle.START_OF_TURN, ToyBundle.USER,
            ToyBundle.END_OF_TURN, ToyBundle.START, ToyBundle.START_OF_TURN, ToyBundle.MODEL, ToyBundle.START}),
                Arrays.toString(ids));
    }

    private static Manifest manifest(Map<?, ?> held) throws Exception {
        return Bundle.open(ToyBundle.write(values -> {
            model(values).put("vocab_size", 1 << 20);
            model(values).put("pad_token_id", held.get("pad"));
            model(values).put("bos_token_id", held.get("bos"));
            model(values).put("eos_token_ids", held.get("stops"));
            values.put("chat", held.get("chat"));
        })).manifest();
    }

    private static Tokenizer tokenizer(Manifest manifest, Map<?, ?> held) throws Exception {
        File copy = File.createTempFile("tokenizer", null);
        try (InputStream in = new GZIPInputStream(
                new FileInputStream(Repository.file("tests/vectors/tokenizers/" + held.get("file"))))) {
            Files.copy(in, copy.toPath(), StandardCopyOption.REPLACE_EXISTING);
            return Tokenizers.load(copy, (String) held.get("kind"), Chat.markerIds(manifest));
        } finally {
            copy.delete();
        }
    }

    private static int[] ints(Object listed) {
        return ((List<?>) listed).stream().mapToInt(id -> ((Long) id).intValue()).toArray();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> model(Map<String, Object> manifest) {
        return (Map<String, Object>) manifest.get("model");
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> chat(Map<String, Object> manifest) {
        return (Map<String, Object>) manifest.get("chat");
    }
}
