package org.dgemma.runtime.structure;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.UsageException;
import org.junit.Test;

/** Languages lifted to ids, and the likeliest canvas, beside naive twins. */
public class BestPathTest {
    private static final int PAD = 0;
    private static final int[] STOPS = {1, 2};
    private static final byte[][] PIECES = pieces("", "", "", "a", "b", "ab", "ba", "\u00c3", "\u00a9", "é", "aaa", "a", "\"", "1", " a");

    /** Those of one character of Latin-1 beyond ASCII, but é, stand for a byte. */
    private static byte[][] pieces(String... texts) {
        byte[][] found = new byte[texts.length][];
        for (int i = 0; i < found.length; i++) {
            boolean single = texts[i].equals("\u00c3") || texts[i].equals("\u00a9");
            found[i] = texts[i].getBytes(single ? StandardCharsets.ISO_8859_1 : StandardCharsets.UTF_8);
        }
        return found;
    }

    private static TokenAutomaton lifted(String regex) {
        return lifted(regex, PIECES);
    }

    private static TokenAutomaton lifted(String regex, byte[][] first) {
        Patience patience = new Patience(() -> false);
        Vocabulary words = new Vocabulary(first, PIECES, new boolean[PIECES.length]);
        return TokenAutomaton.lifted(ByteAutomaton.compiled(regex, "regex", patience), words,
                new TokenTree(first, words.ranked, patience), new TokenTree(PIECES, words.ranked, patience), "regex", patience);
    }

    private static Scores scores(Random random, int n, int k) {
        Scores found = new Scores(n);
        for (int i = 0; i < n; i++) {
            List<Long> ids = new ArrayList<>();
            for (long id = 0; id < PIECES.length; id++) {
                ids.add(random.nextInt(ids.size() + 1), id);
            }
            double[] values = random.doubles(k).map(u -> 3 * Math.log(u) - 1.7).sorted().toArray();
            float[] falling = new float[k];
            for (int j = 0; j < k; j++) {
                falling[j] = (float) values[k - 1 - j];
            }
            found.set(i, ids.subList(0, k).stream().mapToLong(id -> id).toArray(), falling, PIECES.length);
        }
        return found;
    }

    private static BestPath.Place place(TokenAutomaton automaton, int room, int after) {
        return new BestPath.Place(automaton.begin, room, after, STOPS, PAD);
    }

    private static int[] answer(int[] path) {
        int end = 0;
        while (end < path.length && path[end] != STOPS[0] && path[end] != STOPS[1]) {
            end++;
        }
        return Arrays.copyOf(path, end);
    }

    private static double total(Scores scores, int[] path) {
        double sum = 0;
        for (int i = 0; i < path.length; i++) {
            sum += scores.of(i, path[i]);
        }
        return sum;
    }

    /** The best sum over all canvases there are. */
    private static double naive(TokenAutomaton automaton, Scores scores, int room, int after, int[] begun) {
        int n = scores.positions();
        double best = Double.NEGATIVE_INFINITY;
        int state = automaton.after(begun);
        double sum = total(scores, begun);
        if (begun.length < n && automaton.accepting[state]) {
            double end = sum + Math.max(scores.of(begun.length, 1), scores.of(begun.length, 2));
            for (int i = begun.length + 1; i < n; i++) {
                end += Math.max(scores.of(i, PAD), Math.max(scores.of(i, 1), scores.of(i, 2)));
            }
            best = end;
        } else if (begun.length == n && automaton.distance[state] <= after) {
            best = sum;
        }
        for (int id = 3; begun.length < Math.min(room, n) && id < PIECES.length; id++) {
            int[] more = Arrays.copyOf(begun, begun.length + 1);
            more[begun.length] = id;
            best = Math.max(best, naive(automaton, scores, room, after, more));
        }
        return best;
    }

    @Test
    public void thePathIsTheBestOfAllPaths() {
        Random random = new Random(0);
        int[][] places = {{3, 0}, {3, 2}, {2, 0}};
        for (String regex : new String[] {"a*", "(ab|é){1,2}", "a{5}|1", "\"[^\"]*\"?"}) {
            for (int[] each : places) {
                TokenAutomaton automaton = lifted(regex);
                Scores scores = scores(random, 3, 5);
                double best = naive(automaton, scores, each[0], each[1], new int[0]);
                if (best == Double.NEGATIVE_INFINITY) {
                    assertThrows(EngineException.class, () -> BestPath.of(automaton, scores, place(automaton, each[0], each[1])));
                    continue;
                }
                int[] path = BestPath.of(automaton, scores, place(automaton, each[0], each[1]));
                assertEquals(regex, best, total(scores, path), 1e-9);
                int[] ids = answer(path);
                int state = automaton.after(ids);
                assertTrue(regex, ids.length < 3 ? automaton.accepting[state] : automaton.distance[state] <= each[1]);
            }
        }
    }

    @Test
    public void aWorsePathIsToldFromTheBest() {
        TokenAutomaton automaton = lifted("[ab1]*");
        Scores scores = scores(new Random(1), 3, 5);
        int[] other = BestPath.of(automaton, scores(new Random(2), 3, 5), place(automaton, 3, 0));
        assertNotEquals(naive(automaton, scores, 3, 0, new int[0]), total(scores, other), 1e-6);
    }

