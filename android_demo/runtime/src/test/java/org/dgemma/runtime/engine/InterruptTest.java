package org.dgemma.runtime.engine;

import static org.dgemma.runtime.engine.Fixtures.dims;
import static org.dgemma.runtime.engine.Fixtures.zeros;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.util.Map;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.Manifest.GraphSpec;
import org.junit.Test;

/** A cancel at each moment around a native call, without threads: it is never lost, and ends no other call. */
public class InterruptTest {
    private boolean cancelled;

    /** Cancels while a graph loads, before its call; or within its call, which ends where the library was asked to. */
    private final class Fake extends AbstractEngine {
        Runnable loading = () -> {};
        Runnable calling = () -> {};
        int calls;
        boolean asked;

        Fake() {
            super("onnx", "1.0", Bundle.open(Fixtures.bundle("tiny")));
            stopWhen(() -> cancelled);
        }

        @Override
        void load(String graph, GraphSpec spec) {
            loading.run();
        }

        @Override
        void call(String graph, Map<String, Tensor> feeds, Map<String, Tensor> outputs) {
            calls++;
            calling.run();
            if (asked) {
                throw new IllegalStateException("terminated");
            }
        }

        @Override
        void terminate() {
            asked = true;
        }

        @Override
        void rearm() {
            asked = false;
        }

        @Override
        void free() {}

        void encode() {
            GraphSpec spec = bundle().graph("onnx", "encode");
            run("encode", zeros(spec.inputs, dims(64, 4)), zeros(spec.outputs, dims(64, 4)));
        }
    }

    private final Fake engine = new Fake();

    private void cancel() {
        cancelled = true;
        engine.interrupt();
    }

    private void goesOn(int calls) {
        cancelled = false;
        engine.encode();
        assertEquals(calls, engine.calls);
    }

    @Test
    public void aCancelRightBeforeTheCallEndsItBeforeItStarts() {
        engine.loading = this::cancel;
        assertThrows(Engine.InterruptedRun.class, engine::encode);
        assertEquals(0, engine.calls);
        goesOn(1);
    }

    @Test
    public void aCancelWithinTheCallEndsIt() {
        engine.calling = this::cancel;
        assertThrows(Engine.InterruptedRun.class, engine::encode);
        engine.calling = () -> {};
        goesOn(2);
    }

    @Test
    public void aCancelAfterTheCallEndsNoOther() {
        engine.encode();
        engine.interrupt();
        goesOn(2);
    }
}
