package org.dgemma.jvm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import org.dgemma.format.Json;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.bench.Bench;
import org.junit.Test;

/** The command line, on the bundle that the Python package ships. */
public class MainTest extends CommandLine {
    @Test
    public void badInputIsOneLine() throws Exception {
        String missing = new File(temporary.getRoot(), "none").getPath();
        refused("choose run or bench");
        refused("choose run or bench", "walk");
        refused("no bundle", "run");
        refused("no such folder", "run", missing, "-p", "x");
        refused("unknown option --wide", "run", missing, "--wide");
        refused("--seed", "run", missing, "-p", "x", "--seed", "-1");
        refused("--seed", "run", missing, "-p", "x", "--seed", "18446744073709551616");
        refused("--threads", "run", missing, "-p", "x", "--threads", "0");
        refused("--max-new-tokens", "run", missing, "-p", "x", "--max-new-tokens", "0");
        refused("--loop 'spiral' is unknown; choose one of host, graph", "run", missing, "-p", "x", "--loop", "spiral");
        refused("give either -p or --prompt-ids, not both", "run", missing, "-p", "x", "--prompt-ids", "1");
        refused("--prompt-ids", "run", missing, "--prompt-ids", "1,two");
        refused("--trace needs an output that can hold it; give --json as well", "run", missing, "-p", "x", "--trace");
        refused("needs a value", "run", missing, "-p");
        refused("given twice", "run", missing, "-p", "x", "-p", "y");
        refused("--early-commit 0.0 must be a positive number of nats", "run", missing, "-p", "x", "--early-commit", "0");
        refused("--early-commit 'low' must be a number", "run", missing, "-p", "x", "--early-commit", "low");
        refused("--start-width '-4': must be auto, or a number", "run", missing, "-p", "x", "--start-width", "-4");
        refused("--start-width 0 must be auto", "run", missing, "-p", "x", "--canvas", "0"); // the old spelling
        refused("--temperature '1:2:3' must be A or A:B", "run", missing, "-p", "x", "--temperature", "1:2:3");
        refused("--temperature 'warm' must be A or A:B", "run", missing, "-p", "x", "--temperature", "warm");
        refused("--steps 0 must be an integer, 1 or more", "run", missing, "-p", "x", "--steps", "0");
        refused("seconds", "bench", missing, "--seconds", "0");
        File prompts = temporary.newFile();
        Files.write(prompts.toPath(), "{\"prompt\": \"x\"}\n{\"prompt\": 3}\n".getBytes(StandardCharsets.UTF_8));
        refused("line 2", "run", missing, "--prompts", prompts.getPath());
    }

    @Test
    public void anArgumentThatTheLocaleLostIsRefused() throws Exception {
        assertEquals(2, runIn("ANSI_X3.4-1968", "run", "none", "-p", "gr\uFFFD\uFFFDe"));
        assertEquals("error: an argument is not ANSI_X3.4-1968 text; set LC_ALL=C.UTF-8, or give the prompt on stdin or with "
                + "--prompts\n", err);
        refused("no such folder", "run", "none", "-p", "a \uFFFD that was typed");
    }

