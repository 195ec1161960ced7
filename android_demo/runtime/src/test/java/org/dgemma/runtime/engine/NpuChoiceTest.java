package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.object;
import static org.dgemma.runtime.engine.Fixtures.refused;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.function.Consumer;
import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleException;
import org.dgemma.runtime.Npu;
import org.dgemma.runtime.Placement;
import org.dgemma.runtime.Repository;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.Target;
import org.dgemma.runtime.UsageException;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Which target runs, and what is said where the NPU cannot. */
public class NpuChoiceTest {
    private static final SessionOptions QNN = SessionOptions.DEFAULT.target(Target.QNN);

    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    private static Bundle bundle() {
        return Bundle.open(Repository.bundle("tiny-npu-fp32"));
    }

    private Bundle changed(Consumer<Map<String, Object>> manifest) throws Exception {
        File source = Repository.bundle("tiny-npu-fp32");
        return Fixtures.changed(source, folder.newFolder().toPath(), path -> {}, manifest);
    }

    /** A folder with files of the libraries' names. */
    private File libraries(String text) throws Exception {
        File libraries = folder.newFolder();
        Files.createFile(new File(libraries, System.mapLibraryName("onnxruntime_providers_qnn")).toPath());
        byte[] padded = new byte[3 << 20];
        byte[] bytes = text.getBytes(StandardCharsets.US_ASCII);
        System.arraycopy(bytes, 0, padded, (1 << 20) - 5, bytes.length); // over the end of a piece that is read
        Files.write(new File(libraries, "libQnnHtp.so").toPath(), padded);
        return libraries;
    }

    private static NpuChoice onPhone(Bundle bundle, SessionOptions options) {
        return NpuChoice.of(bundle, options, false);
    }

    @Test
    public void theChipInThisMachineIsTaken() throws Exception {
        File libraries = libraries("");
        for (String model : new String[] {"SM8650", "sm8650", "SM8650-AC", null}) {
            for (Target target : new Target[] {Target.AUTO, Target.QNN}) {
                SessionOptions asked = SessionOptions.DEFAULT.target(target).npu(Npu.of(model, libraries));
                NpuChoice choice = onPhone(bundle(), asked);
                assertEquals("SM8650", choice.spec.chip);
                assertEquals(new File(libraries, "libQnnHtp.so"), choice.libraries.backend);
                assertNull(choice.reason);
            }
        }
        assertNull(onPhone(bundle(), SessionOptions.DEFAULT.target(Target.CPU).npu(Npu.of("SM8650", libraries))).spec);
    }

    @Test
    public void autoSaysWhyItTakesTheProcessor() throws Exception {
        Npu npu = Npu.of("SM8650", libraries(""));
        Object[][] cases = {
            {Npu.of("SM8550", npu.libraries), "has no contexts for 'qnn:SM8550' (it has: qnn:SM8650)"},
            {Npu.of("SM8650", null), "no folder with them was given; an Android app packs com.qualcomm.qti"},
            {Npu.of("SM8650", folder.newFolder()), "which is not there"},
        };
        for (Object[] each : cases) {
            NpuChoice choice = onPhone(bundle(), SessionOptions.DEFAULT.npu((Npu) each[0]));
            assertNull(choice.spec);
            assertTrue(choice.reason, choice.reason.contains((String) each[1]));
        }
        assertTrue(NpuChoice.of(bundle(), SessionOptions.DEFAULT.npu(npu), true).reason.startsWith("on x86-64"));
        Bundle without = Bundle.open(Repository.bundle("tiny-w8"));
        assertNull(onPhone(without, SessionOptions.DEFAULT.npu(npu)).reason);
    }

    @Test
    public void theSessionTellsTheReason() throws Exception {
        Bundle several = changed(values -> object(values.get("targets"))
                .put("qnn:SM8750", object(values.get("targets")).get("qnn:SM8650")));
        try (Engine engine = Engines.open(several, SessionOptions.DEFAULT)) {
            Placement placement = engine.placement();
            assertEquals("onnx", placement.label);
            assertEquals("cpu", placement.parts.get("everything"));
            assertTrue(placement.toString(), placement.reason != null && placement.toString().contains(placement.reason));
        }
    }

