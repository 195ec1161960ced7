package org.dgemma.runtime.structure;

import java.util.Collections;
import java.util.List;

/** A regular expression as a tree. */
final class Syntax {
    /** Of {@link #most}: any number. */
    static final int UNBOUNDED = -1;

    enum Kind { CHARACTERS, SEQUENCE, CHOICE, REPEAT }

    final Kind kind;
    /** Of CHARACTERS, see {@link CodePoints}. */
    final int[] set;
    /** Of all others; REPEAT has one. */
    final List<Syntax> parts;
    final int least;
    final int most;
    /** How many trees stand inside one another. */
    final int depth;

    private Syntax(Kind kind, int[] set, List<Syntax> parts, int least, int most) {
        this.kind = kind;
        this.set = set;
        this.parts = parts;
        this.least = least;
        this.most = most;
        depth = 1 + parts.stream().mapToInt(part -> part.depth).max().orElse(0);
    }

    static Syntax characters(int[] set) {
        return new Syntax(Kind.CHARACTERS, set, Collections.emptyList(), 1, 1);
    }

    static Syntax sequence(List<Syntax> parts) {
        return parts.size() == 1 ? parts.get(0) : new Syntax(Kind.SEQUENCE, new int[0], parts, 1, 1);
    }

    static Syntax choice(List<Syntax> parts) {
        return parts.size() == 1 ? parts.get(0) : new Syntax(Kind.CHOICE, new int[0], parts, 1, 1);
    }

    static Syntax repeat(Syntax part, int least, int most) {
        return new Syntax(Kind.REPEAT, new int[0], Collections.singletonList(part), least, most);
    }
}
