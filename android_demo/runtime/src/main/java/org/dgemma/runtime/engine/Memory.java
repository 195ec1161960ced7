package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Locale;
import java.util.Map;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Manifest;

/**
 * Whether a bundle fits into this device's free memory, checked before graphs are loaded rather than left to the kernel's OOM
 * killer.
 *
 * <p>What is needed is a lower bound from the manifest (weights once, as the engine's kernels hold them), so that nothing
 * that runs is refused. It knows nothing of what an engine packs twice. N canvas, D hidden, F feed-forward width, V vocabulary.
 */
public final class Memory {
    /** Ids of the vocabulary whose logits are held together, at most. */
    private static final int TILE = 16_384;

    private static final File MEMINFO = new File("/proc/meminfo");

    private Memory() {}

    /** Bytes that running a bundle takes at least. */
    public static final class Need {
        public final long weights;
        /** Keys and values of two canvases. */
        public final long prefix;
        /** Activations of a step. */
        public final long step;

        Need(long weights, long prefix, long step) {
            this.weights = weights;
            this.prefix = prefix;
            this.step = step;
        }

        public long total() {
            return weights + prefix + step;
        }
    }

    /** Bytes of the float32 keys and values of {@code length} prefix tokens in all layers. */
    public static long prefixBytes(Manifest manifest, long length) {
        long rows = 0;
        for (int layer = 0; layer < manifest.model.numLayers; layer++) {
            rows += (long) manifest.model.layerKvHeads(layer) * manifest.model.layerHeadDim(layer);
        }
        return 2 * 4 * rows * length;
    }

    /** The bound for one engine: onnx multiplies 4-bit weights out to 8 bits, those of experts aside; executorch keeps them. */
    public static Need need(Manifest manifest, String engine) {
        long weights = 0;
        for (Map.Entry<String, Manifest.FileEntry> file : manifest.files.entrySet()) {
            if (file.getKey().startsWith(engine + "/")) {
                weights += file.getValue().size;
            }
        }
        Object bits = manifest.quantization.get("bits_per_weight");
        if (engine.equals(Engines.ONNX) && bits instanceof Number && ((Number) bits).doubleValue() < 8) {
            weights = Math.max(weights, parameters(manifest) - spared(manifest));
        }
        long n = manifest.canvasLength;
        Manifest.ModelConfig model = manifest.model;
        long activations = n * (6L * model.hiddenSize + 2L * model.intermediateSize)
                + 2 * n * Math.min(model.vocabSize, TILE);
        long length = Math.min(manifest.context, 2 * n);
        return new Need(weights, prefixBytes(manifest, length), 4 * activations);
    }

    /** Bytes that can be had without swapping, as the kernel says it; -1 where it does not tell. */
    public static long available() {
        try {
            return available(new String(Files.readAllBytes(MEMINFO.toPath()), StandardCharsets.US_ASCII));
        } catch (IOException error) {
            return -1;
        }
    }

    static long available(String meminfo) {
        for (String line : meminfo.split("\n")) {
            if (line.matches("MemAvailable:\\s+\\d{1,15} kB\\s*")) {
                return Long.parseLong(line.replaceAll("\\D", "")) << 10;
            }
        }
        return -1;
    }

    /** {@link #check(Manifest, String, Object, long)} with what {@link #available} says; nothing where it does not tell. */
    public static void check(Manifest manifest, String engine, Object where) {
        long free = available();
        if (free >= 0) {
            check(manifest, engine, where, free);
        }
    }

    /**
     * Throw EngineException when the bundle cannot fit, naming what is needed, what is free and what would fit.
     *
     * @param where the bundle, for the message.
     * @param free bytes, such as {@code ActivityManager.MemoryInfo.availMem} of Android.
     */
    public static void check(Manifest manifest, String engine, Object where, long free) {
        Need least = need(manifest, engine);
        if (least.total() <= free) {
            return;
        }
        long parameters = parameters(manifest);
        double room = parameters > 0 ? 8.0 * Math.max(0, free - least.prefix - least.step) / parameters : 0;
        int fewest = engine.equals(Engines.ONNX) ? 8 : 4;
        String fits = room >= fewest
                ? String.format(Locale.ROOT, "a recipe of at most %.1f bits per weight would fit; ", room)
                : "";
        throw new EngineException(where + ": needs at least " + gb(least.total()) + " of memory with " + engine
                + " (weights " + gb(least.weights) + ", prefix " + gb(least.prefix) + ", a step " + gb(least.step) + ") and "
                + gb(free) + " is free; " + fits + "close other programs, or turn off the memory check to try anyway: "
                + "checkMemory(false) in code, DGEMMA_CHECK_MEMORY=0 on the command line");
    }

    /** Bytes that experts of 4 bits do not take, of the 8 bits that other weights are multiplied out to. */
    private static long spared(Manifest manifest) {
        Manifest.ModelConfig model = manifest.model;
        if (model.numExperts == null || model.moeIntermediateSize == null || expertBits(manifest) != 4) {
            return 0;
        }
        return 3L * model.numLayers * model.numExperts * model.hiddenSize * model.moeIntermediateSize / 2;
    }

    /** Bits of the experts' weights; 32 where there are no experts. */
    static long expertBits(Manifest manifest) {
        Object bits = manifest.quantization.get("bits");
        Object held = bits instanceof Map ? ((Map<?, ?>) bits).get("experts") : null;
        return manifest.model.numExperts != null && held instanceof Number ? ((Number) held).longValue() : 32;
    }

    private static long parameters(Manifest manifest) {
        Object found = manifest.quantization.get("parameters");
        return found instanceof Number ? ((Number) found).longValue() : 0;
    }

    private static String gb(long size) {
        return String.format(Locale.ROOT, "%.2f GB", size / 1e9);
    }
}
