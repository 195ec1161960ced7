package org.dgemma.jvm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.junit.Rule;
import org.junit.rules.TemporaryFolder;

/** Calls the command line as a shell would, with the bundle that the Python package ships. */
abstract class CommandLine {
    static final File BUNDLE = new File(System.getProperty("dgemma.root"), "src/dgemma/bundles/tiny.dgemma");

    @Rule public final TemporaryFolder temporary = new TemporaryFolder();

    String out = "";
    String err = "";

    int run(String... arguments) throws Exception {
        return runIn("UTF-8", arguments);
    }

    int runIn(String encoding, String... arguments) throws Exception {
        ByteArrayOutputStream first = new ByteArrayOutputStream();
        ByteArrayOutputStream second = new ByteArrayOutputStream();
        int status = Main.run(
                arguments, encoding, new PrintStream(first, true, "UTF-8"), new PrintStream(second, true, "UTF-8"));
        out = first.toString("UTF-8");
        err = second.toString("UTF-8");
        return status;
    }

    void refused(String phrase, String... arguments) throws Exception {
        assertEquals(Arrays.toString(arguments), 2, run(arguments));
        assertTrue(err, err.startsWith("error: ") && err.contains(phrase));
        assertEquals("one line", 1, err.split("\n").length);
        assertEquals("", out);
    }

    Map<?, ?> json(String... more) throws Exception {
        return asked("Write boip backwards.", more);
    }

    /** The JSON object of an answer. */
    Map<?, ?> asked(String prompt, String... more) throws Exception {
        List<String> all = new ArrayList<>(
                Arrays.asList("run", BUNDLE.getPath(), "-p", prompt, "--threads", "1", "--json"));
        all.addAll(Arrays.asList(more));
        assertEquals(err, 0, run(all.toArray(new String[0])));
        return (Map<?, ?>) Json.parse(out);
    }
}
