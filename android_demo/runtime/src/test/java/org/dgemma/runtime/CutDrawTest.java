package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Tensor;
import org.junit.Test;

/** The shared vectors of the cut draw, and what becomes of a step. */
public class CutDrawTest {
    @SuppressWarnings("unchecked")
    private static List<Map<String, Object>> cases() throws Exception {
        List<Map<String, Object>> found = new ArrayList<>();
        for (Object each : (List<Object>) Repository.json("tests/vectors/cut_draw.json").get("cut_draw")) {
            found.add((Map<String, Object>) each);
        }
        return found;
    }

    private static SamplerOptions options(Map<String, Object> values) {
        SamplerOptions options = SamplerOptions.EXPORTED;
        if (values.get("top_k") != null) {
            options = options.topK(((Number) values.get("top_k")).intValue());
        }
        if (values.get("top_p") != null) {
            options = options.topP(((Number) values.get("top_p")).doubleValue());
        }
        if (values.get("min_p") != null) {
            options = options.minP(((Number) values.get("min_p")).doubleValue());
        }
        for (Object each : (List<?>) values.get("bias")) {
            List<?> pair = (List<?>) each;
            Object bias = pair.get(1);
            options = options.logitBias(((Number) pair.get(0)).intValue(),
                    bias instanceof Number ? ((Number) bias).doubleValue() : Double.NEGATIVE_INFINITY);
        }
        return options;
    }

    /** The kept ids in their order, the one that is drawn, and the likeliest. */
    private static List<Long> answer(Map<String, Object> values, SamplerOptions options) {
        long[] ids = ((List<?>) values.get("ids")).stream().mapToLong(i -> ((Number) i).longValue()).toArray();
        float[] logProbs = NaiveSampler.floats(values.get("log_probs"));
        CutDraw.sort(ids, logProbs);
        CutDraw.tilt(ids, logProbs, options::bias, ((Number) values.get("temperature")).doubleValue());
        boolean[] kept = CutDraw.kept(logProbs, options);
        List<Long> found = new ArrayList<>();
        for (int i = 0; i < ids.length; i++) {
            if (kept[i]) {
                found.add(ids[i]);
            }
        }
        if (found.isEmpty()) { // all are banned: whoever draws must not ask
            return found;
        }
        found.add(CutDraw.draw(ids, logProbs, kept, ((Number) values.get("word")).longValue()));
        found.add(ids[0]);
        return found;
    }

    @Test
    public void vectors() throws Exception {
        boolean othersFail = false;
        assertTrue(cases().size() > 50);
        for (Map<String, Object> each : cases()) {
            List<Long> wanted = new ArrayList<>();
            ((List<?>) each.get("kept")).forEach(i -> wanted.add(((Number) i).longValue()));
            if (!wanted.isEmpty()) {
                wanted.add(((Number) each.get("token")).longValue());
                wanted.add(((Number) each.get("argmax")).longValue());
            }
            assertEquals((String) each.get("name"), wanted, answer(each, options(each)));
            othersFail |= !wanted.equals(answer(each, SamplerOptions.EXPORTED));
        }
        assertTrue("control: without the cut, others are kept", othersFail);
    }

    @Test
    public void aStepIsDecidedAgain() throws Exception {
        SamplerOptions exported = SamplerOptions.EXPORTED;
        assertEquals("40 7 8", decided(exported));
        assertEquals("20 7 8", decided(exported.topK(1)));
        assertEquals("20 21 22", decided(exported.topK(1).entropyBound(9)));
        assertEquals("40 41 42", decided(exported.entropyBound(9)));
        assertEquals("40 41 8", decided(exported.entropyBound(0.5)));
        assertEquals("5 7 8", decided(exported.temperature(0)));
        assertEquals("10 7 8", decided(exported.logitBias(10, 50).topK(1)));
        assertEquals("10 7 8", decided(exported.ban(20)));
        assertEquals("what is no candidate stays", "40 7 8", decided(exported.logitBias(99, 50)));
        assertEquals("a banned draw is drawn again", "10 7 8", decided(exported.ban(40)));
        assertEquals("all are banned, and so nothing is accepted", Noise.token(0, 300) + " 7 8", decided(exported.ban(10, 20)));
    }

    @Test
    public void aBiasChangesTheLikeliest() throws Exception {
        int[] argmax = {5, 5, 5};
        decided(SamplerOptions.EXPORTED.logitBias(11, 50).ban(20, 10), argmax);
        assertEquals("padding, the lifted id, and what has no bias", "0 11 5", argmax[0] + " " + argmax[1] + " " + argmax[2]);
    }

    /** The next canvas of a step that accepted the first of three positions. */
    private static String decided(SamplerOptions options) throws Exception {
        return decided(options, new int[] {5, 5, 5});
    }

    private static String decided(SamplerOptions options, int[] argmax) throws Exception {
        Manifest manifest = ToyEngine.of(200).bundle().manifest();
        Map<String, Tensor> results = new HashMap<>();
        results.put("drawn", Tensor.zeros(DType.INT64, 1, 3));
        results.put("likeliest", Tensor.zeros(DType.INT64, 1, 3, 2));
        results.put("log_probs", Tensor.zeros(DType.FLOAT32, 1, 3, 2));
        for (int i = 0; i < 3; i++) {
            results.get("drawn").data.putLong(8 * i, 40 + i);
            results.get("likeliest").data.putLong(16 * i, 20 + i).putLong(16 * i + 8, 10 + i);
            results.get("log_probs").data.putFloat(8 * i, -0.1f).putFloat(8 * i + 4, -3f);
        }
        Steering steering = new Steering(manifest, results);
        steering.reset(options, new CanvasLoop.Known(), false);
        int[] canvas = {40, 7, 8};
        float temperature = options.temperatures(manifest.sampler)[0];
        double bound = options.bounds(manifest.sampler)[0];
        steering.decide(new int[] {0, 1, 2}, temperature, bound, new long[6], argmax, new float[] {0.05f, 1, 2},
                new boolean[] {true, false, false}, canvas);
        return canvas[0] + " " + canvas[1] + " " + canvas[2];
    }
}
