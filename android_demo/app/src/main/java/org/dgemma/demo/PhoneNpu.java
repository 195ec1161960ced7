package org.dgemma.demo;

import android.content.Context;
import android.os.Build;
import android.system.ErrnoException;
import android.system.Os;
import java.io.File;
import org.dgemma.runtime.Npu;

/** What the library has to know of this phone's NPU. The app holds Qualcomm's libraries where it was built with -Pqnn. */
final class PhoneNpu {
    private PhoneNpu() {}

    /** The chip, which phones tell from Android 12 on, and the folder of the app's native libraries. */
    static Npu of(Context context) {
        String chip = Build.VERSION.SDK_INT >= 31 ? Build.SOC_MODEL : "unknown";
        String folder = context.getApplicationInfo().nativeLibraryDir;
        return Npu.of(chip, folder == null ? null : new File(folder));
    }

    /** Tell the NPU's own processor where its half of the libraries is; before any of them is loaded. */
    static void prepare(Context context) {
        String folder = context.getApplicationInfo().nativeLibraryDir;
        try {
            Os.setenv("ADSP_LIBRARY_PATH", folder + ";/vendor/dsp/cdsp;/vendor/lib/rfsa/adsp;/system/lib/rfsa/adsp", true);
        } catch (ErrnoException error) {
            // Opening a context then fails, with Qualcomm's own reason.
        }
    }
}
