package org.dgemma.runtime;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;

/** Reads numpy's .npz: little-endian int64, uint64, float32 and bool arrays of up to two axes, in C order. */
final class Npz {
    private static final Pattern HEADER = Pattern.compile(
            "\\{'descr': '([^']+)', 'fortran_order': False, 'shape': \\((\\d*)(?:, ?(\\d+))?,?\\), \\}\\s*");

    private final Map<String, Npz.Array> arrays = new LinkedHashMap<>();

    private static final class Array {
        String dtype;
        int rows;
        int columns;
        ByteBuffer data;
    }

    static Npz read(File file) throws IOException {
        Npz npz = new Npz();
        try (ZipFile zip = new ZipFile(file)) {
            for (ZipEntry entry : Collections.list(zip.entries())) {
                try (InputStream in = zip.getInputStream(entry)) {
                    npz.arrays.put(entry.getName().replaceFirst("\\.npy$", ""), array(all(in)));
                }
            }
        }
        return npz;
    }

    private static Array array(byte[] bytes) {
        ByteBuffer buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        int length = buffer.getShort(8) & 0xffff;
        String header = new String(bytes, 10, length, StandardCharsets.US_ASCII);
        Matcher matcher = HEADER.matcher(header);
        if (bytes[6] != 1 || !matcher.matches()) {
            throw new IllegalArgumentException("an array that this reader does not know: " + header);
        }
        Array array = new Array();
        array.dtype = matcher.group(1);
        array.rows = Integer.parseInt(matcher.group(2));
        array.columns = matcher.group(3) == null ? 1 : Integer.parseInt(matcher.group(3));
        buffer.position(10 + length);
        array.data = buffer.slice().order(ByteOrder.LITTLE_ENDIAN);
        return array;
    }

    boolean has(String name) {
        return arrays.containsKey(name);
    }

    private Array get(String name, String dtype) {
        Array array = arrays.get(name);
        if (array == null || !array.dtype.equals(dtype)) {
            throw new IllegalArgumentException(name + " is missing or not " + dtype);
        }
        return array;
    }

    long[] longs(String name) {
        Array array = get(name, arrays.get(name).dtype.equals("<u8") ? "<u8" : "<i8");
        long[] values = new long[array.rows * array.columns];
        array.data.duplicate().order(ByteOrder.LITTLE_ENDIAN).asLongBuffer().get(values);
        return values;
    }

    int[] ints(String name) {
        return Arrays.stream(longs(name)).mapToInt(Math::toIntExact).toArray();
    }

    float[] floats(String name) {
        Array array = get(name, "<f4");
        float[] values = new float[array.rows * array.columns];
        array.data.duplicate().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
        return values;
    }

    int[][] intRows(String name) {
        int columns = get(name, "<i8").columns;
        int[] flat = ints(name);
        int[][] rows = new int[flat.length / columns][];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = Arrays.copyOfRange(flat, i * columns, (i + 1) * columns);
        }
        return rows;
    }

    float[][] floatRows(String name) {
        int columns = get(name, "<f4").columns;
        float[] flat = floats(name);
        float[][] rows = new float[flat.length / columns][];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = Arrays.copyOfRange(flat, i * columns, (i + 1) * columns);
        }
        return rows;
    }

    boolean[][] boolRows(String name) {
        Array array = get(name, "|b1");
        boolean[][] rows = new boolean[array.rows][array.columns];
        for (int i = 0; i < array.rows * array.columns; i++) {
            rows[i / array.columns][i % array.columns] = array.data.get(i) != 0;
        }
        return rows;
    }

    private static byte[] all(InputStream in) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] buffer = new byte[1 << 16];
        for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
            out.write(buffer, 0, n);
        }
        return out.toByteArray();
    }
}
