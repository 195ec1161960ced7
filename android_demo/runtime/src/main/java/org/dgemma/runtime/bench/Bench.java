package org.dgemma.runtime.bench;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Manifest;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.UsageException;
import org.jspecify.annotations.Nullable;

/**
 * One measurement of a bundle. Its result has the keys and units of {@code dgemma bench --json}; what one process of an
 * app cannot find out (ceilings, floors, loads in fresh processes, the peak of a step) is absent.
 *
 * <p>{@link #run} blocks for about the given seconds, and loading; call it off the main thread.
 */
public final class Bench {
    /** Told what is being done, on the thread of {@link Bench#run}. */
    @FunctionalInterface
    public interface Progress {
        /**
         * @param stage for people, such as "real prompts"
         * @param done share of the whole, 0 to 1, never less than before
         */
        void onStage(String stage, double done);
    }

    private static final int LOADS = 3;
    private static final long SEED = 0;
    private static final int MAX_NEW_TOKENS = 256;
    private static final int[] OUTPUTS = {128, 500, 2600};

    private final File folder;
    private final SessionOptions options;
    private final double seconds;
    private volatile boolean cancelled;
    private volatile @Nullable Session running;

    /** @param seconds for measuring, loading aside: half for canvases at growing prefixes, half for real prompts */
    public Bench(File folder, SessionOptions options, double seconds) {
        if (!(seconds > 0 && seconds <= 86_400)) {
            throw new UsageException("seconds " + seconds + " must be more than 0 and at most a day");
        }
        this.folder = folder;
        this.options = options;
        this.seconds = seconds;
    }

    /** End {@link #run} soon, with a CancellationException; from any thread. */
    public void cancel() {
        cancelled = true;
        Session session = running;
        if (session != null) {
            session.cancel();
        }
    }

    /**
     * Measure.
     *
     * @return JSON values, for {@link org.dgemma.format.Json#write}; the caller may add {@code device}
     * @throws CancellationException after {@link #cancel}
     * @throws org.dgemma.DgemmaException what loading or generating throws
     */
    public Map<String, Object> run(Progress progress) {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put("benchmark", "bench");
        Map<String, Object> machine = Machine.facts();
        result.put("machine", machine);
        Double load = (Double) machine.get("load_average");
        progress.onStage("loading", 0.0);
        double before = Reliability.calibrate();
        Map<String, Object> memory = new LinkedHashMap<>();
        memory.put("process", Machine.resident());
        List<Load> loads = new ArrayList<>();
        while (loads.size() < LOADS && (loads.isEmpty() || loads.get(0).seconds() < 5)) {
            loads.add(load());
        }
        try (Session session = open()) {
            if (session.placement().isEmulated()) {
                throw new UsageException("target qnn: here an emulator stands in for the NPU, and its speed says nothing about "
                        + "a chip's; run bench on the device, or leave the target out");
            }
            Manifest manifest = session.bundle().manifest();
            identify(result, session, machine);
            Map<String, Object> measured = measure(session, manifest, progress, loads, memory);
            double after = Reliability.calibrate();
            Map<String, Object> spreads = Reliability.spreads(measured);
            measured.put("noise", Reliability.toMap(before, after, load, Machine.cores(), spreads));
            result.putAll(measured);
        } finally {
            running = null;
        }
        result.put("ratios", Ratios.of(result));
        progress.onStage("done", 1.0);
        return result;
    }

    private Map<String, Object> measure(
            Session session, Manifest manifest, Progress progress, List<Load> loads, Map<String, Object> memory) {
        Plan plan = new Plan(OUTPUTS, manifest.canvasLength, manifest.context);
        int[] ids = filler(manifest.model.vocabSize, plan.prefixes[plan.prefixes.length - 1]);
        prepare(session, Arrays.copyOf(ids, plan.prefixes[0]));
        memory.put("loaded", Machine.resident());
        progress.onStage("canvases at growing prefixes", 0.1);
        Growth growth = new Growth(session, manifest.canvasLength, () -> cancelled);
        growth.measure(plan.prefixes, ids, seconds / 2);
        memory.put("running", Machine.resident());
        progress.onStage("real prompts", 0.5);
        Pairs pairs = new Pairs(session, MAX_NEW_TOKENS, SEED, () -> cancelled);
        Map<String, Object> groups = pairs.measure(Prompts.of(manifest), seconds / 2,
                done -> progress.onStage("real prompts", 0.5 + 0.5 * done));
        List<Object> points = growth.points();
        Map<String, Object> prefill = growth.prefill();
        Map<String, Object> steps = stepsPerCanvas(groups, manifest);
        Map<String, Object> measured = new LinkedHashMap<>();
        measured.put("load", Load.toMap(loads));
        measured.put("memory", memory);
        measured.put("prefill", prefill);
        double stepMs = Stats.median(points.get(0), "step_ms");
        double first = (Stats.median(prefill, "ms") + (Double) steps.get("value") * stepMs) / 1e3;
        Map<String, Object> canvas = new LinkedHashMap<>();
        canvas.put("loaded_s", first);
        canvas.put("cold_load_s", loads.get(0).seconds() + first);
        measured.put("first_canvas", canvas);
        measured.put("growth", points);
        measured.put("groups", groups);
        measured.put("steps_per_canvas", steps);
        measured.put("outputs", plan.outputs(points, Stats.median(prefill, "ms"), (Double) steps.get("value")));
        measured.put("left_out", plan.leftOut());
        return measured;
    }

