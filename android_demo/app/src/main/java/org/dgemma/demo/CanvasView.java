package org.dgemma.demo;

import android.animation.ValueAnimator;
import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.graphics.Typeface;
import android.text.TextPaint;
import android.util.AttributeSet;
import android.view.View;
import android.view.animation.DecelerateInterpolator;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * A canvas while it resolves: each token on a ground that fades from amber to nothing with its doubt, accepted ones on
 * a calm green, those that just changed inside a ring that fades. Canvases that are finished stand above it.
 */
public final class CanvasView extends View {
    private static final long FADE_MS = 450;

    private final TextPaint text = new TextPaint(Paint.ANTI_ALIAS_FLAG | Paint.SUBPIXEL_TEXT_FLAG);
    private final Paint ground = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint ring = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Map<String, Float> widths = new HashMap<>();
    private final TokenColors colors;
    private final float padding;
    private final float gap;
    private final float corner;
    private final float lineHeight;
    private final float baseline;
    private final float lineGap;
    private final float canvasGap;
    private final ValueAnimator fade = ValueAnimator.ofFloat(0, 1);

    private List<Frame> frames = Collections.emptyList();
    private @Nullable Frame before;
    private @Nullable CanvasLayout layout;
    private int layoutWidth = -1;
    private float progress = 1;

    public CanvasView(Context context, @Nullable AttributeSet attributes) {
        super(context, attributes);
        float dp = getResources().getDisplayMetrics().density;
        colors = new TokenColors(context);
        text.setTextSize(getResources().getDimension(R.dimen.token_text));
        text.setTypeface(Typeface.create("sans-serif", Typeface.NORMAL));
        padding = 2 * dp;
        gap = 1.5f * dp;
        corner = getResources().getDimension(R.dimen.token_corner);
        Paint.FontMetrics metrics = text.getFontMetrics();
        lineHeight = metrics.descent - metrics.ascent + 3 * dp;
        baseline = 1.5f * dp - metrics.ascent;
        lineGap = 4 * dp;
        canvasGap = 12 * dp;
        ring.setStyle(Paint.Style.STROKE);
        ring.setStrokeWidth(1.5f * dp);
        fade.setDuration(FADE_MS);
        fade.setInterpolator(new DecelerateInterpolator());
        fade.addUpdateListener(animation -> {
            progress = (float) animation.getAnimatedValue();
            invalidate();
        });
        show(Collections.emptyList(), false);
    }

    /**
     * @param shown the last frame of each canvas, in order; the last one is being denoised
     * @param animated fade from the frame before
     */
    void show(List<Frame> shown, boolean animated) {
        before = frames.isEmpty() ? null : frames.get(frames.size() - 1);
        frames = shown;
        fade.cancel();
        progress = animated ? 0 : 1;
        if (animated && ValueAnimator.areAnimatorsEnabled() && isAttachedToWindow()) {
            fade.start();
        }
        layout = null;
        setContentDescription(describe());
        requestLayout();
        invalidate();
    }

    /** What is shown now. */
    List<Frame> frames() {
        return frames;
    }

    private String describe() {
        if (frames.isEmpty()) {
            return getResources().getString(R.string.canvas_empty);
        }
        Frame last = frames.get(frames.size() - 1);
        return getResources().getString(
                R.string.canvas_description, last.canvas + 1, last.step, last.accepted(), last.pieces.length, last.text);
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        int width = MeasureSpec.getSize(widthSpec);
        CanvasLayout tokens = layout(width - getPaddingLeft() - getPaddingRight());
        int breaks = Math.max(0, tokens.firstLines.length - 1);
        float height = tokens.lines * (lineHeight + lineGap) + breaks * canvasGap;
        // At least one line stands open, so that the first frame does not push everything down.
        height = Math.max(height, lineHeight + lineGap);
        setMeasuredDimension(width, (int) Math.ceil(height) + getPaddingTop() + getPaddingBottom());
    }

    private CanvasLayout layout(int width) {
        if (layout == null || layoutWidth != width) {
            List<String[]> pieces = new ArrayList<>();
            for (Frame frame : frames) {
                pieces.add(frame.pieces);
            }
            layout = CanvasLayout.of(pieces, width, padding, gap, this::width);
            layoutWidth = width;
        }
        return layout;
    }

    private float width(String token) {
        Float known = widths.get(token);
        if (known == null) {
            known = text.measureText(token);
            widths.put(token, known);
        }
        return known;
    }

    @Override
    protected void onDraw(Canvas canvas) {
        CanvasLayout tokens = layout(getWidth() - getPaddingLeft() - getPaddingRight());
        for (CanvasLayout.Token token : tokens.tokens) {
            Frame frame = frames.get(token.canvas);
            boolean live = token.canvas == frames.size() - 1;
            float left = getPaddingLeft() + token.left;
            float top = getPaddingTop() + token.line * (lineHeight + lineGap) + token.canvas * canvasGap + lineGap / 2;
            drawToken(canvas, token, frame, live, left, top);
            text.setColor(colors.text(frame, token.position));
            canvas.drawText(token.text, left + padding, top + baseline, text);
        }
        ring.setColor(colors.outline);
        for (int c = 1; c < tokens.firstLines.length; c++) {
            float y = getPaddingTop() + tokens.firstLines[c] * (lineHeight + lineGap) + (c - 0.5f) * canvasGap;
            canvas.drawLine(getPaddingLeft(), y, getWidth() - getPaddingRight(), y, ring);
        }
    }

    private void drawToken(Canvas canvas, CanvasLayout.Token token, Frame frame, boolean live, float left, float top) {
        int color = colors.ground(frame, token.position);
        if (live && before != null && before.canvas == frame.canvas && before.pieces.length == frame.pieces.length) {
            color = TokenColors.mix(colors.ground(before, token.position), color, progress);
        }
        ground.setColor(color);
        float right = left + token.width;
        canvas.drawRoundRect(left, top, right, top + lineHeight, corner, corner, ground);
        if (live && frame.changed[token.position] && progress < 1) {
            ring.setColor(TokenColors.fade(colors.changed, 1 - progress));
            float half = ring.getStrokeWidth() / 2;
            canvas.drawRoundRect(left + half, top + half, right - half, top + lineHeight - half, corner, corner, ring);
        }
    }

    @Override
    protected void onDetachedFromWindow() {
        super.onDetachedFromWindow();
        fade.cancel();
        progress = 1;
    }
}
