package org.dgemma.runtime;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** What of a step runs where. */
public final class Placement {
    /** As in {@link Result#engine}: onnx, or onnx/qnn (SM8650). */
    public final String label;
    /** Part of a step, and cpu or npu; as the bundle's manifest says it. */
    public final Map<String, String> parts;
    /** Why the NPU is not used that the bundle has contexts for; null where it is, or where the bundle has none. */
    public final @Nullable String reason;

    public Placement(String label, Map<String, String> parts, @Nullable String reason) {
        this.label = label;
        this.parts = Collections.unmodifiableMap(new LinkedHashMap<>(parts));
        this.reason = reason;
    }

    /** All on the processor. */
    public static Placement cpu(String label, @Nullable String reason) {
        return new Placement(label, Collections.singletonMap("everything", "cpu"), reason);
    }

    public boolean usesNpu() {
        return parts.containsValue("npu");
    }

    /** Whether Qualcomm's emulator stands in for an NPU. */
    public boolean isEmulated() {
        return label.startsWith("onnx/qnn (emulated");
    }

    /** For people, one line. */
    @Override
    public String toString() {
        StringBuilder text = new StringBuilder(label);
        parts.forEach((part, place) -> text.append(", ").append(part).append(": ").append(place));
        return reason == null ? text.toString() : text.append(" (").append(reason).append(')').toString();
    }
}
