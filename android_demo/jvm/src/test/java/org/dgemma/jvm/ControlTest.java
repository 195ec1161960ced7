package org.dgemma.jvm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.junit.Test;

/** Options that control an answer, by the names that the Python command line has for them. */
public class ControlTest extends CommandLine {
    private static final String LETTER = "Write a letter to Felix from Ben: meeting, library, Wednesday, 9, blanket.";

    private String file(String name, String text) throws Exception {
        File file = new File(temporary.getRoot(), name);
        Files.write(file.toPath(), text.getBytes(StandardCharsets.UTF_8));
        return file.getPath();
    }

    /** What every step of a letter was or gave. */
    private Object steps(String what, String... options) throws Exception {
        List<String> all = new ArrayList<>(Arrays.asList(options));
        all.addAll(Arrays.asList("--fixed-steps", "--trace"));
        return ((Map<?, ?>) asked(LETTER, all.toArray(new String[0])).get("trajectory")).get(what);
    }

    /** The file of one of the shared vectors. */
    @SuppressWarnings("unchecked")
    private String compiled(String name) throws Exception {
        File vectors = new File(System.getProperty("dgemma.root", "../.."), "tests/vectors/compiled.json");
        for (Object each : (List<?>) ((Map<String, Object>) Json.parse(Files.readAllBytes(vectors.toPath()))).get("files")) {
            if (((List<?>) each).get(0).equals(name)) {
                File file = new File(temporary.getRoot(), name);
                Files.write(file.toPath(), Base64.getDecoder().decode((String) ((List<?>) each).get(1)));
                return file.getPath();
            }
        }
        throw new AssertionError(name);
    }

    @Test
    public void aStructureIsAFile() throws Exception {
        assertEquals("elbat", asked("Reverse the word table.", "--structure", compiled("words")).get("text"));
        Map<?, ?> chosen = asked("Reverse the word table.", "--structure", compiled("three"), "--choice-probabilities");
        assertEquals("elbat", chosen.get("text"));
        assertEquals(3, ((Map<?, ?>) chosen.get("choice_probabilities")).size());
    }

