package org.dgemma.runtime.engine;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.Placement;

/**
 * One inference library over one bundle: graphs loaded once, feeds checked before native code sees them, native time counted.
 *
 * <p>One thread runs graphs; {@link #interrupt} may come from any.
 */
public interface Engine extends AutoCloseable {
    /** onnx or executorch. */
    String name();

    /** Of the library. */
    String version();

    /** What runs where. */
    default Placement placement() {
        return Placement.cpu(name(), null);
    }

    Bundle bundle();

    /** Seconds spent in native calls so far, without the loading of graphs. */
    double seconds();

    /** Load graphs that are not loaded yet; throws {@link EngineException} or BundleException. */
    void prepare(String... graphs);

    /**
     * Run a graph.
     *
     * @param feeds one tensor an input, by name; dtype and shape as in the manifest.
     * @param outputs tensors that the graph writes, by name, one for each output of the manifest, of its exact shape.
     * @throws EngineException feeds or outputs that do not fit the graph, or whatever the library complains about.
     * @throws InterruptedRun when {@link #interrupt} ended it.
     */
    void run(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs);

    /**
     * What to ask right before every native call: true ends it with {@link InterruptedRun} before it starts. An {@link
     * #interrupt} that comes after the asking ends the call itself, so a cancel that sets the answer first is never lost.
     */
    default void stopWhen(BooleanSupplier cancelled) {}

    /** End the native call that runs now, if the library can; the next one runs as usual. From any thread. */
    void interrupt();

    /** What could not be had so far and costs only time, such as packed weights that cannot be kept; one line each. */
    default List<String> warnings() {
        return Collections.emptyList();
    }

    /** Free the graphs; the engine must not run again. Idempotent. */
    @Override
    void close();

    /** A native call ended because of {@link #interrupt}. */
    final class InterruptedRun extends EngineException {
        private static final long serialVersionUID = 1L;

        public InterruptedRun(String message) {
            super(message);
        }
    }
}