    private Session open() {
        stopIfCancelled();
        Session session = Session.load(folder, options);
        running = session;
        return session;
    }

    private void stopIfCancelled() {
        if (cancelled) {
            throw new CancellationException("the benchmark was cancelled");
        }
    }

    /** Check the files, then load the graphs that a first answer needs, and free all of it. */
    private Load load() {
        long started = System.nanoTime();
        try (Session session = open()) {
            double checked = Stats.secondsSince(started);
            int[] prompt = filler(session.bundle().manifest().model.vocabSize, 1);
            Result result = session.generate(prompt, GenerateOptions.DEFAULT, event -> session.cancel());
            stopIfCancelled();
            return new Load(checked, result.timings.loadS);
        } finally {
            running = null;
        }
    }

    /** Graphs loaded and threads started, so that nothing measured pays for it. */
    private void prepare(Session session, int[] prompt) {
        session.generate(prompt, GenerateOptions.DEFAULT, event -> session.cancel());
        stopIfCancelled();
        session.decodeGreedy(prompt, GenerateOptions.DEFAULT.maxNewTokens(1));
        stopIfCancelled();
    }

    private void identify(Map<String, Object> result, Session session, Map<String, Object> machine) {
        Manifest manifest = session.bundle().manifest();
        int threads = options.threads == 0 ? Machine.cores() : options.threads;
        @SuppressWarnings("unchecked")
        Map<String, Object> versions = (Map<String, Object>) machine.get("versions");
        versions.put(session.engine().equals("onnx") ? "onnxruntime" : session.engine(), session.engineVersion());
        Map<String, Object> of = new LinkedHashMap<>();
        of.put("engine", session.engine());
        of.put("runs_on", session.placement().label);
        of.put("threads", (long) threads);
        of.put("recipe", manifest.quantization.get("recipe"));
        of.put("canvas_length", (long) manifest.canvasLength);
        of.put("parameters", manifest.quantization.get("parameters"));
        of.put("real_weights", !manifest.provenance.containsKey("random_weights"));
        result.put("of", of);
        Map<String, Object> bundle = new LinkedHashMap<>();
        bundle.put("digest", session.bundle().digest());
        bundle.put("steps", (long) manifest.steps);
        bundle.put("context", (long) manifest.context);
        result.put("bundle", bundle);
        result.put("recipe", manifest.quantization);
        Map<String, Object> asked = new LinkedHashMap<>();
        asked.put("engine", session.engine());
        asked.put("threads", (long) threads);
        asked.put("seconds", seconds);
        asked.put("repeats", null);
        asked.put("outputs", OUTPUTS.clone());
        asked.put("variant", null);
        result.put("options", asked);
    }

    /** Of the fullest real answers, else all T. */
    private static Map<String, Object> stepsPerCanvas(Map<String, Object> groups, Manifest manifest) {
        Map<String, Object> found = new LinkedHashMap<>();
        if (groups.isEmpty()) {
            found.put("value", (double) manifest.steps);
            found.put("of", "all steps; random weights, or no prompts: cost evidence only");
        } else {
            Map.Entry<String, Object> group = groups.entrySet().iterator().next();
            found.put("value", ((Map<?, ?>) ((Map<?, ?>) group.getValue()).get("diffusion")).get("steps_per_canvas"));
            found.put("of", group.getKey());
        }
        return found;
    }

    /** Ids that cost what a text costs: spread over the vocabulary, as in the Python protocol. */
    static int[] filler(int vocabSize, int count) {
        int[] ids = new int[count];
        for (int i = 0; i < count; i++) {
            ids[i] = (int) (7919L * (i + 1) % vocabSize);
        }
        return ids;
    }
}