    @Test
    public void runPrintsTextOrOneObjectAPrompt() throws Exception {
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "-p", "Write boip backwards.", "--threads", "1"));
        assertEquals("piob\n", out);
        File prompts = temporary.newFile();
        String lines = "{\"prompt\": \"Write boip backwards.\"}\n\n"
                + "{\"prompt\": [2, 5, 7], \"seed\": 3, \"loop\": \"graph\", \"max_new_tokens\": 64, "
                + "\"adaptive\": false}\n";
        Files.write(prompts.toPath(), lines.getBytes(StandardCharsets.UTF_8));
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--prompts", prompts.getPath(), "--trace", "--threads", "1"));
        List<Map<?, ?>> found = new ArrayList<>();
        for (String line : out.split("\n")) {
            found.add((Map<?, ?>) Json.parse(line));
        }
        assertEquals(2, found.size());
        assertEquals("piob", found.get(0).get("text"));
        assertEquals("host", found.get(0).get("loop"));
        assertEquals("graph", found.get(1).get("loop"));
        assertEquals(16L, found.get(1).get("steps"));
        Map<?, ?> trajectory = (Map<?, ?>) found.get(1).get("trajectory");
        assertEquals(Arrays.asList(2L, 5L, 7L), trajectory.get("prompt_ids"));
        assertEquals(16, ((List<?>) trajectory.get("argmax")).size());
    }

    /** In one call a canvas, the sampler's options give what they give step by step; without them, other steps run. */
    @Test
    public void theFusedGraphTakesTheSamplersOptions() throws Exception {
        String[][] options = {
            {}, {"--steps", "3", "--temperature", "1.5:1.2", "--entropy-bound", "0.01", "--stability", "2"},
        };
        List<Object> tokens = new ArrayList<>();
        List<Object> steps = new ArrayList<>();
        for (String[] some : options) {
            for (String loop : new String[] {"host", "graph"}) {
                List<String> arguments = new ArrayList<>(Arrays.asList("run", BUNDLE.getPath(), "-p",
                        "Write a letter to Felix from Ben: meeting, library, Wednesday, 9, blanket.", "--json", "--loop", loop));
                arguments.addAll(Arrays.asList(some));
                assertEquals(err, 0, run(arguments.toArray(new String[0])));
                Map<?, ?> found = (Map<?, ?>) Json.parse(out);
                tokens.add(found.get("tokens"));
                steps.add(found.get("steps"));
            }
        }
        assertEquals(tokens.get(0), tokens.get(1));
        assertEquals(tokens.get(2), tokens.get(3));
        assertEquals(steps.get(0), steps.get(1));
        assertEquals(steps.get(2), steps.get(3));
        assertNotEquals(steps.get(0), steps.get(2));
    }

    @Test
    public void aConversationIsAFile() throws Exception {
        File file = temporary.newFile();
        String user = "{\"role\": \"user\", \"content\": \"Write boip backwards.\"}";
        String[] bundle = {"run", BUNDLE.getPath(), "--threads", "1", "--json", "--messages", file.getPath()};
        for (String conversation : new String[] {"[" + user + "]", "{\"messages\": [" + user + "], \"tools\": []}"}) {
            Files.write(file.toPath(), conversation.getBytes(StandardCharsets.UTF_8));
            assertEquals(err, 0, run(bundle));
            Map<?, ?> found = (Map<?, ?>) Json.parse(out);
            assertEquals("piob", found.get("text"));
            assertEquals("[, [], []]", Arrays.asList(
                    found.get("thinking"), found.get("tool_calls"), found.get("warnings")).toString());
        }
        refused("this bundle does not support thinking; leave out --think", "run", BUNDLE.getPath(), "-p", "x", "--think");
        refused("this bundle does not support system turns; leave out --system",
                "run", BUNDLE.getPath(), "-p", "x", "--system", "y");
        refused("give either -p or --messages, not both", "run", BUNDLE.getPath(), "-p", "x", "--messages", file.getPath());
        refused("--messages none: cannot be read", "run", BUNDLE.getPath(), "--messages", "none");
        String[][] wrong = {{"[", "is not JSON"}, {"[]", "messages must be a list"}, {"{\"say\": 1}", "unknown key 'say'"},
            {"{\"messages\": [" + user + "], \"tools\": [1]}", "tool 1: must be an object"}};
        for (String[] each : wrong) {
            Files.write(file.toPath(), each[0].getBytes(StandardCharsets.UTF_8));
            refused("--messages " + file.getPath() + ": " + each[1], bundle);
        }
    }

    @Test
    public void anEmptyAnswerIsSaidOnStderr() throws Exception {
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "-p", "Write boip backwards.", "--threads", "1"));
        assertEquals("", err);
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--prompt-ids", "2", "--threads", "1"));
        assertEquals("\n", out);
        assertEquals("the answer is empty: the model gave only padding\n", err);
        assertEquals(0, run("run", BUNDLE.getPath(), "--prompt-ids", "2", "--threads", "1", "--json"));
        assertEquals("", err);
        assertEquals(Arrays.asList("the answer is empty: the model gave only padding"),
                ((Map<?, ?>) Json.parse(out)).get("warnings"));
    }

    private static String failure(String message) throws Exception {
        Watched stdout = new Watched(new OutputStream() {
            @Override
            public void write(int value) throws IOException {
                if (!message.isEmpty()) {
                    throw new IOException(message);
                }
            }
        });
        PrintStream out = new PrintStream(stdout, true, "UTF-8");
        assertEquals(0, Main.run(new String[] {"-h"}, "UTF-8", out, out));
        return stdout.failure();
    }

    @Test
    public void whatCannotBeWrittenIsNoticed() throws Exception {
        assertEquals("No space left on device", failure("No space left on device"));
        assertNull("a reader that has gone is no error", failure("Broken pipe"));
        assertNull(failure(""));
    }

    @Test
    public void runLeavesOutWhatItIsTold() throws Exception {
        Map<?, ?> all = json();
        long positionForwards = (Long) all.get("position_forwards");
        assertEquals(64 * (Long) all.get("steps"), positionForwards);
        assertEquals((double) positionForwards / ((List<?>) all.get("tokens")).size(),
                (Double) all.get("position_forwards_per_token"), 1e-12);
        assertTrue((Long) all.get("prefill_position_forwards") > 10);
        for (String[] options : new String[][] {{"--early-commit", "0.003"}, {"--start-width", "auto"},
                {"--start-width", "8", "--recheck"}, {"--canvas", "8", "--repair"}, {"--settle", "0.003"},
                {"--start-width", "auto", "--speculate"}}) {
            Map<?, ?> less = json(options);
            assertEquals(Arrays.toString(options), "piob", less.get("text"));
            assertTrue(Arrays.toString(options), (Long) less.get("position_forwards") < positionForwards);
        }
        refused("--recheck runs positions that were committed early; give --early-commit or --start-width as well",
                "run", BUNDLE.getPath(), "-p", "x", "--recheck");
        refused("--speculate needs --loop host: the fused graph",
                "run", BUNDLE.getPath(), "-p", "x", "--speculate", "--loop", "graph");
        refused("--start-width 65 must be auto, or at most the exported 64", "run", BUNDLE.getPath(), "-p", "x",
                "--start-width", "65");
    }

    @Test
    public void runSamplesAsItIsTold() throws Exception {
        assertEquals(1L, json("--steps", "1").get("steps"));
        Map<?, ?> greedy = json("--temperature", "0");
        assertEquals("piob", greedy.get("text"));
        assertEquals(greedy.get("tokens"), json("--temperature", "0:0").get("tokens"));
        assertEquals(json().get("steps"), json("--temperature", "0.8:0.4").get("steps"));
        assertTrue((Long) json("--stability", "3").get("steps") > (Long) json().get("steps"));
        refused("--steps 17 must be at most the exported 16", "run", BUNDLE.getPath(), "-p", "x", "--steps", "17");
    }

    @Test
    public void aBenchmarkCanBeCancelledAtEveryStage() {
        for (String stage : Arrays.asList("loading", "canvases at growing prefixes", "real prompts")) {
            Bench bench = new Bench(BUNDLE, SessionOptions.DEFAULT.threads(1), 1);
            assertThrows(CancellationException.class, () -> bench.run((name, done) -> {
                if (name.equals(stage)) {
                    bench.cancel();
                }
            }));
        }
    }

    @Test
    public void benchHasTheKeysOfTheBundleTools() throws Exception {
        assertEquals(err, 0, run("bench", BUNDLE.getPath(), "--seconds", "1", "--json", "--threads", "1"));
        Map<?, ?> found = (Map<?, ?>) Json.parse(out);
        assertEquals("bench", found.get("benchmark"));
        for (String key : Arrays.asList("machine", "of", "bundle", "recipe", "options", "load", "memory", "prefill",
                "first_canvas", "growth", "groups", "steps_per_canvas", "outputs", "left_out", "noise", "ratios")) {
            assertTrue(key, found.containsKey(key));
        }
        Map<?, ?> group = (Map<?, ?>) ((Map<?, ?>) found.get("groups")).get("fills it to the end");
        assertTrue((Double) ((Map<?, ?>) group.get("diffusion")).get("exact") > 0.5);
        assertEquals(10L, group.get("pairs"));
        assertFalse(((Map<?, ?>) found.get("ratios")).isEmpty());
    }
}