    /** What Python's command line says as well. */
    @Test
    public void errorsNameOptionsAsTheyAreTyped() throws Exception {
        String list = file("list.json", "[1]");
        String half = file("half.json", "{");
        String sums = compiled("sums");
        String[][] wrong = {
            {"--temperature -1", "--temperature '-1' must be A or A:B, numbers from 0 to 100, such as 0.8:0.4"},
            {"--temperature 1:200", "--temperature '1:200' must be A or A:B"},
            {"--entropy-bound 0", "--entropy-bound '0' must be a positive number of nats, or A:B"},
            {"--entropy-bound 1:2:3", "--entropy-bound '1:2:3' must be a positive number of nats, or A:B"},
            {"--max-new-tokens 0", "--max-new-tokens 0 must be an integer, 1 or more"},
            {"--min-tokens -1", "--min-tokens -1 must be an integer from 0 to --max-new-tokens, 256"},
            {"--min-tokens 3 --loop graph", "--min-tokens needs --decoder diffusion and --loop host: "},
            {"--min-tokens 3 --stop x", "--min-tokens cannot be combined with --stop, which can end it sooner; leave one out"},
            {"--seed -1", "--seed -1 must be between 0 and 2^64-1"},
            {"--schedule x", "--schedule 'x' must be linear, cosine, or a .json or .toml file"},
            {"--schedule none.toml", "--schedule none.toml: cannot be read (No such file or directory); name a text file"},
            {"--top-k 0", "--top-k 0 must be an integer, 1 or more"},
            {"--top-k 2 --loop graph", "--top-k cannot be combined with --loop graph: graph 'generate' returns no candidates"},
            {"--stability -1", "--stability -1 must be an integer, 0 or more"},
            {"--confidence NaN", "--confidence nan must be a positive number of nats"},
            {"--logit-bias 9999=1", "--logit-bias: id 9999 is outside the vocabulary of "},
            {"--logprobs 1", "--logprobs needs an output that can hold it; give --json as well"},
            {"--logprobs 1 --json --speculate", "--logprobs cannot be combined with --speculate, "},
            {"--stop ", "--stop [''] must be non-empty strings"},
            {"--ban ", "--ban [''] must be ids or non-empty texts"},
            {"--ban min-tokens,stop", "--ban 'min-tokens,stop' takes "},
            {"--fallback x", "--fallback 'x' is unknown; choose autoregressive"},
            {"--fallback autoregressive --ban x", "--ban cannot be combined with --fallback, whose tokens come from greedy "},
            {"--template stop,maxSteps", "--template 'stop,maxSteps' has no hole; "},
            {"--template {{3}} --stop x", "--template determines where the answer ends; leave --stop out"},
            {"--template {{3}} --start-width 8", "--template fills the whole canvas; leave --start-width out"},
            {"--template {{9999}}", "--template has holes of 9999 tokens, "},
            {"--template {{3}} --draft " + file("draft", "x"), "give --template or --draft, not both"},
            {"--draft none", "--draft none: cannot be read (No such file or directory); name a text file"},
            {"--strength 0", "--strength 0.0 must be a number above 0 and at most 1"},
            {"--strength 0.2", "--strength says how much of a draft is noise; give --draft as well, or leave it out"},
            {"--regex a{300}", "--max-new-tokens 256 is less than the 300 tokens that --regex takes at least"},
            {"--regex (a", "--regex '(a': has unbalanced parentheses or brackets; "},
            {"--regex a --choice a|b", "give one of --regex, --json-schema and --choice, not --regex and --choice"},
            {"--regex a --stop x --ban y", "--regex determines what the answer is and where it ends; leave --stop out"},
            {"--regex a --start-width 8", "--regex needs the whole canvas from its first step on; leave --start-width out"},
            {"--regex a --loop graph",
                "--regex needs --decoder diffusion and --loop host: otherwise the probabilities of other ids are not known"},
            {"--regex a --think", "--regex covers the whole answer, thoughts included; leave --think out"},
            {"--structure none", "--structure none: cannot be read (No such file or directory); name a file that `dgemma "},
            {"--structure " + half, "--structure " + half + ": is not a compiled structure; `dgemma structure` writes one"},
            {"--structure none --regex a", "give --structure or --regex, not both"},
            {"--structure " + sums + " --max-new-tokens 1 --top-k 3", "--structure takes the likeliest ids that fit instead of "},
            {"--regex (?i)a", "--regex '(?i)a': has the flags (?i), which Java does not compile; write it in other words, or "},
            {"--choice a", "--choice 'a' is the only one; give 2 or more different texts"},
            {"--choice a|a", "--choice have 'a' twice; give 2 or more different texts"},
            {"--choice a|b --choice-probabilities", "--choice-probabilities needs an output that can hold it; give --json"},
            {"--regex a --choice-probabilities --json", "--choice-probabilities needs --choice; give them, or leave it out"},
            {"--json-schema none", "--json-schema none: cannot be read (No such file or directory); name a text file"},
            {"--json-schema " + list, "--json-schema " + list + " must be an object, not [1]"},
            {"--json-schema " + half, "--json-schema " + half + " is not JSON ("},
            {"--json-schema " + file("any.json", "{}"), "--json-schema # has no type, so any value would fit; "},
            {"--raw --think", "--raw skips the chat template, which --system, --think and tools need; leave it out"},
            {"--n 0", "--n 0 must be between 1 and 1000"},
            {"--n 2 --speculate", "--n needs --decoder diffusion without --speculate: greedy decoding always gives the same answer"},
            {"--n 2 --decoder autoregressive", "--n needs --decoder diffusion without --speculate: "},
            {"--decoder x", "--decoder 'x': choose one of diffusion, autoregressive"},
            {"--decoder autoregressive --fixed-steps", "--fixed-steps needs --decoder diffusion: autoregressive decoding has no "},
            {"--decoder autoregressive --trace --json", "--trace needs --decoder diffusion: autoregressive decoding has no "},
            {"--decoder autoregressive --loop graph", "--loop needs --decoder diffusion: autoregressive decoding has no "},
            {"--decoder autoregressive --steps 2 --top-k 3", "--steps and --top-k need --decoder diffusion: autoregressive"},
            {"--decoder autoregressive --ban x", "--ban needs --decoder diffusion: autoregressive decoding returns a single "},
            {"--guidance 101", "--guidance 101.0 must be a number from 0 to 100; 1 changes nothing"},
            {"--negative x", "--negative needs --guidance; give it as well, or leave this out"},
            {"--guidance-steps 2", "--guidance-steps needs --guidance; give it as well, or leave this out"},
            {"--guidance 2 --guidance-steps x", "--guidance-steps 'x' must be A:B, two step numbers such as 2:8"},
            {"--guidance 2 --guidance-steps 3:2", "--guidance-steps (3, 2) must be the first and the last step, such as 2 and 8"},
            {"--guidance 2 --negative ", "--negative must be non-empty text, or ids"},
            {"--guidance 2 --loop graph",
                "--guidance needs --decoder diffusion and --loop host: the other graphs have no second pass"},
            {"--guidance 2 --early-commit 0.01 --recheck",
                "--guidance needs every position in every step; leave --early-commit and --recheck out"},
            {"--recheck", "--recheck runs positions that were committed early; give --early-commit or --start-width as well"},
            {"--n 2 --json --trace", "--n gives several answers, which --trace cannot hold; "},
        };
        for (String[] each : wrong) {
            List<String> all = new ArrayList<>(Arrays.asList("run", BUNDLE.getPath(), "-p", "x"));
            all.addAll(Arrays.asList(each[0].split(" ", -1)));
            refused("error: " + each[1], all.toArray(new String[0]));
        }
        refused("--prompts gives several answers, which --n cannot hold",
                "run", BUNDLE.getPath(), "--prompts", file("prompts", "{\"prompt\": \"x\"}"), "--n", "2");
    }

