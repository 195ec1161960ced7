package org.dgemma.runtime.bench;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Figures against those of Python's statistics module and of the Python protocol. */
public class StatsTest {
    @Test
    public void quartilesAreInclusive() {
        Map<String, Object> four = Stats.quartiles(Arrays.asList(4.0, 1.0, 3.0, 2.0));
        assertEquals("{least=1.0, q1=1.75, median=2.5, q3=3.25, n=4}", four.toString());
        Map<String, Object> five = Stats.quartiles(Arrays.asList(10.0, 20.0, 30.0, 40.0, 100.0));
        assertEquals("{least=10.0, q1=20.0, median=30.0, q3=40.0, n=5}", five.toString());
        assertEquals("{least=7.0, q1=7.0, median=7.0, q3=7.0, n=1}",
                Stats.quartiles(Collections.singletonList(7.0)).toString());
        assertThrows(IllegalArgumentException.class, () -> Stats.quartiles(new ArrayList<>()));
        assertEquals(0.6, Stats.spread(four), 1e-12);
    }

    @Test
    public void prefixesAreThoseOfThePythonPlan() {
        Plan tiny = new Plan(new int[] {128, 500, 2600}, 64, 1024);
        assertArrayEquals(new int[] {128, 192, 320, 384, 512, 576}, tiny.prefixes);
        assertEquals(1, tiny.leftOut().size());
        assertArrayEquals(new int[] {64}, new Plan(new int[] {50, 500}, 64, 128).prefixes);
        assertArrayEquals(new int[] {512, 1024, 1536, 2048, 2560, 3072},
                new Plan(new int[] {128, 500, 2600}, 256, 4096).prefixes);
    }

    @Test
    public void outputsInterpolateBetweenPoints() {
        Plan plan = new Plan(new int[] {100}, 64, 1024);
        List<Object> points = new ArrayList<>();
        for (double[] row : new double[][] {{128, 127, 12.7, 2, 1}, {192, 191, 38.2, 4, 3}}) {
            Map<String, Object> point = new LinkedHashMap<>();
            point.put("prefix", row[0]);
            point.put("encoded", row[1]);
            point.put("encode_ms", row[2]);
            point.put("step_ms", Collections.singletonMap("median", row[3]));
            point.put("token_ms", Collections.singletonMap("median", row[4]));
            points.add(point);
        }
        Map<?, ?> row = (Map<?, ?>) plan.outputs(points, 10.0, 5.0).get(0);
        assertEquals(2, row.get("canvases"));
        assertEquals((10 + 5 * (2 + 4) + 64 * 0.2) / 1e3, (Double) row.get("diffusion_s"), 1e-12);
        double decode = 0;
        for (int i = 0; i < 100; i++) {
            decode += Math.min(3, 1 + 2 * i / 64.0);
        }
        assertEquals((10 + decode) / 1e3, (Double) row.get("autoregressive_s"), 1e-12);
    }
}
