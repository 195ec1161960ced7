package org.dgemma.runtime.engine;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.junit.Test;

/** What a model needs besides onnxruntime. */
public class OnnxModelTest {
    @Test
    public void expertsAreSeenByTheirDomain() throws IOException {
        assertFalse(OnnxModel.hasExperts(model("com.microsoft")));
        assertTrue(OnnxModel.hasExperts(model("dgemma.native")));
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
