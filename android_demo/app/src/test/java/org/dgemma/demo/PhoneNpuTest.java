package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import android.os.Build;
import java.io.File;
import org.dgemma.runtime.Npu;
import org.dgemma.runtime.Target;
import org.junit.Assume;
import org.junit.Test;
import org.robolectric.util.ReflectionHelpers;

/** What the library is told of the phone's NPU, and what the app says where there is none. */
public final class PhoneNpuTest extends AppTest {
    private static final File NPU = new File(ROOT, "build/tiny-npu-w8a16.dgemma");

    @Test
    public void theChipIsThePhones() {
        ReflectionHelpers.setStaticField(Build.class, "SOC_MODEL", "SM8550-AB");
        Npu npu = PhoneNpu.of(app);
        assertEquals("SM8550", npu.chip);
        assertEquals(Target.AUTO, app.options().target);
        assertEquals("SM8550", app.options().npu.chip);
        String folder = app.getApplicationInfo().nativeLibraryDir;
        assertEquals(folder == null ? null : new File(folder), npu.libraries);
    }

    @Test
    public void aBundleForAnNpuRunsOnTheProcessorAndSaysWhy() {
        Assume.assumeTrue("SKIPPED: no " + NPU, NPU.isDirectory());
        Model model = SessionModel.opener(app.options()).open(NPU);
        try {
            String shown = model.description();
            assertTrue(shown, shown.startsWith("w8a16 · ONNX Runtime ") && shown.contains(" · no NPU: "));
        } finally {
            model.close();
        }
    }
}