    @Test
    public void idsLeadWhereTheirBytesDo() {
        TokenAutomaton automaton = lifted("(ab|é)*b?");
        for (int state = 0; state < automaton.dead; state++) {
            Map<Integer, Integer> found = new HashMap<>();
            for (int edge = automaton.row[state]; edge < automaton.row[state + 1]; edge++) {
                found.put(automaton.target[edge], automaton.id[edge]);
            }
            Map<Integer, Integer> naive = new HashMap<>();
            for (int id : automaton.vocabulary.ranked) {
                int to = PIECES[id].length == 0 ? automaton.dead : automaton.automaton.after(PIECES[id], state);
                if (to != automaton.dead) {
                    naive.putIfAbsent(to, id);
                }
            }
            assertEquals(naive, found);
        }
        for (int id = -1; id <= PIECES.length; id++) {
            int[] moves = automaton.moves(id);
            int count = 0;
            for (int state = 0; state < automaton.dead; state++) {
                count += automaton.step(state, id) == automaton.dead ? 0 : 1;
            }
            assertEquals(count, moves.length / 2);
            for (int i = 0; i < moves.length; i += 2) {
                assertEquals(automaton.step(moves[i], id), moves[i + 1]);
            }
        }
    }

    @Test
    public void theFirstIdMayWriteSomethingElse() {
        byte[][] first = PIECES.clone();
        first[14] = PIECES[3];
        TokenAutomaton automaton = lifted("a( a)*", first);
        assertTrue(automaton.accepting[automaton.after(new int[] {14, 14})]);
        assertEquals(automaton.dead, automaton.after(new int[] {3, 3}));
        int[] path = BestPath.of(automaton, scores(new Random(0), 4, 5), place(automaton, 4, 0));
        assertTrue(automaton.accepting[automaton.after(answer(path))]);
    }

    @Test
    public void distancesCountIds() {
        Object[][] all = {{"a{7}", 3}, {"é", 1}, {"(ab){3}|b", 1}, {"", 0}, {"z", TokenAutomaton.NEVER}};
        for (Object[] each : all) {
            TokenAutomaton automaton = lifted((String) each[0]);
            assertEquals(each[1], automaton.distance[automaton.begin]);
        }
    }

    @Test
    public void tiesGoToTheLowestId() {
        TokenAutomaton automaton = lifted("a|b|1");
        Scores even = new Scores(2);
        for (int i = 0; i < 2; i++) {
            even.set(i, new long[] {14}, new float[] {-3}, PIECES.length);
        }
        assertArrayEquals(new int[] {3, 1}, BestPath.of(automaton, even, place(automaton, 2, 0)));
    }

    @Test
    public void pinnedIdsStay() {
        TokenAutomaton automaton = lifted("(a|b){4}");
        int[] path = BestPath.of(automaton, scores(new Random(3), 6, 5), place(automaton, 6, 0));
        Scores other = scores(new Random(4), 6, 5);
        for (int i = 0; i < 6; i += 2) {
            other.pin(i, path[i]);
        }
        int[] again = BestPath.of(automaton, other, place(automaton, 6, 0));
        for (int i = 0; i < 6; i += 2) {
            assertEquals(path[i], again[i]);
        }
        assertTrue(automaton.accepting[automaton.after(answer(again))]);
    }

    @Test
    public void compilingEndsWhenItIsTold() {
        String regex = "(a|b)*a(a|b){13}";
        assertThrows(Cancelled.class, () -> ByteAutomaton.compiled(regex, "regex", new Patience(() -> true)));
        assertThrows(Patience.Late.class, () -> ByteAutomaton.compiled(regex, "regex", new Patience(() -> false, 0)));
        assertEquals(1 << 14, ByteAutomaton.compiled(regex, "regex", new Patience(() -> false)).states);
    }

    @Test
    public void whatPythonReadsAndJavaDoesNotIsRefusedByName() {
        String[][] all = {
            {"(?i)a", "has the flags (?i), which Java does not compile; write it in other words, or compile it with `dgemma structure`"},
            {"(?s:.)", "has the flags (?s), "},
            {"\\p{L}", "has the Unicode class \\p, "},
            {"[a[b]]", "has [ inside a class, "},
            {"[a&&b]", "has && inside a class, "},
            {"[a--b]", "has -- inside a class, "},
            {"[a~~b]", "has ~~ inside a class, "},
            {"a\\z", "has ^, $ or \\b inside; "},
            {"a^b", "has ^, $ or \\b inside; "},
            {"[^\\s\\S]", "matches no text; "},
            {"a" + new String(new char[300]).replace("\0", "{1}"), "is nested more than 250 deep; make it flatter"},
            {new String(new char[300]).replace("\0", "(") + "a" + new String(new char[300]).replace("\0", ")"),
                "is nested more than 250 deep; make it flatter"},
            {new String(new char[1 << 21]).replace("\0", "a"), "make it shorter"},
        };
        for (String[] each : all) {
            UsageException error = assertThrows(
                    UsageException.class, () -> ByteAutomaton.compiled(each[0], "regex", new Patience(() -> false)));
            assertTrue(error.getMessage(), error.getMessage().startsWith("regex ") && error.getMessage().contains(each[1]));
        }
    }
}
