package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.File;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.dgemma.DgemmaException;
import org.dgemma.format.Json;
import org.dgemma.runtime.engine.Tensor;
import org.dgemma.tokenizer.Tokenizer;
import org.junit.Test;

/** The shared vectors of compiled structures: what Python answers with its files, and what it says of damaged ones. */
public class CompiledVectorsTest {
    private static final SessionOptions LOAD = SessionOptions.DEFAULT.engine("onnx").threads(1);

    private final Map<String, Object> head;
    private final Map<String, byte[]> files = new HashMap<>();

    public CompiledVectorsTest() throws Exception {
        head = Repository.json("tests/vectors/compiled.json");
        assertEquals(1L, head.get("format"));
        for (Object each : (List<?>) head.get("files")) {
            List<?> entry = (List<?>) each;
            files.put((String) entry.get(0), Base64.getDecoder().decode((String) entry.get(1)));
        }
    }

    private static Structure read(byte[] data) throws Exception {
        return Structure.read(new ByteArrayInputStream(data));
    }

    /** Options of a run, with its structure. */
    private GenerateOptions options(Map<?, ?> run) throws Exception {
        Map<String, Object> others = new HashMap<>();
        ((Map<?, ?>) run.get("options")).forEach((name, value) -> others.put((String) name, value));
        Structure structure = read(files.get(others.remove("structure")));
        boolean weighs = others.remove("choice_probabilities") != null; // which needs the structure
        Map<String, Object> plain = new HashMap<>();
        plain.put("seed", run.get("seed"));
        plain.put("options", others);
        return ControlVectorsTest.options(plain).structure(structure).choiceProbabilities(weighs);
    }