    @Test
    public void aProfileIsWhatTheOptionsDoNotSay() throws Exception {
        String head = "{\"version\": 1, \"name\": \"a\", \"options\": ";
        String path = file("p.json", head + "{\"temperature\": [3.0, 3.0], \"max_steps\": 3}, \"bundle\": null}");
        assertEquals(steps("accepted", "--temperature", "3", "--steps", "3"), steps("accepted", "--profile", path));
        assertEquals(steps("accepted", "--temperature", "3", "--steps", "2"),
                steps("accepted", "--profile", path, "--steps", "2"));
        String other = file("o.json", head + "{\"early_commit\": 0.01, \"recheck\": true}, \"bundle\": \"x\", \"evidence\": {}}");
        assertEquals(json("--early-commit", "0.01", "--recheck").get("position_forwards"),
                json("--profile", other).get("position_forwards"));
        assertEquals("warning: profile a was found for another bundle, so its evidence does not apply to this one; "
                + "`dgemma tune` makes one that does\n", err);
        String[][] wrong = {
            {head + "{\"temperature\": \"x\"}}", ": --temperature 'x' must be A or A:B, numbers from 0 to 100, such as 0.8:0.4"},
            {head + "{\"temperature\": [1, 200]}}", ": --temperature [1, 200] must be A or A:B, "},
            {head + "{\"start_width\": 0}}", ": --start-width 0 must be auto, or a number of positions, 1 or more"},
            {head + "{\"max_steps\": 2.5}}", ": --steps 2.5 must be an integer, 1 or more"},
            {head + "{\"stability\": true}}", ": --stability True must be an integer, 0 or more"},
            {head + "{\"early_commit\": 0}}", ": --early-commit 0 must be a positive number of nats"},
            {head + "{\"recheck\": true}}", ": --recheck runs positions that were committed early; give --early-commit or "},
            {head + "{\"top_k\": 2}}", " has an unknown option 'top_k'; choose from temperature, max_steps, entropy_bound, "
                    + "schedule, confidence, stability, early_commit, start_width, recheck"},
            {head + "{\"schedule\": {\"temperature\": \"x\"}}}", ": --schedule: temperature must be a list of numbers from 0 to 100"},
            {head + "{\"schedule\": {\"entropy_bound\": [0]}}}", ": --schedule: entropy_bound must be a list of positive numbers "},
            {head + "{\"schedule\": {\"temperature\": [1]}, \"temperature\": 1}}",
                ": --temperature is also in the table of --schedule; leave one out"},
            {head + "{\"schedule\": 3}}", ": --schedule '3' must be linear or cosine, or a table of temperature and entropy_bound"},
            {head + "[]}", ": options must be an object"},
            {head + "{}, \"evidence\": null}", ": evidence must be an object"},
            {head + "{}, \"bundle\": 1}", ": bundle must be a bundle's digest"},
            {head + "{}, \"x\": 1}", " has an unknown key 'x'; choose from name, options, bundle, evidence"},
            {"{\"version\": 1, \"options\": {}}", " has no name"},
            {"{\"version\": 1, \"name\": \"a\\nb\", \"options\": {}}", ": name must be one line of text"},
            {"{\"version\": 2, \"name\": \"a\"}", ": is not a profile of version 1; make one with `dgemma tune`"},
            {"[1]", ": is not a profile (not an object); make one with `dgemma tune`"},
            {"{", ": is not a profile ("},
        };
        for (String[] each : wrong) {
            String file = file("wrong.json", each[0]);
            refused("error: --profile " + file + each[1], "run", BUNDLE.getPath(), "-p", "x", "--profile", file);
        }
        refused("--profile none.json: cannot be read (No such file or directory); name a file",
                "run", "x", "-p", "x", "--profile", "none.json");
        refused("--profile a.toml: is TOML, which this tool does not read; write it as JSON",
                "run", "x", "-p", "x", "--profile", "a.toml");
    }

