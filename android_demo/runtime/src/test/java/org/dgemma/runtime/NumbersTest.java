package org.dgemma.runtime;

import static org.dgemma.runtime.SessionTest.ANSWERED;
import static org.dgemma.runtime.SessionTest.PROMPT;
import static org.dgemma.runtime.SessionTest.SHORT;
import static org.dgemma.runtime.SessionTest.session;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Map;
import org.dgemma.runtime.engine.Tensor;
import org.junit.Test;

/** A model whose output is NaN ends in one error that names where, in every loop, and the session goes on as it was. */
public class NumbersTest {
    private static final String CURE = "; a weight is damaged or a value overflows: check the bundle with `dgemma verify`, or "
            + "export it again with another recipe";

    /** Its calls of one graph give NaN from one of them on. */
    private static final class Broken extends ToyEngine {
        private final String graph;
        private final String output;
        private final int index;
        private final int good;
        private int calls;
        boolean mended;

        Broken(String graph, String output, int index, int good) throws Exception {
            super(Bundle.open(ToyBundle.write()), SHORT);
            this.graph = graph;
            this.output = output;
            this.index = index;
            this.good = good;
        }

        @Override
        public void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            super.run(graph, feeds, outputs);
            if (graph.equals(this.graph) && !mended && calls++ >= good) {
                outputs.get(output).data.putFloat(4 * index, Float.NaN);
            }
        }
    }

    private static void says(String where, Broken engine, GenerateOptions options) {
        Session session = session(engine);
        EngineException error = assertThrows(EngineException.class, () -> session.generate(PROMPT, options, null));
        assertEquals("onnx 1.0: the model's output is not a number (NaN) in " + where + CURE, error.getMessage());
        engine.mended = true;
        assertArrayEquals(SHORT, session.generate(PROMPT, options, null).tokens);
        assertArrayEquals(ANSWERED, session.prefixIds());
    }

    @Test
    public void everyLoopNamesTheStep() throws Exception {
        GenerateOptions host = GenerateOptions.DEFAULT;
        says("step 1 of canvas 1", new Broken("denoise", "entropy", 0, 0), host);
        says("step 3 of canvas 1", new Broken("denoise", "entropy", ToyBundle.N - 1, 2), host);
        says("step 2 of canvas 1", new Broken("denoise_active", "entropy", 1, 1),
                host.compute(ComputePolicy.ALL.earlyCommit(0.01)));
        says("step 2 of canvas 1", new Broken("generate", "entropies", ToyBundle.N + 3, 0), host.loop(Loop.GRAPH));
    }

    @Test
    public void anEncodingNamesItsPositions() throws Exception {
        says("the encoding of positions 0 to 3",
                new Broken("encode", "new_value_" + (ToyBundle.LAYERS - 1), 0, 0), GenerateOptions.DEFAULT);
    }

    @Test
    public void aLookupThatFailsWithinTheStepIsThisErrorAndAnotherFailureIsNot() throws Exception {
        ToyEngine engine = ToyEngine.of(SHORT);
        int[] calls = {0};
        engine.before = graph -> {
            if (graph.startsWith("denoise") && ++calls[0] == 2 || graph.equals("generate")) {
                throw new EngineException("onnx 1.0 failed on graph: Gather: indices element out of data bounds, idx=512");
            }
        };
        for (Loop loop : Loop.values()) {
            String where = loop == Loop.HOST ? "step 2 of canvas 1" : "a step of canvas 1";
            EngineException error = assertThrows(EngineException.class,
                    () -> session(engine).generate(PROMPT, GenerateOptions.DEFAULT.loop(loop), null));
            assertEquals("onnx 1.0: the model's output is not a number (NaN) in " + where + CURE, error.getMessage());
        }
        engine.before = graph -> {
            throw new EngineException("out of memory");
        };
        assertEquals("out of memory", assertThrows(EngineException.class,
                () -> session(engine).generate(PROMPT, GenerateOptions.DEFAULT, null)).getMessage());
    }

    /** The greedy graph gives id 0 for NaN, as for a model that means it. */
    @Test
    public void greedyDecodingLooksAtItsFirstIdOfZero() throws Exception {
        int[] withZero = {200, 0, 0, 201};
        for (boolean broken : new boolean[] {false, true}) {
            ToyEngine engine = new ToyEngine(Bundle.open(ToyBundle.write()), withZero) {
                @Override
                void denoise(Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
                    super.denoise(feeds, outputs);
                    ByteBuffer entropy = outputs.get("entropy").data;
                    entropy.putFloat(0, broken ? Float.NaN : entropy.getFloat(0));
                }
            };
            Session session = session(engine);
            if (broken) {
                EngineException error = assertThrows(EngineException.class,
                        () -> session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT));
                assertEquals("onnx 1.0: the model's output is not a number (NaN) in token 2" + CURE, error.getMessage());
            } else {
                assertArrayEquals(withZero, session.decodeGreedy(PROMPT, GenerateOptions.DEFAULT).tokens);
                assertEquals(1, engine.calls.stream().filter("denoise"::equals).count());
                assertEquals(Arrays.asList("encode", "decode", "decode", "denoise", "decode"), engine.calls.subList(0, 5));
            }
        }
    }
}
