package org.dgemma.demo;

import android.content.Context;
import android.graphics.Color;

/** How doubt looks, in the theme of the moment. */
final class TokenColors {
    final int changed;
    final int outline;
    private final int ink;
    private final int faint;
    private final int uncertain;
    private final int sure;

    TokenColors(Context context) {
        changed = context.getColor(R.color.changed);
        outline = context.getColor(R.color.outline);
        ink = context.getColor(R.color.ink);
        faint = context.getColor(R.color.ink_faint);
        uncertain = context.getColor(R.color.uncertain);
        sure = context.getColor(R.color.accepted);
    }

    /** Behind a token. */
    int ground(Frame frame, int position) {
        return ground(frame.doubt[position], frame.accepted[position], position >= frame.length);
    }

    /** @param doubt 0 to 1 */
    int ground(float doubt, boolean accepted, boolean beyondEnd) {
        int color = accepted ? sure : fade(uncertain, 0.12f + 0.88f * doubt);
        return beyondEnd ? fade(color, 0.4f) : color;
    }

    /** Of a token's own letters: what is doubtful is paler, what is beyond the end of the text hardly there. */
    int text(Frame frame, int position) {
        if (position >= frame.length) {
            return faint;
        }
        return frame.accepted[position] ? ink : fade(ink, 1 - 0.45f * frame.doubt[position]);
    }

    /** A color with its opacity times a part. */
    static int fade(int color, float part) {
        return Color.argb(Math.round(Color.alpha(color) * part), Color.red(color), Color.green(color),
                Color.blue(color));
    }

    /** From one color to another, by part 0 to 1. */
    static int mix(int from, int to, float part) {
        return Color.argb(
                between(Color.alpha(from), Color.alpha(to), part), between(Color.red(from), Color.red(to), part),
                between(Color.green(from), Color.green(to), part), between(Color.blue(from), Color.blue(to), part));
    }

    private static int between(int from, int to, float part) {
        return Math.round(from + (to - from) * part);
    }
}
