package org.dgemma.tokenizer;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import java.util.zip.CRC32;
import java.util.zip.GZIPInputStream;
import org.dgemma.format.Json;

/** Reads tests/vectors/tokenizers and makes the strings and checksums of make_tokenizer_vectors.py. */
final class TokenizerVectors {
    static final File ROOT = new File(System.getProperty("dgemma.root", "../.."));

    private final Map<?, ?> head;
    private final List<?> fragments;

    TokenizerVectors() throws IOException {
        head = (Map<?, ?>) Json.parse(unpack(new File(folder(), "vectors.json.gz")));
        if ((Long) head.get("format") != 1) {
            throw new IOException("format " + head.get("format"));
        }
        fragments = (List<?>) head.get("fragments");
    }

    static File folder() {
        return new File(ROOT, "tests/vectors/tokenizers");
    }

    List<String> names() {
        List<String> names = new ArrayList<>();
        for (Object name : ((Map<?, ?>) head.get("models")).keySet()) {
            names.add((String) name);
        }
        return names;
    }

    Map<?, ?> model(String name) {
        return (Map<?, ?>) ((Map<?, ?>) head.get("models")).get(name);
    }

    byte[] file(String name) throws IOException {
        String file = (String) model(name).get("file");
        boolean packed = file.endsWith(".gz");
        return packed ? unpack(new File(folder(), file)) : Files.readAllBytes(new File(ROOT, file).toPath());
    }

    Tokenizer tokenizer(String name) throws IOException {
        return tokenizer(name, file(name));
    }

    Tokenizer tokenizer(String name, byte[] file) throws IOException {
        List<?> listed = (List<?>) model(name).get("markers");
        int[] markers = new int[listed.size()];
        for (int i = 0; i < markers.length; i++) {
            markers[i] = ((Long) listed.get(i)).intValue();
        }
        File copy = File.createTempFile("tokenizer", name);
        try {
            Files.write(copy.toPath(), file);
            return Tokenizers.load(copy, (String) model(name).get("kind"), markers);
        } finally {
            copy.delete();
        }
    }

    int blockSize() {
        return ((Long) head.get("block")).intValue();
    }

    SplitMix random(String name, int block) {
        return new SplitMix(((Long) model(name).get("seed") << 32) + block);
    }

    String string(String name, SplitMix random) {
        List<?> ranges = (List<?>) head.get((String) model(name).get("ranges"));
        StringBuilder text = new StringBuilder();
        for (int parts = 1 + random.below(12); parts > 0; parts--) {
            if (random.below(4) != 0) {
                text.append((String) fragments.get(random.below(fragments.size())));
                continue;
            }
            List<?> range = (List<?>) ranges.get(random.below(ranges.size()));
            int first = ((Long) range.get(0)).intValue();
            int last = ((Long) range.get(1)).intValue();
            for (int run = 1 + random.below(4); run > 0; run--) {
                text.appendCodePoint(first + random.below(last - first + 1));
            }
        }
        return text.toString();
    }

    int[] ids(SplitMix random, int size) {
        Ints ids = new Ints(32);
        for (int runs = 1 + random.below(8); runs > 0; runs--) {
            int start = random.below(size);
            int length = 1 + random.below(4);
            for (int i = 0; i < length; i++) {
                ids.add((start + i * random.below(3)) % size);
            }
        }
        return ids.toArray();
    }

    long checksum(String name, Tokenizer tokenizer, int block) {
        SplitMix random = random(name, block);
        Checksum check = new Checksum();
        for (int i = 0; i < blockSize(); i++) {
            String text = string(name, random);
            int[] ids = attempt(() -> tokenizer.encode(text));
            check.ids(ids);
            check.ids(attempt(() -> tokenizer.encodeUser(text)));
            int[] given = ids == null ? new int[0] : ids;
            check.text(attempt(() -> tokenizer.decode(given)));
            int[] made = ids(random, tokenizer.vocabSize());
            check.text(attempt(() -> tokenizer.decode(made)));
        }
        return check.crc.getValue();
    }

    /** Checksum of one text of 2,000 strings. */
    long longChecksum(String name, Tokenizer tokenizer) {
        SplitMix random = random(name, 0);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 2000; i++) {
            text.append(string(name, random));
        }
        Checksum check = new Checksum();
        check.ids(attempt(() -> tokenizer.encode(text.toString())));
        return check.crc.getValue();
    }

    static <T> T attempt(Supplier<T> call) {
        try {
            return call.get();
        } catch (TokenizerException error) {
            return null;
        }
    }

    static byte[] unpack(File file) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try (InputStream in = new GZIPInputStream(new FileInputStream(file))) {
            byte[] buffer = new byte[1 << 16];
            for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
                out.write(buffer, 0, n);
            }
        }
        return out.toByteArray();
    }

    static final class SplitMix {
        private long state;

        SplitMix(long seed) {
            state = seed;
        }

        int below(int n) {
            state += 0x9E3779B97F4A7C15L;
            long z = state;
            z = (z ^ z >>> 30) * 0xBF58476D1CE4E5B9L;
            z = (z ^ z >>> 27) * 0x94D049BB133111EBL;
            return (int) (((z ^ z >>> 31) >>> 33) % n);
        }
    }

    private static final class Checksum {
        private final CRC32 crc = new CRC32();

        void ids(int[] ids) {
            put(ids == null ? -1 : ids.length);
            for (int i = 0; ids != null && i < ids.length; i++) {
                put(ids[i]);
            }
        }

        void text(String text) {
            byte[] bytes = text == null ? null : text.getBytes(StandardCharsets.UTF_8);
            if (bytes == null) {
                put(-1);
            } else {
                put(1);
                put(bytes.length);
                crc.update(bytes, 0, bytes.length);
            }
        }

        private void put(int value) {
            for (int shift = 24; shift >= 0; shift -= 8) {
                crc.update(value >>> shift);
            }
        }
    }
}
