package org.dgemma.format;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.Test;

/** The texts of {@code tests/bundles/json.json} were written by Python; its tests read them too. */
public class JsonTest {
    private static List<?> texts(String kind) throws Exception {
        File file = new File(System.getProperty("dgemma.root"), "tests/bundles/json.json");
        return (List<?>) ((Map<?, ?>) Json.parse(Files.readAllBytes(file.toPath()))).get(kind);
    }

    private static String canonical(String text) {
        return new String(Json.canonical(Json.parse(text)), StandardCharsets.UTF_8);
    }

    @Test
    public void canonicalTexts() throws Exception {
        List<?> pairs = texts("canonical");
        assertTrue(pairs.size() > 500);
        for (Object pair : pairs) {
            assertEquals(((List<?>) pair).get(1), canonical((String) ((List<?>) pair).get(0)));
        }
    }

    @Test
    public void valuesWithoutCanonicalText() throws Exception {
        for (Object text : texts("without_canonical")) {
            assertThrows((String) text, JsonException.class, () -> canonical((String) text));
        }
    }

    @Test
    public void whatIsNoJson() throws Exception {
        for (Object text : texts("refused")) {
            assertThrows((String) text, JsonException.class, () -> Json.parse((String) text));
        }
    }

    @Test
    public void kindsOfValues() {
        assertEquals(1L, Json.parse("1"));
        assertEquals(1.0, Json.parse("1.0"));
        assertEquals(new BigInteger("9223372036854775808"), Json.parse("9223372036854775808"));
        assertEquals(Long.MIN_VALUE, Json.parse("-9223372036854775808"));
        assertEquals(Double.NaN, Json.parse("NaN"));
        assertEquals(Double.NEGATIVE_INFINITY, Json.parse("-Infinity"));
        assertEquals(Arrays.asList(true, false, null), Json.parse("[true,false,null]"));
    }

    @Test
    public void anErrorNamesItsPlace() {
        JsonException error = assertThrows(JsonException.class, () -> Json.parse("[1, 2, x]"));
        assertEquals(7, error.position());
        assertEquals("no value at byte 7", error.getMessage());
    }

    @Test
    public void limits() {
        String deep = String.join("", Collections.nCopies(Json.MOST_DEPTH, "["));
        assertEquals(1, ((List<?>) Json.parse(deep + deep.replace('[', ']'))).size());
        says("nested deeper", "[" + deep + deep.replace('[', ']') + "]");
        String many = "0" + String.join("", Collections.nCopies(Json.MOST_VALUES - 2, ",0"));
        assertEquals(Json.MOST_VALUES - 1, ((List<?>) Json.parse("[" + many + "]")).size());
        says("more than 262144 values", "[" + many + ",0]");
        says("more than 8388608 bytes", String.join("", Collections.nCopies(Json.MOST_LENGTH + 1, " ")));
        assertThrows(JsonException.class, () -> Json.parse(new byte[Json.MOST_LENGTH + 1]));
    }

    private static void says(String what, String text) {
        String message = assertThrows(JsonException.class, () -> Json.parse(text)).getMessage();
        assertTrue(message, message.contains(what));
    }

    @Test
    public void plainTextIsWhatPythonWrites() {
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("b", Arrays.asList(1, 2.5f, "é\n\ud83d\ude00\u007f", null, true));
        value.put("a", new int[] {3, 4});
        value.put("c", Collections.emptyMap());
        assertEquals("{\"b\": [1, 2.5, \"\\u00e9\\n\\ud83d\\ude00\\u007f\", null, true], \"a\": [3, 4], \"c\": {}}",
                Json.write(value));
        assertThrows(JsonException.class, () -> Json.write(Double.NaN));
        assertThrows(JsonException.class, () -> Json.write(new Object()));
        assertThrows(JsonException.class, () -> Json.write(Collections.singletonMap(1, 2)));
    }

    /** The naive twin: the first precision of {@code %.Ne} that reads back, which may need one digit more at powers of two. */
    @Test
    public void floatsReadBackAndAreShort() {
        Random random = new Random(1);
        int shorter = 0;
        for (int i = 0; i < 5_000; i++) {
            double value = Double.longBitsToDouble(random.nextLong());
            if (Double.isNaN(value) || Double.isInfinite(value)) {
                continue;
            }
            String text = Json.repr(value);
            assertEquals(value, Double.parseDouble(text), 0);
            int digits = text.replaceAll("e.*|[-.]", "").replaceAll("^0+|0+$", "").length();
            assertTrue(text, digits <= naiveDigits(value));
            shorter += digits < 17 ? 1 : 0;
        }
        assertNotEquals(0, shorter);
    }

    private static int naiveDigits(double value) {
        for (int digits = 1; ; digits++) {
            String text = String.format(java.util.Locale.ROOT, "%." + (digits - 1) + "e", new java.math.BigDecimal(value));
            if (Double.parseDouble(text) == value) {
                return digits;
            }
        }
    }

    /** Sorting by UTF-16 unit, the negative control, gives another order. */
    @Test
    public void keysSortByCodePoint() {
        List<String> keys = Arrays.asList("\ud83d\ude00", "\uffff", "\ue000", "\ud7ff", "a", "", "ab");
        keys.sort(JsonWriter.BY_CODE_POINT);
        assertEquals(Arrays.asList("", "a", "ab", "\ud7ff", "\ue000", "\uffff", "\ud83d\ude00"), keys);
        Collections.sort(keys);
        assertEquals("\uffff", keys.get(6));
    }
}
