package org.dgemma.jvm;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.dgemma.runtime.Npu;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.Target;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/** One bundle, options with values, and flags. */
final class Arguments {
    private static final Map<String, String> RENAMED = new HashMap<>(); // old spellings, taken for one version

    static {
        RENAMED.put("--settle", "--early-commit");
        RENAMED.put("--repair", "--recheck");
        RENAMED.put("--canvas", "--start-width");
    }

    final File bundle;
    private static final List<String> REPEATED = // may be given several times
            Arrays.asList("--logit-bias", "--ban", "--stop", "--choice");
    private final Map<String, List<String>> values;
    private final Set<String> flags;

    private Arguments(File bundle, Map<String, List<String>> values, Set<String> flags) {
        this.bundle = bundle;
        this.values = values;
        this.flags = flags;
    }

    /** Throws UsageException for what is not listed, repeated, or lacks its value. */
    static Arguments parse(String[] given, List<String> options, List<String> flags) {
        String bundle = null;
        Map<String, List<String>> values = new HashMap<>();
        Set<String> found = new HashSet<>();
        for (int i = 0; i < given.length; i++) {
            String word = RENAMED.getOrDefault(given[i], given[i]);
            if (flags.contains(word)) {
                found.add(word);
            } else if (options.contains(word)) {
                if (i + 1 == given.length) {
                    throw new UsageException(word + ": needs a value");
                }
                List<String> all = values.computeIfAbsent(word, name -> new ArrayList<>());
                all.add(given[++i]);
                if (all.size() > 1 && !REPEATED.contains(word)) {
                    throw new UsageException(word + ": is given twice; give it once");
                }
            } else if (word.startsWith("-")) {
                throw new UsageException("unknown option " + word + "; read --help");
            } else if (bundle != null) {
                throw new UsageException("two bundles, " + bundle + " and " + word + "; give one");
            } else {
                bundle = word;
            }
        }
        if (bundle == null) {
            throw new UsageException("no bundle; give the folder that `dgemma export` made");
        }
        return new Arguments(new File(bundle), values, found);
    }

    boolean has(String flag) {
        return flags.contains(flag);
    }

    @Nullable String text(String option) {
        List<String> all = values.get(option);
        return all == null ? null : all.get(0);
    }

    /** Every value of an option that may be given several times. */
    String[] texts(String option) {
        return values.getOrDefault(option, Collections.emptyList()).toArray(new String[0]);
    }

    int number(String option, int otherwise) {
        String text = text(option);
        if (text == null) {
            return otherwise;
        }
        try {
            return Integer.parseInt(text);
        } catch (NumberFormatException error) {
            throw new UsageException(option + " '" + text + "' must be an integer");
        }
    }

    double real(String option, double otherwise) {
        String text = text(option);
        if (text == null) {
            return otherwise;
        }
        try {
            return Double.parseDouble(text);
        } catch (NumberFormatException error) {
            throw new UsageException(option + " '" + text + "' must be a number");
        }
    }

    /** 64 bits, read as unsigned. */
    long seed() {
        String text = text("--seed");
        try {
            return text == null ? 0 : Long.parseUnsignedLong(text);
        } catch (NumberFormatException error) {
            throw new UsageException("--seed " + text + " must be between 0 and 2^64-1");
        }
    }

    SessionOptions session() {
        String cache = text("--cache");
        SessionOptions options = SessionOptions.DEFAULT.engine(text("--engine"));
        if (cache != null) {
            options = options.cacheFolder(new File(cache));
        }
        String target = text("--target");
        if (target != null) {
            String[] named = target.split(":", 2); // qnn, or qnn:CHIP
            options = options.target(Target.of(named.length == 2 && !named[0].equals("qnn") ? target : named[0]))
                    .npu(Npu.of(named.length == 2 ? named[1] : null, null));
        }
        if ("0".equals(System.getenv("DGEMMA_CHECK_MEMORY"))) {
            options = options.checkMemory(false);
        }
        if (values.containsKey("--threads")) {
            int threads = number("--threads", 0);
            if (threads < 1 || threads > 1024) {
                throw new UsageException("--threads " + threads + " must be between 1 and 1024");
            }
            options = options.threads(threads);
        }
        return options;
    }
}