    @Test
    public void tokensAreDecodedOneByOne() throws Exception {
        Map<?, ?> plain = json("--decoder", "autoregressive");
        assertEquals("decode", plain.get("loop"));
        String text = (String) plain.get("text");
        String end = text.substring(text.length() - 1);
        Map<?, ?> stopped = json("--decoder", "autoregressive", "--stop", end);
        assertEquals(text.substring(0, text.indexOf(end)), stopped.get("text"));
        assertEquals(end, stopped.get("stop_string"));
        String turns = file("turns.json", "[{\"role\": \"user\", \"content\": \"Write boip backwards.\"}]");
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--messages", turns, "--decoder", "autoregressive", "--threads", "1"));
        assertEquals(text + "\n", out);
    }

    @Test
    public void guidedStepsRunTwice() throws Exception {
        String word = "Reverse the word table.";
        String[] fixed = {"--fixed-steps", "--steps", "4"};
        String[] all = {"--fixed-steps", "--steps", "4", "--guidance", "2", "--negative", "Write 4271 in words."};
        long n = (Long) asked(word, fixed).get("position_forwards") / 4;
        assertEquals(8 * n, asked(word, all).get("position_forwards"));
        assertEquals("all but the first", 7 * n, asked(word, Arrays.copyOf(all, 5)).get("position_forwards"));
        all[5] = "--guidance-steps";
        all[6] = "2:3";
        assertEquals(6 * n, asked(word, all).get("position_forwards"));
        Map<?, ?> one = asked(word, "--guidance", "1", "--negative", "x");
        assertEquals("changes nothing", asked(word).get("position_forwards"), one.get("position_forwards"));
    }

