package org.dgemma.runtime.bench;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TimeZone;
import org.jspecify.annotations.Nullable;

/** Facts of the machine that a result was measured on, from /proc where it tells. No name of host or user, no path. */
final class Machine {
    private static final String[][] INT8 = {
        {"amx_int8", "AMX"}, {"avx512_vnni", "AVX512-VNNI"}, {"avx_vnni", "AVX-VNNI"}, {"i8mm", "NEON with i8mm"},
        {"asimddp", "NEON with dot product"}, {"avx2", "AVX2 without VNNI"}, {"asimd", "NEON without dot product"},
    };

    private Machine() {}

    static int cores() {
        return Runtime.getRuntime().availableProcessors();
    }

    /** The keys of a result's {@code machine}; the caller adds the engine's version. */
    static Map<String, Object> facts() {
        Map<String, Object> found = new LinkedHashMap<>();
        String architecture = System.getProperty("os.arch", "unknown");
        architecture = architecture.equals("amd64") ? "x86_64" : architecture;
        List<String> cpu = read("/proc/cpuinfo");
        String name = value(cpu, "model name", "Hardware", "Model");
        found.put("cpu", name == null ? architecture : name);
        found.put("architecture", architecture);
        found.put("int8", int8(value(cpu, "flags", "Features")));
        found.put("cores", (long) cores());
        found.put("memory_bytes", kibibytes(read("/proc/meminfo"), "MemTotal"));
        found.put("load_average", loadAverage());
        String version = majorMinor(System.getProperty("os.version", ""));
        found.put("system", System.getProperty("os.name", "unknown") + " " + version);
        Map<String, Object> versions = new LinkedHashMap<>();
        versions.put("java", System.getProperty("java.version", "unknown"));
        String dgemma = Machine.class.getPackage().getImplementationVersion();
        if (dgemma != null) {
            versions.put("dgemma", dgemma);
        }
        found.put("versions", versions);
        SimpleDateFormat date = new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'+00:00'", Locale.ROOT);
        date.setTimeZone(TimeZone.getTimeZone("UTC"));
        found.put("date", date.format(new Date()));
        return found;
    }

    private static String majorMinor(String version) {
        String[] parts = version.split("\\.", 3);
        return parts.length < 2 ? version : parts[0] + "." + parts[1];
    }

    private static String int8(@Nullable String flags) {
        List<String> known = flags == null ? Collections.<String>emptyList() : Arrays.asList(flags.split("\\s+"));
        for (String[] path : INT8) {
            if (known.contains(path[0])) {
                return path[1];
            }
        }
        return "not known";
    }

    /** Runnable processes of the last minute; null where the system does not tell, as Android does not. */
    private static @Nullable Double loadAverage() {
        try {
            return Double.valueOf(read("/proc/loadavg").get(0).split(" ")[0]);
        } catch (IndexOutOfBoundsException | NumberFormatException error) {
            return null;
        }
    }

    /** Bytes of anonymous pages and of those that a file backs, shared memory too; null where nobody tells. */
    static @Nullable Map<String, Object> resident() {
        List<String> status = read("/proc/self/status");
        Long anonymous = kibibytes(status, "RssAnon");
        Long file = kibibytes(status, "RssFile");
        Long shared = kibibytes(status, "RssShmem");
        if (anonymous == null || file == null) {
            return null;
        }
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("anonymous", anonymous);
        found.put("file", file + (shared == null ? 0 : shared));
        return found;
    }

    private static @Nullable Long kibibytes(List<String> lines, String key) {
        String value = value(lines, key);
        try {
            return value == null ? null : Long.parseLong(value.split(" ")[0]) << 10;
        } catch (NumberFormatException error) {
            return null;
        }
    }

    /** The first value of one of these keys that is not empty. */
    private static @Nullable String value(List<String> lines, String... keys) {
        for (String line : lines) {
            int colon = line.indexOf(':');
            if (colon > 0 && Arrays.asList(keys).contains(line.substring(0, colon).trim())) {
                String value = line.substring(colon + 1).trim();
                if (!value.isEmpty()) {
                    return value;
                }
            }
        }
        return null;
    }

    /** Empty where the file cannot be read. */
    private static List<String> read(String path) {
        List<String> lines = new ArrayList<>();
        try (BufferedReader reader = new BufferedReader(
                new InputStreamReader(new FileInputStream(path), StandardCharsets.UTF_8))) {
            for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                lines.add(line);
            }
        } catch (IOException error) {
            return Collections.emptyList();
        }
        return lines;
    }
}
