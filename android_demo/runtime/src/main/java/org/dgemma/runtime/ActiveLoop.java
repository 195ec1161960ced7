package org.dgemma.runtime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/**
 * One {@code denoise_active} call a step, of the positions that {@link ActiveSet} lets run; the keys and values of the others
 * stay as their last forward left them, in the slots behind the prefix.
 *
 * <p>Positions that did not run are told of with what their last step gave, and zeros where there was none. A active
 * positions; every buffer is made for N of them, and a step uses its beginning.
 */
final class ActiveLoop extends CanvasLoop {
    private final Manifest.SamplerConfig sampler;
    private final int[] stops;
    private final int hidden;
    private final Map<String, Tensor> whole = new HashMap<>();
    private final Map<String, Tensor> results = new HashMap<>();
    private final Tensor words = Buffers.zeros(DType.INT64, 2, length);
    private final Tensor temperature = Buffers.zeros(DType.FLOAT32, 1);
    private final Tensor committed = Buffers.zeros(DType.BOOL, 1, length);
    private final long[] drawn = new long[2 * length];
    /** [N, D] of every position. */
    private final float[] soft;
    private final Steering steering;

    ActiveLoop(Engine engine, Prefix prefix) {
        super(engine, prefix, ComputePolicy.ACTIVE, engine.bundle().manifest().canvasLength);
        Manifest manifest = engine.bundle().manifest();
        sampler = manifest.sampler;
        stops = manifest.model.eosTokenIds;
        hidden = manifest.model.hiddenSize;
        soft = new float[length * hidden];
        whole.put("canvas", Buffers.zeros(DType.INT64, 1, length));
        whole.put("positions", Buffers.zeros(DType.INT64, 1, length));
        whole.put("soft", Buffers.zeros(DType.FLOAT32, 1, length, hidden));
        feeds.put("temperature", temperature);
        feeds.put("settled", committed);
        results.put("next_canvas", Buffers.zeros(DType.INT64, 1, length));
        results.put("argmax", Buffers.zeros(DType.INT64, 1, length));
        results.put("entropy", Buffers.zeros(DType.FLOAT32, 1, length));
        results.put("accepted", Buffers.zeros(DType.BOOL, 1, length));
        results.put("next_soft", Buffers.zeros(DType.FLOAT32, 1, length, hidden));
        candidates(results);
        steering = new Steering(manifest, results);
    }

    @Override
    Candidates candidates() {
        return steering.candidates();
    }

    @Override
    boolean denoise(GenerateOptions options, int canvas, Known known, DenoisingStep.Sink sink) {
        boolean whole = known.given != null && known.given.isTemplate(); // it ends where its text says
        int[] ends = whole ? new int[0] : stops;
        ActiveSet state = new ActiveSet(length, options.compute, sampler, options.sampler, ends);
        steering.reset(options.sampler, known, options.logprobs != null);
        Arrays.fill(soft, 0);
        for (int i = 0; i < scheduled(); i++) {
            int[] rows = state.begin();
            Prefix.Chunk fresh = prefix.chunk(rows.length);
            Noise.words(Noise.streamKey(options.seed, canvas, i + 1), drawn);
            temperature.data.putFloat(0, temperature(i));
            feed(rows, state.committed, fresh);
            engine.run(graph, feeds, outputs);
            prefix.place(fresh, rows);
            begin(i);
            boolean done = take(rows, state);
            if (!sink.accept(step)) {
                return false;
            }
            if (done && options.adaptive) {
                break;
            }
        }
        return true;
    }

    /** Fills the inputs of the rows that run, and makes room for what comes out. */
    private void feed(int[] rows, boolean[] left, Prefix.Chunk fresh) {
        whole.forEach((name, tensor) -> feeds.put(name, tensor.firstRows(rows.length)));
        feeds.put("words", words.first(2, rows.length));
        results.forEach((name, tensor) -> outputs.put(name, tensor.firstRows(rows.length)));
        outputs.putAll(fresh.outputs);
        LongBuffer canvas = whole.get("canvas").data.asLongBuffer();
        LongBuffer positions = whole.get("positions").data.asLongBuffer();
        FloatBuffer softs = whole.get("soft").data.asFloatBuffer();
        LongBuffer word = words.data.asLongBuffer();
        for (int i = 0; i < rows.length; i++) {
            canvas.put(i, step.canvasOut[rows[i]]);
            positions.put(i, rows[i]);
            softs.put(soft, rows[i] * hidden, hidden);
            word.put(i, drawn[rows[i]]);
            word.put(rows.length + i, drawn[length + rows[i]]);
        }
        for (int i = 0; i < length; i++) {
            committed.data.put(i, (byte) (left[i] ? 1 : 0));
        }
    }

    /** Reads what came out for its rows, into the state and the step; whether the canvas is done. */
    private boolean take(int[] rows, ActiveSet state) {
        int[] argmax = new int[rows.length];
        int[] next = new int[rows.length];
        float[] entropy = new float[rows.length];
        boolean[] accepted = new boolean[rows.length];
        Buffers.read(results.get("argmax"), 0, argmax);
        Buffers.read(results.get("next_canvas"), 0, next);
        Buffers.read(results.get("entropy"), 0, entropy);
        Buffers.read(results.get("accepted"), 0, accepted);
        steering.decide(rows, step.temperature, step.bound, drawn, argmax, entropy, accepted, next);
        FloatBuffer softs = results.get("next_soft").data.asFloatBuffer();
        for (int i = 0; i < rows.length; i++) {
            step.canvasOut[rows[i]] = next[i];
            softs.get(soft, rows[i] * hidden, hidden);
        }
        boolean done = state.take(rows, argmax, entropy, accepted);
        for (int i = 0; i < length; i++) {
            step.canvasOut[i] = state.committed[i] ? state.argmax[i] : step.canvasOut[i];
        }
        System.arraycopy(state.argmax, 0, step.argmax, 0, length);
        System.arraycopy(state.entropy, 0, step.entropy, 0, length);
        System.arraycopy(state.accepted, 0, step.accepted, 0, length);
        step.rows = rows.length;
        step.width = state.width();
        return done;
    }
}
