package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.File;
import org.junit.Test;

/** The adaptive stop, and its mean against numpy's to the last bit. */
public class AdaptiveStopTest {
    /** Length, and {@code mean(dtype=float64)} that numpy 2.4 gave for {@link #values} of this length. */
    private static final Object[][] NUMPY = {
        {1, 0x1.99bd400000000p-9}, {7, 0x1.37e3c20b12db7p-2}, {8, 0x1.45e118762a945p-2}, {9, 0x1.690c08152496ep-3},
        {64, 0x1.458e903340e20p-3}, {127, 0x1.5695d3356bdffp-3}, {128, 0x1.c187a6b19fd4ap-3},
        {129, 0x1.93d6350a66b08p-3}, {200, 0x1.9f71abfc5b974p-3}, {256, 0x1.a547e527899b2p-3},
        {300, 0x1.a61c75a8570a9p-3}, {1000, 0x1.ac87850c046fep-3},
    };

    private static float[] values(int n) {
        float[] values = new float[n];
        int x = n;
        for (int i = 0; i < n; i++) {
            x = x * 1664525 + 1013904223;
            float u = (x >>> 8) * 0x1p-24f;
            float square = u * u;
            values[i] = square * square;
        }
        return values;
    }

    @Test
    public void meanIsNumpysToTheLastBit() {
        boolean plainSumDiffers = false;
        for (Object[] each : NUMPY) {
            float[] values = values((Integer) each[0]);
            assertEquals("of " + each[0], (Double) each[1], AdaptiveStop.sum(values, values.length) / values.length, 0);
            double plain = 0;
            for (float value : values) {
                plain += value;
            }
            plainSumDiffers |= plain / values.length != (Double) each[1];
        }
        assertTrue("control: one running sum must give other bits", plainSumDiffers);
    }

    @Test
    public void stopsWhenStillAndSure() throws Exception {
        File folder = ToyBundle.write();
        Manifest manifest = Bundle.open(folder).manifest();
        AdaptiveStop rule = new AdaptiveStop(manifest.sampler, 2);
        float[] sure = {0, 0.009f};
        float[] unsure = {0.005f, 0.0051f};
        int[] canvas = {3, 4};
        assertFalse("nothing to compare the first step with", rule.ends(canvas, sure, 2));
        assertFalse("mean is not below the threshold", rule.ends(canvas, unsure, 2));
        assertTrue(rule.ends(canvas, sure, 2));
        assertFalse("another canvas", rule.ends(new int[] {3, 5}, sure, 2));
        assertTrue(rule.ends(new int[] {3, 5}, sure, 2));
        rule.reset(SamplerOptions.EXPORTED);
        assertFalse("a new canvas", rule.ends(new int[] {3, 5}, sure, 2));
    }
}
