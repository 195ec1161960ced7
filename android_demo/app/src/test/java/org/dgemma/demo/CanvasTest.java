package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import android.content.Context;
import android.content.res.Configuration;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.graphics.Color;
import android.view.View;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.Test;
import org.robolectric.RuntimeEnvironment;

/** Where tokens stand and how they look. */
public final class CanvasTest extends AppTest {
    private static final CanvasLayout.Measure LETTERS = text -> 10 * text.length();

    private static CanvasLayout layout(float width, String... pieces) {
        return CanvasLayout.of(Collections.singletonList(pieces), width, 1, 2, LETTERS);
    }

    @Test
    public void tokensFlowAndBreakAtTheWidth() {
        CanvasLayout made = layout(60, "ab", " cd", "e", "\n", "f");
        assertEquals("ab|cd|e|⏎|f", words(made));
        assertEquals(0, made.tokens[0].left, 0);
        assertEquals("a space before, at 22 + 10; 54 fit into 60", 32, made.tokens[1].left, 0);
        assertEquals("no room for 12 more", 1, made.tokens[2].line);
        assertEquals("a line ends with its sign", 1, made.tokens[3].line);
        assertEquals(2, made.tokens[4].line);
        assertEquals(3, made.lines);
    }

    /**
     * The loop against its statement: no overlap, no token beyond the width unless alone, a break only where needed.
     */
    @Test
    public void anyTokensKeepTheRules() {
        Random random = new Random(7);
        for (int trial = 0; trial < 300; trial++) {
            String[] pieces = new String[1 + random.nextInt(40)];
            for (int i = 0; i < pieces.length; i++) {
                String[] kinds = {"", " ", "a", " abc", "\n", "longer", " x", "אב", "🙂"};
                pieces[i] = kinds[random.nextInt(kinds.length)];
            }
            float width = 30 + random.nextInt(200);
            CanvasLayout made = layout(width, pieces);
            boolean mirrored = CanvasLayout.runsFromRight(Collections.singletonList(pieces));
            for (int i = 1; i < made.tokens.length; i++) {
                CanvasLayout.Token before = made.tokens[i - 1];
                CanvasLayout.Token token = made.tokens[i];
                if (token.line == before.line) {
                    float gap = mirrored
                            ? before.left - (token.left + token.width)
                            : token.left - (before.left + before.width);
                    assertEquals(pieces[i].startsWith(" ") ? 10 : 2, gap, 1e-3);
                    assertTrue(mirrored ? token.left >= -1e-3 : token.left + token.width <= width + 1e-3);
                } else {
                    assertEquals(before.line + 1, token.line);
                    float end = mirrored ? width - before.left : before.left + before.width;
                    float need = (pieces[i].startsWith(" ") ? 10 : 2) + token.width;
                    assertTrue(pieces[i - 1].endsWith("\n") || end + need > width);
                }
            }
        }
    }

    @Test
    public void whatCannotBeSeenHasASign() {
        assertEquals("·", CanvasLayout.visible(""));
        assertEquals("⏎", CanvasLayout.visible("\n"));
        assertEquals("\u00a0", CanvasLayout.visible(" "));
        assertEquals("ab", CanvasLayout.visible(" ab "));
    }

    @Test
    public void hebrewRunsFromTheRight() {
        CanvasLayout made = layout(100, "שלום", " עולם");
        assertTrue(made.tokens[0].left > made.tokens[1].left);
        assertEquals(100, made.tokens[0].left + made.tokens[0].width, 0);
        assertFalse(CanvasLayout.runsFromRight(Collections.singletonList(new String[] {"1", " hi", "שלום"})));
    }

    private static String words(CanvasLayout made) {
        List<String> words = new ArrayList<>();
        for (CanvasLayout.Token token : made.tokens) {
            words.add(token.text);
        }
        return String.join("|", words);
    }

    private static Frame frame(int step, Frame before, float entropy, boolean accepted, int... ids) {
        String[] pieces = new String[ids.length];
        Arrays.fill(pieces, "ab");
        float[] entropies = new float[ids.length];
        Arrays.fill(entropies, entropy);
        boolean[] all = new boolean[ids.length];
        Arrays.fill(all, accepted);
        return Frame.of(0, step, 16, ids, pieces, entropies, all, 100, new int[] {1}, "text", before);
    }

