package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** A bundle out of streams: whole or not at all. */
public class BundleUnpackerTest {
    @Rule
    public final TemporaryFolder temporary = new TemporaryFolder();

    private File packed;
    private File folder;

    @Before
    public void places() throws Exception {
        packed = ToyBundle.write();
        folder = new File(temporary.getRoot(), "files/toy.dgemma");
    }

    private Bundle unpack(BundleUnpacker.Source source) {
        return BundleUnpacker.unpack(source, folder);
    }

    private FileInputStream open(String name) throws IOException {
        return new FileInputStream(new File(packed, name));
    }

    @Test
    public void itIsCopiedOnceAndAgainWhenItIsDamaged() throws Exception {
        Bundle bundle = unpack(this::open);
        assertEquals(folder, bundle.folder());
        assertEquals(Bundle.open(packed).digest(), bundle.digest());
        File graph = new File(folder, "onnx/encode.bin");
        byte[] content = Files.readAllBytes(graph.toPath());
        assertTrue(graph.setLastModified(1_000_000));
        unpack(this::open);
        assertEquals("a whole one stays", 1_000_000, graph.lastModified());
        Files.write(graph.toPath(), new byte[content.length]);
        unpack(this::open);
        assertArrayEquals(content, Files.readAllBytes(graph.toPath()));
        assertArrayEquals("nothing else stays", new String[] {"toy.dgemma"}, folder.getParentFile().list());
    }

    @Test
    public void anotherBundleTakesItsPlace() throws Exception {
        unpack(this::open);
        packed = ToyBundle.write(values -> values.put("provenance", ToyBundle.object("name", "other")));
        assertNotEquals(Bundle.open(folder).digest(), Bundle.open(packed).digest());
        assertEquals(Bundle.open(packed).digest(), unpack(this::open).digest());
        assertEquals(Bundle.open(packed).digest(), Bundle.open(folder).digest());
    }

    @Test
    public void aDamagedOneLeavesTheOldOne() throws Exception {
        String digest = unpack(this::open).digest();
        packed = ToyBundle.write(values -> values.put("provenance", ToyBundle.object("name", "other")));
        String said = assertThrows(BundleException.class, () -> unpack(name -> name.endsWith(".bin")
                ? new ByteArrayInputStream(new byte[7]) : open(name))).getMessage();
        assertTrue(said, said.contains("has 7 bytes instead of"));
        assertEquals(digest, Bundle.open(folder).digest());
    }

    @Test
    public void whatIsNoBundleIsOneLine() {
        String none = assertThrows(BundleException.class, () -> unpack(name -> {
            throw new IOException("no " + name);
        })).getMessage();
        assertEquals(folder + ": the bundle cannot be unpacked (no manifest.json); free some space and try again", none);
        for (String text : new String[] {"", "[]", "{", "null"}) {
            assertThrows(BundleException.class, () -> unpack(name -> new ByteArrayInputStream(text.getBytes())));
        }
        String outside = "{\"files\": {\"../outside\": {}}}";
        String said = assertThrows(BundleException.class, () -> unpack(
                name -> new ByteArrayInputStream(outside.getBytes(StandardCharsets.UTF_8)))).getMessage();
        assertTrue(said, said.contains("leaves the bundle"));
        assertFalse(new File(folder.getParentFile(), "outside").exists());
        assertFalse(folder.exists());
    }
}
