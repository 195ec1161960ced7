package org.dgemma.runtime;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/**
 * A toy model: its keys hold token ids and its values hold positions, so that it reads the prefix out of the caches
 * that the session hands it, and a token in the wrong slot fails an assertion. Its answer to a prompt is a fixed list
 * of ids, counted from the last START of the prefix, then a stop token and pads. Position i of a canvas is sure from step
 * i % 3, so argmax canvases are stable from the third step on; where positions are left out, by how often it ran itself.
 */
class ToyEngine implements Engine {
    private static final int N = ToyBundle.N;
    private static final int STEPS = ToyBundle.STEPS;

    final Bundle bundle;
    final int[] answer;
    int stop = ToyBundle.END_OF_TURN;
    float entropyFloor;
    /** Graphs that ran, in order. */
    final List<String> calls = new ArrayList<>();
    /** Counts of the encode and check calls. */
    final List<Integer> encoded = new ArrayList<>();
    /** Positions of the calls of denoise_active. */
    final List<List<Integer>> active = new ArrayList<>();
    /** Call of denoise_active that ran a position last. */
    private final int[] lastRun = new int[N];
    /** Called before a graph runs; may throw or wait. */
    Consumer<String> before = graph -> {};
    volatile boolean closed;
    volatile int interrupts;
    /** What the session would have asked right before a native call. */
    BooleanSupplier cancelled = () -> false;
    private volatile boolean inside;

    ToyEngine(Bundle bundle, int... answer) {
        this.bundle = bundle;
        this.answer = answer;
    }

    static ToyEngine of(int... answer) throws Exception {
        return new ToyEngine(Bundle.open(ToyBundle.write()), answer);
    }

    @Override
    public String name() {
        return "onnx";
    }

    @Override
    public String version() {
        return "1.0";
    }

    @Override
    public Bundle bundle() {
        return bundle;
    }

    @Override
    public double seconds() {
        return 0;
    }

    @Override
    public void prepare(String... graphs) {
        for (String graph : graphs) {
            bundle.graph(name(), graph);
        }
    }

    @Override
    public void stopWhen(BooleanSupplier asked) {
        cancelled = asked;
    }

    @Override
    public void interrupt() {
        assertTrue("interrupt after close", !closed);
        interrupts++;
    }

    @Override
    public void close() {
        assertTrue("close during a run", !inside);
        closed = true;
    }