    @Test
    public void aFrameKnowsDoubtChangeAndEnd() {
        Frame first = frame(1, null, (float) Math.log(100), false, 5, 6, 1, 7);
        assertEquals("entropy of the uniform distribution is all doubt", 1, first.doubt[0], 1e-6);
        assertEquals("the first stop token ends the text", 2, first.length);
        assertFalse(first.changed[0]);
        Frame second = frame(2, first, 0, true, 5, 8, 1, 7);
        assertEquals(0, second.doubt[0], 0);
        assertTrue(Arrays.equals(new boolean[] {false, true, false, false}, second.changed));
        assertEquals(4, second.accepted());
        Frame other = Frame.of(
                1, 1, 16, new int[] {9, 9, 9, 9}, second.pieces, second.doubt, second.accepted, 100, new int[0], "",
                        second);
        assertFalse("another canvas has no frame before", other.changed[0]);
    }

    private int[] pixels(Frame... frames) {
        return pixels(app, frames);
    }

    private static int[] pixels(Context context, Frame... frames) {
        CanvasView view = new CanvasView(context, null);
        for (Frame frame : frames) {
            view.show(Collections.singletonList(frame), true);
        }
        int exactly = View.MeasureSpec.makeMeasureSpec(400, View.MeasureSpec.EXACTLY);
        view.measure(exactly, View.MeasureSpec.makeMeasureSpec(0, View.MeasureSpec.UNSPECIFIED));
        view.layout(0, 0, view.getMeasuredWidth(), view.getMeasuredHeight());
        Bitmap picture = Bitmap.createBitmap(view.getWidth(), view.getHeight(), Bitmap.Config.ARGB_8888);
        view.draw(new Canvas(picture));
        int[] all = new int[picture.getWidth() * picture.getHeight()];
        picture.getPixels(all, 0, picture.getWidth(), 0, 0, picture.getWidth(), picture.getHeight());
        return all;
    }

    /** Share of opaque-enough pixels nearer to one color than 40 in each channel. */
    private static int count(int[] pixels, int color) {
        int count = 0;
        for (int pixel : pixels) {
            boolean near = Color.alpha(pixel) > 200 && Math.abs(Color.red(pixel) - Color.red(color)) < 40
                    && Math.abs(Color.green(pixel) - Color.green(color)) < 40
                    && Math.abs(Color.blue(pixel) - Color.blue(color)) < 40;
            count += near ? 1 : 0;
        }
        return count;
    }

    @Test
    public void doubtIsAmberAndWhatIsAcceptedGreen() {
        for (String mode : new String[] {"+notnight", "+night"}) {
            RuntimeEnvironment.setQualifiers(mode);
            int amber = app.getColor(R.color.uncertain);
            int green = app.getColor(R.color.accepted);
            int[] doubtful = pixels(frame(1, null, 4.6f, false, 5, 6, 7));
            int[] sure = pixels(frame(1, null, 0, true, 5, 6, 7));
            assertTrue(mode, count(doubtful, amber) > 1000 && count(doubtful, green) < 50);
            assertTrue(mode, count(sure, green) > 1000 && count(sure, amber) < 50);
        }
        RuntimeEnvironment.setQualifiers("+notnight");
    }

    @Test
    public void whatChangedHasARing() {
        int ring = app.getColor(R.color.changed);
        Frame before = frame(1, null, 0, true, 5, 6, 7);
        assertEquals(0, count(pixels(before, frame(2, before, 0, true, 5, 6, 7)), ring));
        assertTrue(count(pixels(before, frame(2, before, 0, true, 5, 9, 7)), ring) > 50);
    }

    @Test
    public void largeFontsTakeMoreRoom() {
        Frame one = frame(1, null, 0, true, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        int small = pixels(one).length;
        Configuration twice = new Configuration(app.getResources().getConfiguration());
        twice.fontScale = 2;
        int large = pixels(app.createConfigurationContext(twice), one).length;
        assertTrue(large + " pixels, at twice the size " + small, large > 1.4 * small);
    }
}
