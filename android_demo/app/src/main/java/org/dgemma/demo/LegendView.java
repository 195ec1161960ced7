package org.dgemma.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.text.TextPaint;
import android.util.AttributeSet;
import android.view.View;
import org.jspecify.annotations.Nullable;

/** What the colors of a canvas mean. */
public final class LegendView extends View {
    private final TextPaint text = new TextPaint(Paint.ANTI_ALIAS_FLAG);
    private final Paint ground = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final TokenColors colors;
    private final String[] words;
    private final float dp;
    private final float height;

    public LegendView(Context context, @Nullable AttributeSet attributes) {
        super(context, attributes);
        colors = new TokenColors(context);
        dp = getResources().getDisplayMetrics().density;
        text.setTextSize(getResources().getDimension(R.dimen.token_text) * 0.85f);
        text.setColor(context.getColor(R.color.ink));
        words = new String[] {
            context.getString(R.string.legend_uncertain), context.getString(R.string.legend_changed),
            context.getString(R.string.legend_accepted),
        };
        height = text.getFontMetrics().descent - text.getFontMetrics().ascent + 8 * dp;
        setContentDescription(String.join(", ", words));
    }

    @Override
    protected void onMeasure(int widthSpec, int heightSpec) {
        setMeasuredDimension(MeasureSpec.getSize(widthSpec), (int) Math.ceil(height));
    }

    @Override
    protected void onDraw(Canvas canvas) {
        boolean mirrored = getLayoutDirection() == LAYOUT_DIRECTION_RTL;
        float x = 0;
        for (int i = 0; i < words.length; i++) {
            float width = text.measureText(words[i]) + 16 * dp;
            float left = mirrored ? getWidth() - x - width : x;
            draw(canvas, i, left, width);
            x += width + 8 * dp;
        }
    }

    private void draw(Canvas canvas, int which, float left, float width) {
        float corner = getResources().getDimension(R.dimen.token_corner);
        float edge = dp;
        ground.setStyle(Paint.Style.FILL);
        ground.setColor(which == 2 ? colors.ground(0, true, false) : colors.ground(which == 0 ? 0.8f : 0.25f, false,
                false));
        canvas.drawRoundRect(left, edge, left + width, height - edge, corner, corner, ground);
        if (which == 1) {
            ground.setStyle(Paint.Style.STROKE);
            ground.setStrokeWidth(1.5f * dp);
            ground.setColor(colors.changed);
            canvas.drawRoundRect(left + edge, 2 * edge, left + width - edge, height - 2 * edge, corner, corner, ground);
        }
        canvas.drawText(words[which], left + 8 * dp, 4 * dp - text.getFontMetrics().ascent, text);
    }
}
