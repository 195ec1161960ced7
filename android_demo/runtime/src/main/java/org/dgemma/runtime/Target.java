package org.dgemma.runtime;

import java.util.Locale;

/** Where a bundle's graphs run, as {@code --target} of {@code dgemma run} names it. */
public enum Target {
    /** The NPU where the bundle has contexts for it and this machine has it and its libraries; otherwise the processor. */
    AUTO,
    /** The processor. */
    CPU,
    /** A Snapdragon's NPU, and on x86-64 its emulator; an error says why where neither can be had. */
    QNN;

    public String word() {
        return name().toLowerCase(Locale.ROOT);
    }

    /** By its word; throws UsageException. */
    public static Target of(String word) {
        for (Target target : values()) {
            if (target.word().equals(word)) {
                return target;
            }
        }
        String shown = word.length() > 40 ? word.substring(0, 40) : word;
        throw new UsageException("target '" + shown + "' is unknown; choose auto, cpu or qnn");
    }
}