    @Override
    public void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        assertTrue("run after close", !closed);
        inside = true;
        try {
            before.accept(graph);
            calls.add(graph);
            checkShapes(bundle.graph(name(), graph).inputs, feeds);
            checkShapes(bundle.graph(name(), graph).outputs, outputs);
            switch (graph) {
                case "encode":
                    encoded.add((int) number(feeds.get("count")));
                    rows(feeds, outputs, (int) number(feeds.get("count")));
                    break;
                case "decode":
                    write(outputs.get("next_token"), following(rows(feeds, outputs, (int) number(feeds.get("count")))));
                    break;
                case "check":
                    check(feeds, outputs);
                    break;
                case "denoise_active":
                    denoiseActive(feeds, outputs);
                    break;
                case "denoise":
                    denoise(feeds, outputs);
                    break;
                default:
                    generate(feeds, outputs);
            }
        } finally {
            inside = false;
        }
    }

    private static void checkShapes(List<Manifest.TensorSpec> specs, Map<String, Tensor> tensors) {
        assertEquals(specs.size(), tensors.size());
        for (Manifest.TensorSpec spec : specs) {
            Tensor tensor = tensors.get(spec.name);
            assertEquals(spec.name, spec.dtype, tensor.dtype.word);
            assertEquals(spec.name, spec.shape.size(), tensor.rank());
            long elements = 1;
            for (int axis = 0; axis < tensor.rank(); axis++) {
                elements *= tensor.size(axis);
                if (spec.shape.get(axis) instanceof Number) {
                    assertEquals(spec.name, ((Number) spec.shape.get(axis)).longValue(), tensor.size(axis));
                }
            }
            assertEquals(spec.name, 0, tensor.data.position());
            assertEquals(spec.name, elements * tensor.dtype.bytes, tensor.data.remaining());
        }
    }

    static long number(Tensor tensor) {
        return tensor.data.getLong(0);
    }

    static long id(Tensor tensor, int index) {
        return tensor.data.getLong(8 * index);
    }

    static void write(Tensor tensor, long... values) {
        for (int i = 0; i < values.length; i++) {
            tensor.data.putLong(8 * i, values[i]);
        }
    }

    /** Ids of the prefix, read from every layer's keys; positions are checked against the values. */
    static List<Integer> prefix(Map<String, Tensor> feeds, int length) {
        List<Integer> ids = new ArrayList<>();
        for (int layer = ToyBundle.LAYERS - 1; layer >= 0; layer--) { // the last one is full
            int row = (int) (ToyBundle.heads(layer) * ToyBundle.dim(layer));
            int first = first(feeds, layer);
            assertTrue("a layer lacks what it sees", first <= Math.max(0, length - (ToyBundle.WINDOW - 1)));
            for (int i = first; i < length; i++) {
                for (int j = 0; j < row; j++) {
                    int at = 4 * ((i - first) * row + j);
                    float value = feeds.get("prefix_value_" + layer).data.getFloat(at);
                    assertEquals("a value is in the wrong slot", i, value, 0);
                    int id = (int) feeds.get("prefix_key_" + layer).data.getFloat(at);
                    if (layer == ToyBundle.LAYERS - 1 && j == 0) {
                        ids.add(id);
                    }
                    assertEquals("keys of a token", ids.get(i).intValue(), id);
                }
            }
        }
        return ids;
    }

    /** The first slot that a layer has: sliding ones have the last of them. */
    private static int first(Map<String, Tensor> feeds, int layer) {
        String whole = "prefix_key_" + (ToyBundle.LAYERS - 1);
        return (int) (feeds.get(whole).size(1) - feeds.get("prefix_key_" + layer).size(1));
    }

    private List<Integer> rows(Map<String, Tensor> feeds, Map<String, Tensor> outputs, int count) {
        int start = (int) number(feeds.get("start"));
        List<Integer> ids = prefix(feeds, start);
        for (int i = 0; i < count; i++) {
            ids.add((int) id(feeds.get("tokens"), i));
            for (int layer = 0; layer < ToyBundle.LAYERS; layer++) {
                int row = (int) (ToyBundle.heads(layer) * ToyBundle.dim(layer));
                for (int j = 0; j < row; j++) {
                    outputs.get("new_key_" + layer).data.putFloat(4 * (i * row + j), ids.get(start + i));
                    outputs.get("new_value_" + layer).data.putFloat(4 * (i * row + j), start + i);
                }
            }
        }
        return ids;
    }

    /** What follows every row that is asked for. */
    private void check(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        int count = (int) feeds.get("tokens").size(1);
        encoded.add(count);
        List<Integer> ids = rows(feeds, outputs, count);
        for (int i = 0; i < feeds.get("rows").size(0); i++) {
            int end = ids.size() - count + (int) id(feeds.get("rows"), i) + 1;
            outputs.get("next_tokens").data.putLong(8 * i, following(ids.subList(0, end)));
        }
    }

    /** What comes behind these ids. */
    int following(List<Integer> ids) {
        int since = ids.size() - 1 - ids.lastIndexOf(ToyBundle.START);
        return since < answer.length ? answer[since] : since == answer.length ? stop : ToyBundle.PAD;
    }

    void denoise(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        List<Integer> ids = prefix(feeds, (int) number(feeds.get("prefix_length")));
        int step = (int) feeds.get("soft").data.getFloat(0); // the first step of a canvas must see zeros
        for (int i = 0; i < N; i++) {
            int target = following(ids);
            ids.add(target);
            step(i, target, step, feeds.get("words"), 0, feeds.get("temperature").data.getFloat(0),
                    outputs.get("argmax"), outputs.get("next_canvas"), outputs.get("entropy"),
                    outputs.get("accepted"), 0);
        }
        Tensor soft = outputs.get("next_soft");
        for (int i = 0; i < soft.data.remaining(); i += 4) {
            soft.data.putFloat(i, step + 1);
        }
    }

    /** Keys of a canvas position hold its number, values the call; those that are committed must still be there. */
    void denoiseActive(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        int length = (int) number(feeds.get("prefix_length"));
        List<Integer> ids = prefix(feeds, length);
        int[] target = new int[N];
        for (int i = 0; i < N; i++) {
            target[i] = following(ids);
            ids.add(target[i]);
            for (int layer = 0; layer < ToyBundle.LAYERS && feeds.get("settled").data.get(i) != 0; layer++) {
                int at = 4 * (int) (ToyBundle.heads(layer) * ToyBundle.dim(layer))
                        * (length + i - first(feeds, layer));
                assertEquals("keys of a position", -1 - i, feeds.get("prefix_key_" + layer).data.getFloat(at), 0);
                assertEquals("its last ones", lastRun[i], feeds.get("prefix_value_" + layer).data.getFloat(at), 0);
            }
        }
        int rows = (int) feeds.get("positions").size(1);
        List<Integer> ran = new ArrayList<>();
        active.add(ran);
        for (int i = 0; i < rows; i++) {
            int position = (int) id(feeds.get("positions"), i);
            assertTrue("a position that runs is not committed", feeds.get("settled").data.get(position) == 0);
            ran.add(position);
            lastRun[position] = active.size();
            float often = feeds.get("soft").data.getFloat(4 * i * ToyBundle.HIDDEN);
            boolean sure = position % 3 <= often;
            put(outputs.get("argmax"), i, sure ? target[position] : noise(feeds, i));
            put(outputs.get("next_canvas"), i, sure ? target[position] : noise(feeds, rows + i));
            outputs.get("entropy").data.putFloat(4 * i, sure ? entropyFloor : feeds.get("temperature").data.getFloat(0));
            outputs.get("accepted").data.put(i, (byte) (sure ? 1 : 0));
            for (int j = 0; j < ToyBundle.HIDDEN; j++) {
                outputs.get("next_soft").data.putFloat(4 * (i * ToyBundle.HIDDEN + j), often + 1);
            }
            for (int layer = 0; layer < ToyBundle.LAYERS; layer++) {
                int row = (int) (ToyBundle.heads(layer) * ToyBundle.dim(layer));
                for (int j = 0; j < row; j++) {
                    outputs.get("new_key_" + layer).data.putFloat(4 * (i * row + j), -1 - position);
                    outputs.get("new_value_" + layer).data.putFloat(4 * (i * row + j), active.size());
                }
            }
        }
    }

    private static int noise(Map<String, Tensor> feeds, int index) {
        return (int) Noise.token(id(feeds.get("words"), index), ToyBundle.VOCAB);
    }

    static void put(Tensor tensor, int index, int value) {
        tensor.data.putLong(8 * index, value);
    }

    private void step(
            int i, int target, int step, Tensor words, int words0, float temperature, Tensor argmax, Tensor canvas,
            Tensor entropy, Tensor accepted, int row) {
        boolean sure = i % 3 <= step;
        int at = row * N + i;
        argmax.data.putLong(8 * at, sure ? target : Noise.token(id(words, words0 + i), ToyBundle.VOCAB));
        canvas.data.putLong(8 * at, sure ? target : Noise.token(id(words, words0 + N + i), ToyBundle.VOCAB));
        entropy.data.putFloat(4 * at, sure ? entropyFloor : temperature);
        accepted.data.put(at, (byte) (sure ? 1 : 0));
    }

    /** A naive loop, written apart from the session's. */
    private void generate(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
        List<Integer> ids = prefix(feeds, (int) number(feeds.get("prefix_length")));
        int[] target = new int[N];
        for (int i = 0; i < N; i++) {
            target[i] = following(ids);
            ids.add(target[i]);
        }
        Tensor argmaxes = outputs.get("argmaxes");
        Tensor entropies = outputs.get("entropies");
        int still = 0;
        int run = 0;
        for (boolean done = false; run < STEPS && !done; run++) {
            double mean = 0;
            boolean same = run > 0;
            for (int i = 0; i < N; i++) {
                float temperature = (float) bundle.manifest().sampler.temperature(STEPS - run);
                step(i, target[i], run, feeds.get("words"), run * 2 * N, temperature, argmaxes, outputs.get("canvases"),
                        entropies, outputs.get("accepts"), run);
                mean += entropies.data.getFloat(4 * (run * N + i)) / (double) N;
                same &= run > 0 && id(argmaxes, run * N + i) == id(argmaxes, (run - 1) * N + i);
            }
            still = same ? still + 1 : 0;
            done = feeds.get("adaptive").data.get(0) != 0 && still >= bundle.manifest().sampler.stabilityThreshold
                    && mean < bundle.manifest().sampler.confidenceThreshold;
        }
        for (int i = 0; i < N; i++) {
            outputs.get("committed").data.putLong(8 * i, id(argmaxes, (run - 1) * N + i));
        }
        write(outputs.get("steps"), run);
    }
}
