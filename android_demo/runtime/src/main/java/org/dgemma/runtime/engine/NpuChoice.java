package org.dgemma.runtime.engine;

import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Npu;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.Target;
import org.dgemma.runtime.TargetSpec;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * Whether a bundle's graphs run on this machine's NPU, and with which contexts. {@code auto} takes the NPU where everything for
 * it is here, and says why not elsewhere; never the emulator. What was asked for is what runs, or an error says why not.
 */
final class NpuChoice {
    private static final String PREFIX = "qnn:";

    /** Null for the processor. */
    final @Nullable TargetSpec spec;
    final @Nullable QnnLibraries libraries;
    /** Why {@code auto} does not take the NPU that the bundle has contexts for. */
    final @Nullable String reason;

    private NpuChoice(@Nullable TargetSpec spec, @Nullable QnnLibraries libraries, @Nullable String reason) {
        this.spec = spec;
        this.libraries = libraries;
        this.reason = reason;
    }

    static NpuChoice of(Bundle bundle, SessionOptions options) {
        return of(bundle, options, emulated());
    }

    /** Whether Qualcomm's libraries emulate the NPU here: those for x86-64 do. */
    static boolean emulated() {
        String machine = System.getProperty("os.arch", "").toLowerCase(Locale.ROOT);
        return machine.equals("amd64") || machine.equals("x86_64");
    }

    /** @throws EngineException, UsageException target qnn cannot be had; each with its cure */
    static NpuChoice of(Bundle bundle, SessionOptions options, boolean emulated) {
        boolean onnx = options.engine == null || options.engine.equals(Engines.ONNX);
        if (options.target == Target.QNN && !onnx) {
            throw new UsageException("target qnn runs on engine 'onnx', not '" + options.engine + "'; leave the engine out");
        }
        Map<String, TargetSpec> held = held(bundle);
        if (options.target == Target.CPU || options.target == Target.AUTO && (held.isEmpty() || !onnx)) {
            return new NpuChoice(null, null, null);
        }
        QnnLibraries libraries = QnnLibraries.in(options.npu.libraries);
        String obstacle = obstacle(held, options.npu.chip, libraries, emulated);
        if (options.target == Target.QNN) {
            if (obstacle != null) {
                throw new EngineException(bundle.folder() + ": " + obstacle);
            }
        } else if (emulated) {
            return new NpuChoice(null, null, "on x86-64 there is no Snapdragon NPU; target qnn runs its emulator");
        } else if (obstacle != null) {
            return new NpuChoice(null, null, obstacle);
        }
        String chip = options.npu.chip;
        TargetSpec spec = chip == null ? held.values().iterator().next() : held.get(PREFIX + chip);
        return new NpuChoice(spec, libraries, null);
    }

    private static Map<String, TargetSpec> held(Bundle bundle) {
        Map<String, TargetSpec> found = new LinkedHashMap<>(bundle.manifest().targets);
        found.keySet().removeIf(name -> !name.startsWith(PREFIX));
        return found;
    }

    /** Why there is nothing to run on the NPU, with the cure; null where nothing is in the way. */
    private static @Nullable String obstacle(
            Map<String, TargetSpec> held, @Nullable String chip, @Nullable QnnLibraries libraries,
            boolean emulated) {
        if (held.isEmpty()) {
            return "was exported without contexts for an NPU; export it again with --target qnn:CHIP";
        }
        String names = String.join(", ", held.keySet());
        if (chip != null && !held.containsKey(PREFIX + chip)) {
            String cure = Npu.CHIPS.contains(chip) ? "export it again with --target " + PREFIX + chip
                    : "this chip is unknown to dgemma, which compiles for " + String.join(", ", Npu.CHIPS);
            return "has no contexts for '" + PREFIX + chip + "' (it has: " + names + "); " + cure + ", or use target cpu";
        }
        if (chip == null && held.size() > 1 && !emulated) {
            return "has contexts for several chips; name the one in this machine (Npu.of, --target "
                    + String.join(" or ", held.keySet()) + ")";
        }
        if (libraries == null) {
            return "target 'qnn' needs Qualcomm's libraries, and no folder with them was given; " + QnnLibraries.CURE;
        }
        return libraries.missing() == null ? null
                : "target 'qnn' needs " + libraries.missing() + ", which is not there; " + QnnLibraries.CURE;
    }
}
