package org.dgemma.runtime;

import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** This machine's NPU, as far as the library cannot know it: the chip, and where Qualcomm's libraries are. Immutable. */
public final class Npu {
    /** Chips that {@code dgemma export --target qnn:CHIP} compiles for. */
    public static final List<String> CHIPS =
            Collections.unmodifiableList(Arrays.asList("SM8550", "SM8650", "SM8750", "SM8850"));

    static final Npu UNKNOWN = new Npu(null, null);

    /** Such as SM8650; null takes the only one that a bundle has contexts for. */
    public final @Nullable String chip;
    /** Folder of {@code libonnxruntime_providers_qnn.so} and {@code libQnnHtp.so}; null looks at -Ddgemma.qnn.libraries. */
    public final @Nullable File libraries;

    private Npu(@Nullable String chip, @Nullable File libraries) {
        this.chip = chip;
        this.libraries = libraries;
    }

    /**
     * @param chip on Android {@code Build.SOC_MODEL} (Android 12 or newer); a variant such as SM8650-AC is SM8650
     * @param libraries on Android {@code new File(getApplicationInfo().nativeLibraryDir)}
     */
    public static Npu of(@Nullable String chip, @Nullable File libraries) {
        String known = chip == null ? "" : chip.trim().split("-", 2)[0].toUpperCase(Locale.ROOT);
        return new Npu(known.isEmpty() ? null : known, libraries);
    }
}
