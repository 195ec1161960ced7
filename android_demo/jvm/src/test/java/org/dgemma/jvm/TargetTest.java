package org.dgemma.jvm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeFalse;
import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.util.Map;
import org.dgemma.format.Json;
import org.junit.Test;

/** {@code --target}, as `dgemma run` has it. */
public class TargetTest extends CommandLine {
    private static final File NPU = new File(System.getProperty("dgemma.root"), "build/tiny-npu-fp32.dgemma");

    @Test
    public void theProcessorRunsWhatIsNotForAnNpu() throws Exception {
        Object tokens = json().get("tokens");
        for (String target : new String[] {"auto", "cpu"}) {
            Map<?, ?> found = json("--target", target);
            assertEquals("onnx", found.get("engine"));
            assertEquals(tokens, found.get("tokens"));
        }
    }

    @Test
    public void whatCannotBeHadIsOneLine() throws Exception {
        String bundle = BUNDLE.getPath();
        refused("--target 'npu' is unknown; choose auto, cpu or qnn", "run", bundle, "-p", "x", "--target", "npu");
        refused("--target 'cpu:SM8650' is unknown", "run", bundle, "-p", "x", "--target", "cpu:SM8650");
        refused("was exported without contexts for an NPU; export it again with --target qnn:CHIP", "run", bundle, "-p", "x",
                "--target", "qnn");
        refused("--target qnn runs on engine 'onnx', not 'executorch'", "run", bundle, "-p", "x", "--target", "qnn",
                "--engine", "executorch");
        assumeTrue(NPU + " was not made; `make java-test` makes it", new File(NPU, "manifest.json").isFile());
        refused("has no contexts for 'qnn:SM8750' (it has: qnn:SM8650)", "run", NPU.getPath(), "-p", "x", "--target",
                "qnn:SM8750");
        assumeFalse("here the emulator can run it", !System.getProperty("dgemma.qnn.libraries", "").isEmpty());
        refused("target 'qnn' needs Qualcomm's libraries", "run", NPU.getPath(), "-p", "x", "--target", "qnn:SM8650");
        assertEquals(err, 0, run("run", NPU.getPath(), "-p", "Write boip backwards.", "--json"));
        assertEquals("onnx", ((Map<?, ?>) Json.parse(out)).get("engine"));
        assertTrue(err, err.isEmpty());
    }
}
