package org.dgemma.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.text.TextPaint;
import android.util.AttributeSet;
import android.view.View;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Tokens/s of diffusion and of the autoregressive baseline, group by group, on one scale. */
public final class BarsView extends View {
    private final TextPaint text = new TextPaint(Paint.ANTI_ALIAS_FLAG);
    private final Paint bar = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final float dp;
    private final float line;
    private List<BenchmarkFigures.Pair> pairs = Collections.emptyList();

    public BarsView(Context context, @Nullable AttributeSet attributes) {
        super(context, attributes);
        dp = getResources().getDisplayMetrics().density;
        text.setTextSize(getResources().getDimension(R.dimen.token_text) * 0.875f);
        line = text.getFontMetrics().descent - text.getFontMetrics().ascent;
    }

    void show(List<BenchmarkFigures.Pair> values) {
        pairs = values;
        StringBuilder words = new StringBuilder();
        for (BenchmarkFigures.Pair pair : values) {
            words.append(pair.group).append(": ");
            words.append(getContext().getString(R.string.diffusion)).append(' ').append(speed(pair.diffusion));
            words.append(", ").append(getContext().getString(R.string.autoregressive)).append(' ');
            words.append(speed(pair.autoregressive)).append(". ");
        }
        setContentDescription(words);
        requestLayout();
        invalidate();
    }

    private String speed(double value) {
        return getContext().getString(R.string.tokens_per_s, BenchmarkFigures.format(value, 0));
    }

    /** A heading and two bars with a line of text each. */
    private float groupHeight() {
        return 3 * line + 2 * 14 * dp + 16 * dp;
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        float height = pairs.size() * groupHeight() - (pairs.isEmpty() ? 0 : 12 * dp);
        setMeasuredDimension(
                MeasureSpec.getSize(widthSpec), (int) Math.ceil(height) + getPaddingTop() + getPaddingBottom());
    }

    @Override
    protected void onDraw(Canvas canvas) {
        double most = 1e-9;
        for (BenchmarkFigures.Pair pair : pairs) {
            most = Math.max(most, Math.max(pair.diffusion, pair.autoregressive));
        }
        float y = getPaddingTop();
        for (BenchmarkFigures.Pair pair : pairs) {
            text.setFakeBoldText(true);
            text.setColor(getContext().getColor(R.color.ink));
            drawText(canvas, pair.group + " · ×" + BenchmarkFigures.format(pair.diffusion / pair.autoregressive, 1),
                    y, false);
            text.setFakeBoldText(false);
            float next = y + line + 4 * dp;
            next = drawBar(canvas, R.string.diffusion, pair.diffusion, most, next, R.color.accent);
            drawBar(canvas, R.string.autoregressive, pair.autoregressive, most, next, R.color.uncertain);
            y += groupHeight();
        }
    }

    private float drawBar(Canvas canvas, int name, double value, double most, float y, int color) {
        text.setColor(getContext().getColor(R.color.ink_soft));
        drawText(canvas, getContext().getString(name), y, false);
        text.setColor(getContext().getColor(R.color.ink));
        drawText(canvas, speed(value), y, true);
        float width = getWidth() - getPaddingLeft() - getPaddingRight();
        float length = Math.max(4 * dp, (float) (width * value / most));
        float left = mirrored() ? getWidth() - getPaddingRight() - length : getPaddingLeft();
        float top = y + line + 2 * dp;
        bar.setColor(getContext().getColor(R.color.outline));
        canvas.drawRoundRect(getPaddingLeft(), top, getPaddingLeft() + width, top + 6 * dp, 3 * dp, 3 * dp, bar);
        bar.setColor(getContext().getColor(color));
        canvas.drawRoundRect(left, top, left + length, top + 6 * dp, 3 * dp, 3 * dp, bar);
        return top + 12 * dp;
    }

    private boolean mirrored() {
        return getLayoutDirection() == LAYOUT_DIRECTION_RTL;
    }

    /** At the start of a line, or at its end. */
    private void drawText(Canvas canvas, String words, float y, boolean atEnd) {
        boolean right = atEnd != mirrored();
        float x = right ? getWidth() - getPaddingRight() - text.measureText(words) : getPaddingLeft();
        canvas.drawText(words, x, y - text.getFontMetrics().ascent, text);
    }
}
