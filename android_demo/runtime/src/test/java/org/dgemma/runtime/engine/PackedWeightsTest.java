package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.bundle;
import static org.dgemma.runtime.engine.Fixtures.dims;
import static org.dgemma.runtime.engine.Fixtures.zeros;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeTrue;

import java.io.File;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.SessionOptions;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Packed weights kept, mapped, damaged and raced for, with a threshold of one byte. */
public class PackedWeightsTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static OnnxEngine engine(File bundle, File cache) {
        return new OnnxEngine(Bundle.open(bundle), SessionOptions.DEFAULT.cacheFolder(cache), 1, false);
    }

    /** One step of the bundle; its soft embeddings tell integers and kernels apart. */
    private static ByteBuffer step(Engine engine) {
        Map<String, Tensor> feeds = zeros(engine.bundle().graph("onnx", "denoise").inputs, dims(64, 1));
        Map<String, Tensor> outputs = zeros(engine.bundle().graph("onnx", "denoise").outputs, dims(64, 1));
        feeds.get("temperature").data.putFloat(0, 0.8f);
        engine.run("denoise", feeds, outputs);
        return outputs.get("next_soft").data;
    }

    private static ByteBuffer plain(String name) {
        try (Engine engine = Engines.open(Bundle.open(bundle(name)), SessionOptions.DEFAULT)) {
            return step(engine);
        }
    }

    /** The one entry of the graph file that holds denoise. */
    private static File entry(File cache) {
        File[] keys = cache.listFiles();
        assertEquals(1, keys.length);
        return new File(keys[0], "shared");
    }

    private static boolean isMapped(File file) throws Exception {
        File maps = new File("/proc/self/maps");
        assumeTrue("this system has no /proc/self/maps", maps.exists());
        return new String(Files.readAllBytes(maps.toPath()), StandardCharsets.UTF_8).contains(file.getCanonicalPath());
    }

    @Test
    public void anEntryIsMadeMappedAndGivesTheSameBits() throws Exception {
        for (String name : new String[] {"tiny", "tiny-w8", "tiny-w4-mixed"}) {
            File cache = new File(folder.newFolder(), "not/yet");
            ByteBuffer expected = plain(name);
            for (int time = 0; time < 2; time++) {
                try (Engine engine = engine(bundle(name), cache)) {
                    assertEquals(expected, step(engine));
                    assertEquals(Collections.emptyList(), engine.warnings());
                    assertTrue(isMapped(new File(entry(cache), PackedWeights.WEIGHTS)));
                    assertFalse(isMapped(new File(bundle(name), "onnx/weights.bin")));
                    engine.prepare("encode", "decode", "generate");
                }
            }
            assertTrue(Seal.holds(new File(entry(cache).getParentFile(), "generate")));
        }
    }

    @Test
    public void weightsThatAreNotWorthItAreNotKept() {
        File cache = new File(folder.getRoot(), "cache");
        SessionOptions options = SessionOptions.DEFAULT.cacheFolder(cache);
        try (Engine engine = Engines.open(Bundle.open(bundle("tiny-w8")), options)) {
            step(engine);
        }
        assertFalse(cache.exists());
    }

    @Test
    public void damageIsSeenAndMended() throws Exception {
        File cache = folder.newFolder();
        ByteBuffer expected = plain("tiny-w8");
        open(cache, expected);
        File weights = new File(entry(cache), PackedWeights.WEIGHTS);
        long length = weights.length();
        try (RandomAccessFile file = new RandomAccessFile(weights, "rw")) {
            file.setLength(length / 2);
        }
        assertDamaged(open(cache, expected));
        try (RandomAccessFile file = new RandomAccessFile(weights, "rw")) {
            file.seek(length - 10);
            file.write(new byte[10]);
        }
        assertDamaged(open(cache, expected));
        Files.delete(new File(entry(cache), Seal.FILE).toPath());
        assertDamaged(open(cache, expected));
        Files.delete(new File(entry(cache), PackedWeights.MODEL).toPath());
        assertDamaged(open(cache, expected));
        assertEquals(Collections.emptyList(), open(cache, expected));
    }

    private static void assertDamaged(List<String> warnings) {
        assertEquals(1, warnings.size());
        assertTrue(warnings.get(0), warnings.get(0).endsWith("is damaged; packing the weights again"));
    }

    private static List<String> open(File cache, ByteBuffer expected) {
        try (Engine engine = engine(bundle("tiny-w8"), cache)) {
            assertEquals(expected, step(engine));
            return engine.warnings();
        }
    }

    @Test
    public void anEntryThatTheEngineRefusesIsForgotten() throws Exception {
        File cache = folder.newFolder();
        ByteBuffer expected = plain("tiny-w8");
        open(cache, expected);
        Files.write(new File(entry(cache), PackedWeights.MODEL).toPath(), new byte[] {1, 2, 3});
        Seal.write(entry(cache));
        List<String> warnings = open(cache, expected);
        assertEquals(1, warnings.size());
        assertTrue(warnings.get(0), warnings.get(0).endsWith("using the bundle's own weights"));
        assertFalse(entry(cache).exists());
        assertEquals(Collections.emptyList(), open(cache, expected));
        assertTrue(entry(cache).exists());
    }

    @Test
    public void whereNothingCanBeKeptTheBundlesOwnWeightsAreTaken() throws Exception {
        ByteBuffer expected = plain("tiny-w8");
        File file = folder.newFile();
        List<String> warnings = open(new File(file, "cache"), expected);
        assertEquals(1, warnings.size());
        assertTrue(warnings.get(0), warnings.get(0).contains("packed weights cannot be saved ("));
        assertFalse(warnings.get(0), warnings.get(0).contains("\n"));

        List<String> said = new ArrayList<>();
        PackedWeights large = new PackedWeights(folder.newFolder(), "0123456789abcdef", "1", "onnx/a.onnx", 1L << 50, said::add);
        assertFalse(large.keep(stage -> {
            throw new AssertionError("there is no room");
        }));
        assertTrue(said.toString(), said.size() == 1 && said.get(0).contains("no room for packed weights (up to 5629499.5 GB)"));
    }

    @Test
    public void aBuildThatFailsOrWasKilledLeavesNothing() throws Exception {
        File cache = folder.newFolder();
        List<String> said = new ArrayList<>();
        PackedWeights packed = new PackedWeights(cache, "0123456789abcdef", "1", "onnx/a.onnx", 1, said::add);
        assertFalse(packed.keep(stage -> {
            Files.write(new File(stage, PackedWeights.WEIGHTS).toPath(), new byte[100]);
            throw new java.io.IOException("No space left on device");
        }));
        assertTrue(said.toString(), said.get(0).contains("cannot be saved (No space left on device); give another cache folder"));
        File parent = packed.model().getParentFile().getParentFile();
        assertEquals(Collections.singletonList("a.lock"), Arrays.asList(parent.list()));
        assertTrue(new File(parent, ".a-killed").mkdir());
        Files.write(new File(parent, ".a-killed/weights.bin").toPath(), new byte[9]);
        assertTrue(packed.keep(stage -> Files.write(new File(stage, PackedWeights.MODEL).toPath(), new byte[] {0x3a, 0})));
        assertFalse(new File(parent, ".a-killed").exists());
    }

    @Test
    public void aDiskThatFilledUpUnnoticedIsNoticed() throws Exception {
        File cache = folder.newFolder();
        open(cache, plain("tiny-w8"));
        byte[] model = Files.readAllBytes(new File(entry(cache), PackedWeights.MODEL).toPath());
        byte[] weights = Files.readAllBytes(new File(entry(cache), PackedWeights.WEIGHTS).toPath());
        List<String> said = new ArrayList<>();
        PackedWeights packed = new PackedWeights(cache, "0123456789abcdef", "1", "onnx/a.onnx", 1, said::add);
        for (int missing : new int[] {weights.length / 2, 1, 0}) {
            boolean kept = packed.keep(stage -> {
                Files.write(new File(stage, PackedWeights.MODEL).toPath(), model);
                byte[] written = Arrays.copyOf(weights, weights.length - missing);
                Files.write(new File(stage, PackedWeights.WEIGHTS).toPath(), written);
            });
            assertEquals(missing == 0, kept);
        }
        assertEquals(2, said.size());
        assertTrue(said.toString(), said.get(1).matches(".*only \\d+ bytes of \\d+ were written.*"));
        // a second tidying moves nothing: all was aligned, and nothing was there twice
        File again = packed.model().getParentFile();
        assertArrayEquals(weights, Files.readAllBytes(new File(again, PackedWeights.WEIGHTS).toPath()));
        assertArrayEquals(model, Files.readAllBytes(new File(again, PackedWeights.MODEL).toPath()));
    }

    @Test
    public void threadsBuildOneEntry() throws Exception {
        File cache = folder.newFolder();
        AtomicInteger built = new AtomicInteger();
        ExecutorService threads = Executors.newFixedThreadPool(4);
        List<Future<Boolean>> all = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            Callable<Boolean> keep = () -> new PackedWeights(cache, "0123456789abcdef", "1", "onnx/a.onnx", 1, text -> {
                throw new AssertionError(text);
            }).keep(stage -> {
                Files.write(new File(stage, PackedWeights.MODEL).toPath(), new byte[] {0x3a, 0});
                built.incrementAndGet();
            });
            all.add(threads.submit(keep));
        }
        for (Future<Boolean> each : all) {
            assertTrue(each.get());
        }
        threads.shutdown();
        assertEquals(1, built.get());
    }

    /** Opens tiny-w8 with the cache that is named; another process of the test below. */
    public static void main(String[] arguments) {
        try (Engine engine = engine(new File(arguments[0]), new File(arguments[1]))) {
            step(engine);
            System.out.println("warnings " + engine.warnings());
        }
    }

    @Test
    public void processesBuildOneEntry() throws Exception {
        File cache = folder.newFolder();
        List<Process> all = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            String java = System.getProperty("java.home") + "/bin/java";
            all.add(new ProcessBuilder(java, "-Xmx128m", "-cp", System.getProperty("java.class.path"),
                    PackedWeightsTest.class.getName(), bundle("tiny-w8").getPath(), cache.getPath())
                    .redirectErrorStream(true).start());
        }
        for (Process process : all) {
            byte[] out = new byte[1 << 16];
            int count = process.getInputStream().read(out);
            assertEquals("warnings []\n", new String(out, 0, Math.max(count, 0), StandardCharsets.UTF_8));
            assertEquals(0, process.waitFor());
        }
        assertEquals(Arrays.asList("shared", "shared.lock"), sorted(entry(cache).getParentFile().list()));
        assertEquals(Collections.emptyList(), open(cache, plain("tiny-w8")));
    }

    private static List<String> sorted(String[] names) {
        Arrays.sort(names);
        return Arrays.asList(names);
    }
}