    @Test
    public void theExportedBundleGivesThem() throws Exception {
        List<?> runs = (List<?>) head.get("runs");
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Object each : runs) {
                Map<?, ?> run = (Map<?, ?>) each;
                ControlVectorsTest.same(run, ControlVectorsTest.generate(session, run, options(run)), session);
            }
        }
        System.out.println("tiny: " + runs.size() + " shared runs of compiled structures equal");
        assertTrue(runs.size() > 10);
    }

    /** What is refused before work, in Python's words, but for how options are spelled. */
    @Test
    public void theExportedBundleRefuses() throws Exception {
        String[][] spelled = {{"min_tokens", "minTokens"}, {"start_width", "startWidth"}, {"top_k", "topK"},
            {"choice_probabilities", "choiceProbabilities"}};
        try (Session session = Session.load(Repository.bundle("tiny"), LOAD)) {
            for (Object each : (List<?>) head.get("refused")) {
                List<?> entry = (List<?>) each;
                Map<String, Object> run = new HashMap<>();
                run.put("prompt", entry.get(0));
                run.put("options", entry.get(1));
                run.put("seed", "0");
                String said = (String) entry.get(2);
                for (String[] pair : spelled) {
                    said = said.replace(pair[0], pair[1]);
                }
                DgemmaException error = assertThrows(said, DgemmaException.class,
                        () -> ControlVectorsTest.generate(session, run, options(run)));
                assertEquals(said, error.getMessage());
            }
        }
    }

    /** The toy model of the generator: what it would say is likeliest, and other ids follow. */
    private static final class Toy extends ToyEngine {
        private final int begin;

        Toy(Bundle bundle, int begin, int... answer) {
            super(bundle, answer);
            this.begin = begin;
            stop = Speaking.STOP;
        }

        @Override
        int following(List<Integer> ids) {
            int at = ids.size() - begin;
            return at < answer.length ? answer[at] : at == answer.length ? stop : ToyBundle.PAD;
        }

        @Override
        void denoise(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            super.denoise(feeds, outputs);
            for (int i = 0; i < 16 * ToyBundle.N; i++) {
                long id = (id(outputs.get("argmax"), i / 16) + 41 * (i % 16)) % Speaking.VOCAB;
                put(outputs.get("likeliest"), i, (int) id);
                outputs.get("log_probs").data.putFloat(4 * i, -0.75f * (i % 16 + 1));
            }
        }
    }

    @Test
    public void callsAreForced() throws Exception {
        Map<String, Object> vectors = Repository.json("tests/vectors/conversations.json");
        Map<?, ?> first = (Map<?, ?>) ((List<?>) vectors.get("cases")).get(0);
        Bundle bundle = Bundle.open(Speaking.write(vectors, first.get("chat")));
        Tokenizer tokenizer = Speaking.tokenizer(vectors, bundle.manifest());
        int free = 0;
        for (Object each : (List<?>) head.get("calls")) {
            Map<String, Object> run = new HashMap<>();
            ((Map<?, ?>) each).forEach((name, value) -> run.put((String) name, value));
            Map<String, Object> told = new HashMap<>();
            ((Map<?, ?>) run.get("options")).forEach((name, value) -> told.put((String) name, value));
            int most = ((Long) told.remove("max_new_tokens")).intValue();
            told.put("structure", run.get("structure"));
            run.put("options", told);
            GenerateOptions options = options(run).maxNewTokens(most).tools(Json.write(run.get("tools")));
            List<Message> asked = Arrays.asList(Message.user((String) run.get("prompt")));
            int begin = Prompt.ids(bundle.manifest(), tokenizer, asked, options).length;
            try (Session session = new Session(new Toy(bundle, begin, Speaking.ints(run.get("answer"))), tokenizer)) {
                Result result = session.generate((String) run.get("prompt"), options, null);
                ControlVectorsTest.sameAnswer(run.toString(), run, result);
                sameTrajectory(run, result.trajectory);
                List<Object> calls = new ArrayList<>();
                result.toolCalls.forEach(call -> calls.add(Arrays.asList(call.name, call.arguments)));
                assertEquals(run.get("tool_calls").toString(), calls.toString());
                assertEquals(1, calls.size());
                assertEquals(run.get("warnings"), result.warnings);
                free += session.generate((String) run.get("prompt"), options.structure(null), null).toolCalls.size();
            }
        }
        assertEquals("control: without structure, the model calls nothing", 0, free);
    }

    private static void sameTrajectory(Map<?, ?> run, Trajectory trajectory) {
        String what = run.toString();
        assertNotNull(what, trajectory);
        assertArrayEquals(what, TrajectoriesTest.ints(run.get("step")), trajectory.step);
        assertTrue(what, Arrays.deepEquals(TrajectoriesTest.rows(run.get("argmax")), trajectory.argmax));
        assertTrue(what, Arrays.deepEquals(TrajectoriesTest.rows(run.get("canvas_out")), trajectory.canvasOut));
        for (int i = 0; i < trajectory.step.length; i++) {
            assertEquals(what, ((List<?>) run.get("accepted")).get(i), ControlVectorsTest.bits(trajectory.accepted[i]));
        }
    }

    @Test
    public void damagedFilesAreRefusedInPythonsWords() {
        for (Object each : (List<?>) head.get("damaged")) {
            List<?> entry = (List<?>) each;
            byte[] data = Base64.getDecoder().decode((String) entry.get(0));
            UsageException error = assertThrows(entry.toString(), UsageException.class, () -> read(data));
            assertEquals("structure " + entry.get(1), error.getMessage());
        }
    }

    @Test
    public void noChangeIsRead() {
        Random random = new Random(0);
        for (byte[] data : files.values()) {
            for (int i = 0; i < 200; i++) {
                byte[] changed = Arrays.copyOf(data, i % 2 == 0 ? data.length : random.nextInt(data.length));
                if (changed.length == data.length) {
                    changed[random.nextInt(data.length)] ^= (byte) (1 + random.nextInt(255));
                }
                assertThrows(UsageException.class, () -> read(changed));
            }
        }
        byte[] endless = new byte[33 << 20];
        UsageException error = assertThrows(UsageException.class, () -> read(endless));
        assertEquals("structure has more than 32 MB, so it is no compiled structure; name another file", error.getMessage());
    }

    @Test
    public void aFileIsAStructure() throws Exception {
        File file = File.createTempFile("sums", ".structure");
        try {
            Files.write(file.toPath(), files.get("sums"));
            Structure structure = Structure.read(file);
            assertEquals(read(files.get("sums")), structure);
            assertEquals(read(files.get("sums")).hashCode(), structure.hashCode());
            assertNotEquals(read(files.get("flat")), structure);
            assertEquals("structure", structure.name());
            assertTrue(structure.toString(), structure.toString().startsWith("structure {\"dgemma_structure\": 1, \"kind\": \"gra"));
            assertEquals(Arrays.asList("chair", "elbat", "é\n"), read(files.get("three")).choices);
            assertTrue(read(files.get("call")).isCall() && !structure.isCall());
            Files.write(file.toPath(), new byte[0]);
            UsageException error = assertThrows(UsageException.class, () -> Structure.read(file));
            assertEquals("structure " + file + ": is not a compiled structure; `dgemma structure` writes one", error.getMessage());
        } finally {
            assertTrue(file.delete());
        }
        UsageException error = assertThrows(UsageException.class, () -> Structure.read(file));
        assertEquals("structure " + file + ": cannot be read (No such file or directory); name a file that `dgemma structure` has "
                + "written", error.getMessage());
    }
}
