package org.dgemma.runtime.engine;

import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.dgemma.runtime.EngineException;
import org.junit.Test;

/** Models that Java's onnxruntime cannot run. */
public class OnnxModelTest {
    @Test
    public void expertsAreRefused() throws IOException {
        File file = new File("shared.onnx");
        OnnxModel.refuseExperts(file, model("com.microsoft"));
        ByteBuffer experts = model("dgemma.native");
        EngineException error =
                assertThrows(EngineException.class, () -> OnnxModel.refuseExperts(file, experts));
        assertTrue(error.getMessage(), error.getMessage().startsWith("shared.onnx: is a quantized mixture of experts"));
        assertTrue(error.getMessage(), error.getMessage().contains("--recipe fp32"));
    }

    /** An empty graph (field 7) that imports version 1 of a domain (field 8). */
    private static ByteBuffer model(String domain) throws IOException {
        byte[] name = domain.getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bytes.write(new byte[] {0x3a, 0, 0x42, (byte) (name.length + 4), 0x0a, (byte) name.length});
        bytes.write(name);
        bytes.write(new byte[] {0x10, 1});
        return ByteBuffer.wrap(bytes.toByteArray());
    }
}
