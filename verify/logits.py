"""Logits of an ONNX artifact, which its graphs never put out: the denoise file is opened with one output more, in memory.

Needs the `onnx` package. The file on disk stays as it is, and its weights are read from where they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.core.manifest import GraphSpec, TensorSpec
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds
from dgemma.runtime.engines.onnx import OnnxEngine

NAME = "logits"  # of the value in exported graphs: softcapped, before temperature
GRAPH = "denoise"


class LogitsEngine(OnnxEngine):
    """An ONNX engine whose `denoise` also puts out logits; read them with `tempered_logits`."""

    def __init__(self, bundle: Bundle, *, version: str, threads: int | None = None) -> None:
        import onnx

        spec = bundle.graph("onnx", GRAPH)
        path = bundle.file(spec.file)
        try:
            self._model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's are of its own kinds
            lines = str(error).splitlines() or [type(error).__name__]
            raise EngineError(f"{path}: {lines[0]}") from None
        if all(NAME not in node.output for node in self._model.graph.node):
            raise EngineError(f"{path}: has no value {NAME!r}; export the bundle again")
        self._model.graph.output.append(onnx.helper.make_tensor_value_info(NAME, onnx.TensorProto.FLOAT, None))
        shape = (1, bundle.manifest.canvas_length, bundle.manifest.model.vocab_size)
        output = TensorSpec(name=NAME, dtype="float32", shape=shape)
        super().__init__(_with_output(bundle, spec, output), version=version, threads=threads)

    def tempered_logits(self, outputs: Feeds, temperature: np.float32) -> Array:
        """Logits over temperature, [N, V] float32, of what `run("denoise", …)` gave at that temperature."""
        logits: Array = outputs[NAME][0]
        return logits / temperature

    def open(self, file: str) -> Any:
        """As the engine does, but for the graph with the output more, whose weights stay where they are."""
        if file != self.bundle.graph("onnx", GRAPH).file:
            return super().open(file)
        import onnxruntime as ort

        options = self.options()
        folder = str(self.bundle.file(file).absolute().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return ort.InferenceSession(self._model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _with_output(bundle: Bundle, spec: GraphSpec, output: TensorSpec) -> Bundle:
    """The same bundle with one output more of its ONNX `denoise`."""
    manifest = bundle.manifest
    graphs = {**manifest.graphs["onnx"], GRAPH: replace(spec, outputs=(*spec.outputs, output))}
    return replace(bundle, manifest=replace(manifest, graphs={**manifest.graphs, "onnx": graphs}))
