package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.dgemma.format.Json;
import org.dgemma.tokenizer.Tokenizer;

/**
 * What is known of a canvas before its first step: a template, whose text is fixed and whose holes are denoised, or a draft,
 * part of which is replaced by noise. It knows ids and positions, and nothing of how a canvas is denoised. N canvas.
 */
final class Given {
    private static final int SHOWN = 40;

    /** [N] ids; noise takes the place of those that are neither pinned nor drafted. */
    final int[] ids;
    /** [N] positions whose ids stay. */
    final boolean[] pinned;
    /** Whether all positions begin as their ids, but for a share of {@link #strength}, which begins as noise. */
    final boolean drafted;
    /** Also the share of the steps that run, the last ones. */
    final double strength;
    /** First position and end of each hole of a template. */
    final List<int[]> holes;
    /** Tokens of a template, which is the whole answer; NO_TEMPLATE for a draft. */
    final int length;

    private static final int NO_TEMPLATE = -1;

    private Given(int[] ids, boolean[] pinned, boolean drafted, double strength, List<int[]> holes, int length) {
        this.ids = ids;
        this.pinned = pinned;
        this.drafted = drafted;
        this.strength = strength;
        this.holes = Collections.unmodifiableList(holes);
        this.length = length;
    }

    /** The canvas of a template: its pieces, its holes, the stop token, and padding behind it. Throws UsageException. */
    static Given fromTemplate(Manifest manifest, Tokenizer tokenizer, String text) {
        IntList ids = new IntList();
        List<int[]> holes = new ArrayList<>();
        for (Object piece : Template.read(text)) {
            int[] more = piece instanceof String ? exact(tokenizer, (String) piece, ids.size() > 0) : new int[(Integer) piece];
            if (piece instanceof Integer) {
                holes.add(new int[] {ids.size(), ids.size() + more.length});
            }
            ids.add(more, more.length);
        }
        int length = ids.size();
        int n = manifest.canvasLength;
        if (length > n) {
            throw new UsageException("template takes " + length + " tokens, and a canvas of this bundle has " + n
                    + "; make holes or text shorter");
        }
        boolean[] pinned = new boolean[n];
        Arrays.fill(pinned, true);
        holes.forEach(hole -> Arrays.fill(pinned, hole[0], hole[1], false));
        return new Given(ended(manifest, ids, n), pinned, false, 1, holes, length);
    }

    /** The canvases of a draft, the last with the stop token, and padding behind it. */
    static List<Given> fromDraft(Manifest manifest, Tokenizer tokenizer, String text, double strength) {
        int n = manifest.canvasLength;
        int[] said = tokenizer.encodeUser(text);
        IntList ids = new IntList();
        ids.add(said, said.length);
        int[] all = ended(manifest, ids, said.length / n * n + n);
        List<Given> found = new ArrayList<>();
        for (int at = 0; at < all.length; at += n) {
            int[] canvas = Arrays.copyOfRange(all, at, at + n);
            found.add(new Given(canvas, new boolean[n], true, strength, Collections.emptyList(), NO_TEMPLATE));
        }
        return found;
    }

    /** Ids with what stands behind an answer on its canvas, {@code size} of them. */
    private static int[] ended(Manifest manifest, IntList ids, int size) {
        int[] stops = manifest.model.eosTokenIds;
        int[] end = manifest.chat == null ? Arrays.copyOf(stops, Math.min(stops.length, 1))
                : Chat.endOfTurn(stops, manifest.chat);
        int[] all = Arrays.copyOf(ids.toArray(), size);
        Arrays.fill(all, ids.size(), size, manifest.model.padTokenId);
        System.arraycopy(end, 0, all, ids.size(), Math.min(end.length, size - ids.size()));
        return all;
    }

    /** Ids that say a piece exactly where it stands; throws UsageException where the tokenizer would add or change something. */
    private static int[] exact(Tokenizer tokenizer, String piece, boolean follows) {
        int[] ids = tokenizer.encodeUser(piece);
        int[] before = follows ? tokenizer.encodeUser("a") : new int[0];
        int[] both = Arrays.copyOf(before, before.length + ids.length);
        System.arraycopy(ids, 0, both, before.length, ids.length);
        if (!tokenizer.decode(both).equals(tokenizer.decode(before) + piece)) {
            throw new UsageException("template text " + Json.repr(piece, SHOWN)
                    + " cannot be kept exactly by this bundle's tokenizer; write it in other words");
        }
        return ids;
    }

    boolean isTemplate() {
        return length != NO_TEMPLATE;
    }

    /** Puts what is known on the initial canvas [N]; words [N] say which of a draft's ids stay. */
    void begin(long[] canvas, long[] words) {
        for (int i = 0; i < ids.length; i++) {
            if (pinned[i] || drafted && Noise.uniform(words[i]) >= strength) {
                canvas[i] = ids[i];
            }
        }
    }

    /** How many of the steps are left out. */
    int firstStep(int steps) {
        return steps - Math.max(1, (int) Math.ceil(strength * steps));
    }
}
