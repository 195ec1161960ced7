package org.dgemma.runtime.engine;

import ai.onnxruntime.OrtException;
import java.io.File;
import java.util.Map;

/** What opens an NPU's graphs. */
interface NpuProvider {
    /**
     * @param model a wrapper around a context, or a source
     * @param entries of the session's configuration
     * @param options of the provider
     * @param threads 0 for the library's choice
     * @throws OrtException the library's own reason for refusing the graph
     */
    OpenSession open(File model, Map<String, String> entries, Map<String, String> options, int threads)
            throws OrtException;
}
