package org.dgemma.runtime.structure;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import org.dgemma.format.Json;
import org.dgemma.runtime.Structure;
import org.dgemma.runtime.UsageException;
import org.dgemma.tokenizer.Tokenizer;
import org.jspecify.annotations.Nullable;

/**
 * Structures compiled for one tokenizer, and cached; the vocabulary is read at first use. It knows which expression or file a
 * structure is, and nothing of canvases. Not safe for use by several threads.
 */
public final class Languages {
    private static final int KEPT = 8; // automata; the one that was not used for the longest time goes first

    private final Tokenizer tokenizer;
    private final int size;
    private final @Nullable CallForm calls;
    private final Map<Structure, TokenAutomaton> kept = new LinkedHashMap<>(KEPT, 0.75f, true);
    private @Nullable Vocabulary vocabulary;
    private @Nullable TokenTree first;
    private @Nullable TokenTree later;

    /**
     * @param size ids of the model
     * @param calls how it writes calls of tools; null where it writes none
     */
    public Languages(Tokenizer tokenizer, int size, @Nullable CallForm calls) {
        this.tokenizer = tokenizer;
        this.size = size;
        this.calls = calls;
    }

    /**
     * An answer of a structure.
     *
     * @param stops ids that end it
     * @param pad what stands behind it
     * @param choices ids of the answers whose probabilities are wanted
     * @param cancelled asked while the structure is compiled
     * @throws UsageException no expression, no text, too large or too slow
     * @throws Cancelled
     */
    public StructuredAnswer answer(
            Structure structure, int[] stops, int pad, List<int[]> choices, BooleanSupplier cancelled) {
        TokenAutomaton found = kept.get(structure);
        if (found == null) {
            try {
                found = compiled(structure, new Patience(cancelled));
            } catch (Patience.Late error) {
                throw new UsageException(structure.name() + ": takes more than " + (int) Patience.SECONDS
                        + " s to compile; use a smaller or simpler one", error);
            }
            kept.put(structure, found);
            if (kept.size() > KEPT) {
                kept.remove(kept.keySet().iterator().next());
            }
        }
        return new StructuredAnswer(found, structure.name(), stops, pad, choices, structure.isCall());
    }

    private TokenAutomaton compiled(Structure structure, Patience patience) {
        ByteAutomaton automaton = structure.compiled != null ? structure.compiled.automaton(calls)
                : ByteAutomaton.compiled(expression(structure, patience), structure.name(), patience);
        if (vocabulary == null || first == null || later == null) {
            Vocabulary read = Vocabulary.of(tokenizer, size, calls == null ? new int[0] : calls.markers, patience);
            later = new TokenTree(read.later, read.ranked, patience);
            first = read.first == read.later ? later : new TokenTree(read.first, read.ranked, patience);
            vocabulary = read;
        }
        if (structure.isCall() && first != later) {
            throw new UsageException(structure.name()
                    + ": this bundle's tokenizer drops spaces behind markers, so a call would not be read as it was written");
        }
        return TokenAutomaton.lifted(automaton, vocabulary, first, later, structure.name(), patience);
    }

    /** The regular expression that a structure is, unless it is compiled. Throws UsageException, Cancelled, Patience.Late. */
    static String expression(Structure structure, Patience patience) {
        if (structure.regex != null) {
            return structure.regex;
        }
        if (structure.jsonSchema != null) {
            return new SchemaWriter(Json.parse(structure.jsonSchema), patience).write();
        }
        return structure.choices.stream().map(JsonValues::literal).collect(Collectors.joining("|"));
    }
}
