package org.dgemma.runtime.engine;

import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;

/**
 * Size and samples of every file of a folder, written down in it: what tells a damaged cache entry from a whole one.
 *
 * <p>Hashing gigabytes at every load would read what is mapped so as not to be read. Samples see truncation, foreign files
 * and long runs of lost pages; they do not see one flipped bit in between.
 */
final class Seal {
    static final String FILE = "sealed.txt";
    private static final int PAGE = 4096;
    private static final int SAMPLES = 256;

    private Seal() {}

    static void write(File folder) throws IOException {
        Files.write(new File(folder, FILE).toPath(), describe(folder).getBytes(StandardCharsets.UTF_8));
    }

    /** Whether the folder is there, and each file is as when it was sealed, as far as samples tell. */
    static boolean holds(File folder) {
        try {
            byte[] known = Files.readAllBytes(new File(folder, FILE).toPath());
            return known.length > 0 && Arrays.equals(known, describe(folder).getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            return false;
        }
    }

    /** A line a file, by name: size, sha256 of the samples, name. */
    private static String describe(File folder) throws IOException {
        String[] names = folder.list();
        if (names == null) {
            throw new IOException(folder + ": cannot be listed");
        }
        Arrays.sort(names);
        StringBuilder lines = new StringBuilder();
        for (String name : names) {
            if (!name.equals(FILE)) {
                File file = new File(folder, name);
                lines.append(file.length()).append(' ').append(sample(file)).append(' ').append(name).append('\n');
            }
        }
        return lines.toString();
    }

    /** sha256 of up to 256 pages, evenly spread, the first and the last among them. */
    private static String sample(File file) throws IOException {
        MessageDigest digest = sha256();
        byte[] page = new byte[PAGE];
        try (RandomAccessFile open = new RandomAccessFile(file, "r")) {
            long last = Math.max(open.length() - PAGE, 0);
            long before = -1;
            for (int i = 0; i < SAMPLES; i++) {
                long offset = last * i / (SAMPLES - 1);
                if (offset != before) {
                    open.seek(offset);
                    int count = open.read(page);
                    digest.update(page, 0, Math.max(count, 0));
                    before = offset;
                }
            }
        }
        return hex(digest);
    }

    static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("every Java platform has SHA-256", error);
        }
    }

    static String hex(MessageDigest digest) {
        return String.format("%064x", new BigInteger(1, digest.digest()));
    }
}
