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
    /** First position and end, in the answer, of each hole of a template that begins on this canvas. */
    final List<int[]> holes;
    /** Tokens of a template on this canvas; NO_TEMPLATE for a draft. */
    final int length;
    /** Whether a template ends on this canvas, which ends the answer. */
    final boolean ends;

    private static final int NO_TEMPLATE = -1;

    private Given(
            int[] ids, boolean[] pinned, boolean drafted, double strength, List<int[]> holes, int length, boolean ends) {
        this.ids = ids;
        this.pinned = pinned;
        this.drafted = drafted;
        this.strength = strength;
        this.holes = Collections.unmodifiableList(holes);
        this.length = length;
        this.ends = ends;
    }

    /** The canvases of a template: its pieces and holes, behind them the stop token and padding. Throws UsageException. */
    static List<Given> fromTemplate(Manifest manifest, Tokenizer tokenizer, String text) {
        IntList ids = new IntList();
        List<int[]> holes = new ArrayList<>();
        List<Object> pieces = Template.read(text);
        long blank = pieces.stream().mapToLong(piece -> piece instanceof Integer ? (Integer) piece : 0).sum();
        if (blank > manifest.context) {
            throw new UsageException("template has holes of " + blank + " tokens, more than the context of " + manifest.context
                    + "; make them shorter");
        }
        for (Object piece : pieces) {
            int[] more = piece instanceof String ? exact(tokenizer, (String) piece, ids.size() > 0) : new int[(Integer) piece];
            if (piece instanceof Integer) {
                holes.add(new int[] {ids.size(), ids.size() + more.length});
            }
            ids.add(more, more.length);
        }
        int length = ids.size();
        int n = manifest.canvasLength;
        int[] all = ended(manifest, ids, (length + n - 1) / n * n);
        boolean[] pinned = new boolean[all.length];
        Arrays.fill(pinned, true);
        holes.forEach(hole -> Arrays.fill(pinned, hole[0], hole[1], false));
        List<Given> found = new ArrayList<>();
        for (int at = 0; at < length; at += n) {
            int end = at + n;
            List<int[]> begun = new ArrayList<>();
            for (int[] hole : holes) {
                if (at <= hole[0] && hole[0] < end) {
                    begun.add(hole);
                }
            }
            int[] canvas = Arrays.copyOfRange(all, at, end);
            boolean[] stays = Arrays.copyOfRange(pinned, at, end);
            found.add(new Given(canvas, stays, false, 1, begun, Math.min(n, length - at), end >= length));
        }
        return found;
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
            found.add(new Given(canvas, new boolean[n], true, strength, Collections.emptyList(), NO_TEMPLATE, false));
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
