package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import org.dgemma.runtime.EngineException;

/** A graph file that is open; its options must live as long as its session. */
class OpenSession {
    final OrtSession session;
    private final OrtSession.SessionOptions options;

    OpenSession(OrtSession session, OrtSession.SessionOptions options) {
        this.session = session;
        this.options = options;
    }

    final void close() {
        try {
            session.close();
        } catch (OrtException error) {
            throw new EngineException("onnxruntime failed to close a graph: " + AbstractEngine.line(error), error);
        } finally {
            options.close();
        }
    }
}