    @Test
    public void aFileOfPromptsHasTheSameOptions() throws Exception {
        String ids = "[2, 4, 608, 606, 592, 605, 6]";
        String table = file("table.json", "{\"temperature\": [3.0, 2.0, 1.0]}");
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--prompt-ids", "2,4,608,606,592,605,6", "--threads", "1", "--json",
                "--trace", "--min-tokens", "9", "--max-new-tokens", "64", "--schedule", table, "--guidance", "1.5",
                "--guidance-steps", "2:3", "--entropy-bound", "0.3:0.1"));
        Map<?, ?> typed = (Map<?, ?>) Json.parse(out);
        String line = "{\"prompt\": " + ids + ", \"min_tokens\": 9, \"max_new_tokens\": 64, \"guidance\": 1.5, "
                + "\"guidance_steps\": [2, 3], \"sampler\": {\"schedule\": {\"temperature\": [3.0, 2.0, 1.0]}, "
                + "\"entropy_bound\": [0.3, 0.1]}}";
        String prompts = file("lines", line + "\n" + line.replace("\"guidance_steps\": [2, 3]", "\"negative\": [2, 4]"));
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--prompts", prompts, "--threads", "1", "--trace"));
        Map<?, ?> read = (Map<?, ?>) Json.parse(out.split("\n")[0]);
        assertEquals(typed.get("trajectory"), read.get("trajectory"));
        assertEquals(typed.get("position_forwards"), read.get("position_forwards"));
        assertEquals(3, ((List<?>) ((Map<?, ?>) read.get("trajectory")).get("entropy_bound")).size());
        assertNotEquals(read.get("trajectory"), ((Map<?, ?>) Json.parse(out.split("\n")[1])).get("trajectory"));
        refused(", line 1: must be a JSON object", "run", BUNDLE.getPath(), "--prompts", file("x", line.replace("1.5", "-1")));
    }

    @Test
    public void aBoundMayHaveTwoEnds() throws Exception {
        Object one = steps("accepted", "--temperature", "3", "--steps", "3", "--entropy-bound", "1e-6");
        assertEquals(one, steps("accepted", "--temperature", "3", "--steps", "3", "--entropy-bound", "1e-6:1e-6"));
        assertNotEquals(one, steps("accepted", "--temperature", "3", "--steps", "3", "--entropy-bound", "1e-6:9"));
    }

    @Test
    public void aScheduleIsAShapeOrATable() throws Exception {
        String[] ends = {"--steps", "2", "--temperature", "1:0", "--schedule", "linear"};
        assertEquals("of one canvas", Arrays.asList(1.0, 0.5), ((List<?>) steps("temperature", ends)).subList(0, 2));
        ends[1] = "4";
        ends[5] = "cosine";
        assertEquals(0.8535534, (Double) ((List<?>) steps("temperature", ends)).get(1), 1e-6);
        String toml = file("a.toml", "# steps\ntemperature = [\n  1.0, 8e-1,\n  0.6, # the third\n  0.4,\n]\r\n"
                + "\"entropy_bound\" = [0.0_1, 1, +2, 3]\n");
        String json = file("a.json", "{\"temperature\": [1.0, 0.8, 0.6, 0.4], \"entropy_bound\": [0.01, 1, 2, 3]}");
        for (String path : new String[] {toml, json}) {
            List<?> temperatures = (List<?>) steps("temperature", "--schedule", path);
            assertEquals(Arrays.asList((double) 1.0f, (double) 0.8f, (double) 0.6f, (double) 0.4f), temperatures.subList(0, 4));
        }
        assertEquals(steps("accepted", "--schedule", json), steps("accepted", "--schedule", toml));
        String tight = file("b.json", "{\"entropy_bound\": [1e-6, 1e-6, 1e-6]}");
        assertEquals(steps("accepted", "--temperature", "3", "--steps", "3", "--entropy-bound", "1e-6"),
                steps("accepted", "--temperature", "3", "--schedule", tight));
        String[][] wrong = {
            {"", " has no values; give temperature, entropy_bound or both"},
            {"temperature = []", " has no values; give temperature, entropy_bound or both"},
            {"temperature = [1, 2]\nentropy_bound = [1]", " has lists of different lengths"},
            {"temperature = [1, 200]", ": temperature must be a list of numbers from 0 to 100"},
            {"temperature = 0.5", ": temperature must be a list of numbers from 0 to 100"},
            {"entropy_bound = [.5]", ": entropy_bound must be a list of positive numbers of nats"},
            {"entropy_bound = [1,,2]", ": entropy_bound must be a list of positive numbers of nats"},
            {"heat = [1]", " has an unknown key 'heat'; choose from temperature, entropy_bound"},
            {"temperature [1]", ": cannot be read (no list of numbers at 'temperature [1]'); correct the file"},
            {"temperature = [1\nheat", ": cannot be read (no list of numbers at 'temperature = [1'); correct the file"},
            {"temperature = [1]\ntemperature = [1]", ": cannot be read (temperature is there twice); correct the file"},
        };
        for (String[] each : wrong) {
            String path = file("wrong.toml", each[0]);
            refused("--schedule " + path + each[1], "run", BUNDLE.getPath(), "-p", "x", "--schedule", path);
        }
        String path = file("wrong.json", "[1]");
        refused("--schedule " + path + ": cannot be read (not an object)", "run", "x", "-p", "x", "--schedule", path);
        path = file("wrong.json", "{\"temperature\": [true]}");
        refused("--schedule " + path + ": temperature must be", "run", "x", "-p", "x", "--schedule", path);
        refused("--temperature is also in the table of --schedule; leave one out",
                "run", "x", "-p", "x", "--schedule", json, "--temperature", "1");
        refused("--steps 3 differs from --schedule, whose table has 4 steps; leave one out",
                "run", "x", "-p", "x", "--schedule", json, "--steps", "3");
    }

    @Test
    public void aLeastLengthIsKept() throws Exception {
        int before = ((List<?>) json().get("tokens")).size();
        assertTrue(((List<?>) json("--min-tokens", String.valueOf(before + 4)).get("tokens")).size() >= before + 4);
    }

    @Test
    public void aTemplateNeedsNoPrompt() throws Exception {
        Map<?, ?> filled = asked("Reverse the word table.", "--template", "el{{3}}");
        assertEquals("elbat", filled.get("text"));
        assertEquals(Collections.singletonList("bat"), filled.get("holes"));
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--template", "el{{3}}", "--threads", "1"));
        assertTrue(out, out.startsWith("el"));
    }

    @Test
    public void aDraftSavesSteps() throws Exception {
        String draft = file("draft", "\uFEFFpiob\n"); // without the mark and the line break
        Map<?, ?> begun = json("--draft", draft, "--strength", "0.1", "--fixed-steps");
        assertEquals("piob", begun.get("text"));
        assertEquals("of 16", 2L, begun.get("steps"));
        assertEquals("half of them", 8L, json("--draft", draft, "--fixed-steps").get("steps"));
    }

    @Test
    public void anEmptyAnswerIsDecodedInstead() throws Exception {
        assertEquals(err, 0, run("run", BUNDLE.getPath(), "--prompt-ids", "2", "--threads", "1", "--max-new-tokens", "4",
                "--fallback", "autoregressive"));
        assertTrue(err, err.startsWith("the canvas gave only padding; this answer is autoregressive\n"));
    }

    @Test
    public void severalAnswersAreCounted() throws Exception {
        assertEquals(0, run("run", BUNDLE.getPath(), "-p", "Write boip backwards.", "--n", "3", "--threads", "1"));
        assertEquals("piob\n", out);
        assertEquals("3 of 3 answers say this\n", err);
        Map<?, ?> found = json("--n", "2");
        assertEquals("piob", found.get("text"));
        assertEquals(1.0, found.get("agreement"));
        List<?> samples = (List<?>) found.get("samples");
        assertEquals(2, samples.size());
        Map<?, ?> first = (Map<?, ?>) samples.get(0);
        assertEquals("[text, tokens, steps]", first.keySet().toString());
        assertEquals(json().get("tokens"), first.get("tokens"));
    }

    @Test
    public void anAnswerHasItsForm() throws Exception {
        String word = "Reverse the word table.";
        assertEquals("eebaa", asked(word, "--regex", "[a-e]+").get("text"));
        Map<?, ?> chosen = asked(word, "--choice", "elbat|chair", "--choice", "table", "--choice-probabilities");
        assertEquals("elbat", chosen.get("text"));
        Map<?, ?> probabilities = (Map<?, ?>) chosen.get("choice_probabilities");
        assertEquals("[elbat, chair, table]", probabilities.keySet().toString());
        assertTrue((Double) probabilities.get("elbat") > 0.9);
        String schema = file("person.json", "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, "
                + "\"city\": {\"type\": \"string\"}, \"age\": {\"type\": \"integer\"}}}");
        assertEquals("{\"name\": \"Paula\", \"city\": \"Zurich\", \"age\": 30}",
                asked("As JSON: Paula from Zurich, age 30.", "--json-schema", schema).get("text"));
    }
}