    @Test
    public void whatCannotBeHadIsRefusedWithACure() throws Exception {
        File libraries = libraries("");
        SessionOptions here = QNN.npu(Npu.of(null, libraries));
        refused(() -> onPhone(bundle(), QNN.npu(Npu.of("SM8750", libraries))), "has no contexts for 'qnn:SM8750'",
                "export it again with --target qnn:SM8750", "or use target cpu");
        refused(() -> onPhone(bundle(), QNN.npu(Npu.of("SM8450", libraries))), "this chip is unknown to dgemma",
                "SM8550, SM8650, SM8750, SM8850");
        refused(() -> onPhone(Bundle.open(Repository.bundle("tiny-w8")), here), "was exported without contexts for an NPU; "
                + "export it again with --target qnn:CHIP");
        Bundle several = changed(values -> object(values.get("targets"))
                .put("qnn:SM8750", object(values.get("targets")).get("qnn:SM8650")));
        refused(() -> onPhone(several, here), "contexts for several chips; name the one in this machine",
                "qnn:SM8650 or qnn:SM8750");
        refused(() -> onPhone(bundle(), QNN), "needs Qualcomm's libraries", "-Ddgemma.qnn.libraries=FOLDER");
        File empty = folder.newFolder();
        refused(() -> onPhone(bundle(), QNN.npu(Npu.of(null, empty))), new File(empty, "lib").getPath(), "is not there",
                "com.qualcomm.qti:onnxruntime-android-qnn");
        UsageException wrong = assertThrows(UsageException.class, () -> onPhone(bundle(), here.engine("executorch")));
        assertEquals("target qnn runs on engine 'onnx', not 'executorch'; leave the engine out", wrong.getMessage());
        assertThrows(UsageException.class, () -> Target.of("npu"));
    }

    @Test
    public void librariesOfAnotherReleaseAreRefused() throws Exception {
        Bundle bundle = bundle();
        String compiled = bundle.manifest().targets.get("qnn:SM8650").versions.get("qairt");
        String minor = compiled.replaceFirst("\\.\\d+$", "");
        assertNull(QnnLibraries.in(libraries("AISW_VERSION: " + minor + ".40")).check(compiled, "here"));
        QnnLibraries older = QnnLibraries.in(libraries("AISW_VERSION: 2.45.0"));
        refused(() -> older.check(compiled, "here"), "here: its contexts were compiled with QAIRT " + compiled, "has 2.45.0",
                "use com.qualcomm.qti:qnn-runtime of QAIRT " + minor);
        String untold = QnnLibraries.in(libraries("no version")).check(compiled, "here");
        assertTrue(untold, untold.endsWith("does not tell its release of QAIRT; the contexts of here need " + compiled));
        // and by the session, before anything native is loaded
        refused(() -> Engines.open(bundle, QNN.npu(Npu.of("SM8650", older.backend.getParentFile()))), "compiled with QAIRT");
    }

    @Test
    public void whatIsNoLibraryIsRefused() throws Exception {
        File libraries = libraries("");
        refused(() -> Engines.open(bundle(), QNN.npu(Npu.of("SM8650", libraries))),
                System.mapLibraryName("onnxruntime_providers_qnn") + " cannot be loaded (", "or use target cpu");
    }

    @Test
    public void aTargetWhoseFilesAreNotListedIsRefused() throws Exception {
        BundleException error = assertThrows(BundleException.class,
                () -> changed(values -> object(values.get("files")).remove("qnn/constants.npz")));
        assertTrue(error.getMessage(), error.getMessage().contains("\"qnn:SM8650\" file \"qnn/constants.npz\" is not listed")
                || error.getMessage().contains("'qnn:SM8650' file 'qnn/constants.npz' is not listed"));
        assertThrows(BundleException.class, () -> changed(
                values -> object(object(values.get("targets")).get("qnn:SM8650")).put("speed", 1L)));
    }

    @Test
    public void chipsAreThoseOfTheExport() throws Exception {
        File source = Repository.file("src/dgemma/core/accelerators.py");
        String text = new String(Files.readAllBytes(source.toPath()), StandardCharsets.UTF_8);
        String[] found = Arrays.stream(text.split("\n")).filter(line -> line.matches("    \"SM\\d+\": Chip.*"))
                .map(line -> line.trim().substring(1, 7)).toArray(String[]::new);
        assertEquals(Npu.CHIPS, Arrays.asList(found));
    }
}
