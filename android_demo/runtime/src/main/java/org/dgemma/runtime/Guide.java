package org.dgemma.runtime;

import java.nio.FloatBuffer;
import java.util.HashMap;
import java.util.Map;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;
import org.jspecify.annotations.Nullable;

/**
 * The second pass of a guided step: the same canvas behind a negative prompt, or with less self-conditioning. Buffers are made
 * once, and serve one generation after another.
 *
 * <p>It knows nothing of how canvases follow each other. N canvas, D hidden.
 */
final class Guide {
    static final String GUIDED = "denoise_guided";

    private final Engine engine;
    private final Prefix negative;
    private final Map<String, Tensor> feeds = new HashMap<>();
    private final Map<String, Tensor> outputs = new HashMap<>();
    private final Tensor length = Buffers.scalar(0);
    private final Tensor scale = Buffers.zeros(DType.FLOAT32, 1);
    private final Tensor one = Buffers.zeros(DType.FLOAT32, 1);
    private final Tensor nothing;
    /** Of the second pass, and of the step itself, which nobody reads. */
    private final Tensor hidden;
    private final Tensor guided;
    private final Tensor soft;
    private Guidance guidance = Guidance.of(1);

    Guide(Engine engine) {
        Manifest manifest = engine.bundle().manifest();
        int n = manifest.canvasLength;
        int dim = manifest.model.hiddenSize;
        this.engine = engine;
        negative = new Prefix(engine);
        one.data.putFloat(0, 1);
        nothing = Buffers.zeros(DType.FLOAT32, 1, n, dim);
        hidden = Buffers.zeros(DType.FLOAT32, 1, n, dim);
        guided = Buffers.zeros(DType.FLOAT32, 1, n, dim);
        soft = Buffers.zeros(DType.FLOAT32, 1, n, dim);
    }

    /** Throws PromptTooLongException when a negative prompt leaves no room for so many tokens. */
    static void check(@Nullable Guidance guidance, Manifest manifest, int room) {
        int length = guidance == null || guidance.ids() == null ? 0 : guidance.ids().length;
        if (length > 0 && (long) length + room > manifest.context) {
            throw new PromptTooLongException("negative of " + Plural.counted(length, "token") + " leaves no room for "
                    + room + " more in the context of " + manifest.context + "; shorten it");
        }
    }

    /** Begins a generation. @param guidance whose negative prompt, if there is one, is ids */
    void begin(Guidance guidance) {
        this.guidance = guidance;
        int[] ids = guidance.ids();
        negative.truncate(0);
        if (ids != null) {
            negative.extend(ids, ids.length);
        }
        scale.data.putFloat(0, (float) guidance.scale);
    }

    /** Of the negative prompt and what was committed; null where the generation's own serves. */
    @Nullable Prefix prefix() {
        return guidance.ids() == null ? null : negative;
    }

    /** Whether the step is no plain one; without a negative prompt, the first has nothing to leave out. */
    boolean guides(int step) {
        return guidance.guides(step) && (guidance.ids() != null || step > 1);
    }

    /**
     * Both passes of a step.
     *
     * @param own inputs of {@code denoise}
     * @param results its outputs, which become those of the guided step
     * @param accepted [N] by the step before
     */
    void run(Map<String, Tensor> own, Map<String, Tensor> results, boolean[] accepted) {
        feeds.putAll(own);
        outputs.putAll(results);
        if (prefix() != null) {
            feeds.putAll(negative.views(GUIDED, 0));
            length.data.putLong(0, negative.encoded());
            feeds.put("prefix_length", length);
        } else {
            keep(own.get("soft").data.asFloatBuffer(), accepted);
            feeds.put("soft", soft);
        }
        pass(one, nothing, hidden);
        feeds.putAll(own);
        pass(scale, hidden, guided);
    }

    private void pass(Tensor by, Tensor from, Tensor to) {
        feeds.put("guidance", by);
        feeds.put("negative", from);
        outputs.put("hidden", to);
        engine.run(GUIDED, feeds, outputs);
    }

    /** The soft embeddings of accepted positions, and zeros. */
    private void keep(FloatBuffer all, boolean[] accepted) {
        FloatBuffer kept = soft.data.asFloatBuffer();
        float[] row = new float[kept.capacity() / accepted.length];
        float[] none = new float[row.length];
        for (boolean stays : accepted) {
            all.get(row);
            kept.put(stays ? row : none);
        }
    }
}
