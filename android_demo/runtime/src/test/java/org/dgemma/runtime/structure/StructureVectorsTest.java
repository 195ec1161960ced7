package org.dgemma.runtime.structure;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.GZIPInputStream;
import org.dgemma.runtime.Repository;
import org.dgemma.runtime.Structure;
import org.dgemma.runtime.UsageException;
import org.dgemma.tokenizer.Tokenizer;
import org.dgemma.tokenizer.Tokenizers;
import org.junit.Test;

/** The shared vectors of structure: Python's automata, its expressions of schemas, and what it refuses. */
public class StructureVectorsTest {
    private final Map<String, Object> head;

    public StructureVectorsTest() throws Exception {
        head = Repository.json("tests/vectors/structure.json");
        assertEquals(1L, head.get("format"));
    }

    private List<?> entries(String name) {
        return (List<?>) head.get(name);
    }

    static Patience patient() {
        return new Patience(() -> false);
    }

    private static ByteAutomaton compiled(String regex) {
        return ByteAutomaton.compiled(regex, "regex", patient());
    }

    /** As tests/vectors/README.md says. */
    static String digest(ByteAutomaton automaton) throws Exception {
        MessageDigest said = MessageDigest.getInstance("SHA-256");
        Map<Integer, Integer> number = new HashMap<>();
        List<Integer> order = new ArrayList<>();
        number.put(automaton.start, 1);
        order.add(automaton.start);
        for (int i = 0; i < order.size(); i++) {
            ByteBuffer row = ByteBuffer.allocate(4 * 257).order(ByteOrder.LITTLE_ENDIAN);
            row.putInt(automaton.accepting[order.get(i)] ? 1 : 0);
            for (int value = 0; value < 256; value++) {
                int target = automaton.step(order.get(i), (byte) value);
                if (target != automaton.states && !number.containsKey(target)) {
                    number.put(target, number.size() + 1);
                    order.add(target);
                }
                row.putInt(number.getOrDefault(target, 0));
            }
            said.update(row.array());
        }
        return hex(said);
    }

    @Test
    public void automataAreThoseOfPython() throws Exception {
        assertTrue(entries("automata").size() > 200);
        for (Object each : entries("automata")) {
            List<?> entry = (List<?>) each;
            ByteAutomaton automaton = compiled((String) entry.get(0));
            assertEquals(entry.toString(), ((Long) entry.get(1)).intValue(), automaton.states);
            assertEquals(entry.toString(), entry.get(2), digest(automaton));
        }
    }

    @Test
    public void aDigestTellsLanguagesApart() throws Exception {
        assertNotEquals(digest(compiled("a|b")), digest(compiled("a|c")));
        assertNotEquals(digest(compiled("ab")), digest(compiled("ab?")));
        assertEquals(digest(compiled("ba|aa")), digest(compiled("[ab]a")));
    }

    @Test
    public void whatPythonCannotReadIsRefusedInItsWords() {
        for (Object each : entries("refused")) {
            String regex = (String) ((List<?>) each).get(0);
            UsageException error = assertThrows(regex, UsageException.class, () -> compiled(regex));
            assertEquals(((List<?>) each).get(1), error.getMessage());
        }
    }

    @Test
    public void whatIsTooLargeIsRefused() {
        for (Object regex : entries("large")) {
            UsageException error = assertThrows(UsageException.class, () -> compiled((String) regex));
            assertTrue(error.getMessage(), error.getMessage().endsWith(ByteAutomaton.TOO_LARGE));
        }
    }

    @Test
    public void schemasAreTheExpressionsOfPython() throws Exception {
        int refused = 0;
        for (Object each : entries("schemas")) {
            List<?> entry = (List<?>) each;
            Structure structure = Structure.jsonSchema((String) entry.get(0));
            if (entry.get(1) == null) {
                UsageException error = assertThrows(
                        entry.toString(), UsageException.class, () -> Languages.expression(structure, patient()));
                assertEquals(((String) entry.get(2)).replace("json_schema", "jsonSchema"), error.getMessage());
                refused++;
                continue;
            }
            String made = Languages.expression(structure, patient());
            assertEquals(entry.get(1), made);
            ByteAutomaton automaton = compiled(made);
            assertEquals(((Long) entry.get(2)).intValue(), automaton.states);
            assertEquals(entry.get(3), digest(automaton));
        }
        assertTrue(refused > 40 && entries("schemas").size() > refused + 50);
    }

    @Test
    public void idsWriteWhatTheyWriteInPython() throws Exception {
        int refused = 0;
        int even = 0;
        for (Object each : entries("vocabularies")) {
            Map<?, ?> held = (Map<?, ?>) each;
            String file = (String) held.get("file");
            List<?> markers = (List<?>) held.get("markers");
            Tokenizer tokenizer;
            File copy = File.createTempFile("tokenizer", "");
            try (InputStream in = new GZIPInputStream(
                    new FileInputStream(Repository.file("tests/vectors/tokenizers/" + file)))) {
                Files.copy(in, copy.toPath(), StandardCopyOption.REPLACE_EXISTING);
                tokenizer = Tokenizers.load(copy, (String) held.get("kind"),
                        markers.stream().mapToInt(id -> ((Long) id).intValue()).toArray());
            } finally {
                assertTrue(copy.delete());
            }
            int size = ((Long) held.get("size")).intValue();
            if (held.containsKey("refused")) {
                assertThrows(file, UsageException.class, () -> Vocabulary.of(tokenizer, size, new int[0], patient()));
                refused++;
                continue;
            }
            Vocabulary found = Vocabulary.of(tokenizer, size, new int[0], patient());
            assertEquals(file, held.get("is_even"), found.first == found.later);
            assertEquals(file, held.get("digest"), digest(found));
            even += found.first == found.later ? 1 : 0;
        }
        assertTrue(refused > 0 && even > 1 && even + refused < entries("vocabularies").size());
    }

    /** As tests/vectors/README.md says. */
    private static String digest(Vocabulary vocabulary) throws Exception {
        int[] rank = new int[vocabulary.ranked.length];
        for (int i = 0; i < rank.length; i++) {
            rank[vocabulary.ranked[i]] = i;
        }
        MessageDigest said = MessageDigest.getInstance("SHA-256");
        for (int id = 0; id < rank.length; id++) {
            for (byte[] part : new byte[][] {vocabulary.first[id], vocabulary.later[id]}) {
                said.update(number(part.length));
                said.update(part);
            }
            said.update(number(rank[id]));
        }
        return hex(said);
    }

    private static byte[] number(int value) {
        return ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(value).array();
    }

    private static String hex(MessageDigest said) {
        StringBuilder hex = new StringBuilder();
        for (byte each : said.digest()) {
            hex.append(String.format("%02x", each & 0xFF));
        }
        return hex.substring(0, 16);
    }
}
