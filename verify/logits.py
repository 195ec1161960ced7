"""What an ONNX artifact computes and never puts out: its file is opened with outputs more, in memory.

Logits, and on request the tensors that the model taps (see `backend.tap_order`). Needs the `onnx` package. The file on disk
stays as it is, and its weights are read from where they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.core.manifest import TensorSpec
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds
from dgemma.runtime.engines.onnx import OnnxEngine
from dgemma.runtime.engines.sessions import open_session
from dgemma.verify.backend import routers_of, tap_order

NAME = "logits"  # softcapped, before temperature; graphs of format 1 hold the value, others in tiles that go as they come
_UNIT = "head/unit_"  # tile I of tanh(logits / cap), [1, R, t]
GRAPH = "denoise"
# Tap → value in exported graphs, where it is not `stack/TAP`. Keys and values are outputs for the rows of any graph.
_VALUES = {"embedded": "embedded", "conditioned": "x", "hidden": "hidden"}


class LogitsEngine(OnnxEngine):
    """An ONNX engine whose `denoise` also puts out logits and routers' scores; with `taps`, encode and denoise their tapped
    tensors too."""

    def __init__(self, bundle: Bundle, *, version: str, threads: int | None = None, taps: bool = False) -> None:
        import onnx

        spec = bundle.graph("onnx", GRAPH)
        path = bundle.file(spec.file)
        try:
            self._model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's are of its own kinds
            lines = str(error).splitlines() or [type(error).__name__]
            raise EngineError(f"{path}: {lines[0]}") from None
        inside = {name for node in self._model.graph.node for name in node.output}
        if NAME not in inside:
            self._model.graph.node.extend(_logits(self._model.graph, bundle.manifest.model.final_logit_softcapping, path))
        every = _taps(bundle, inside)
        self._taps, self._routers = every if taps else {}, routers_of(every)
        self._found: dict[str, Feeds] = {}
        outputs = {o.name for o in self._model.graph.output}
        for value in sorted({NAME, *self._taps.values(), *self._routers.values()} - outputs):
            self._model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        config = bundle.manifest.model
        columns = {NAME: config.vocab_size, **dict.fromkeys(self._routers.values(), config.num_experts or 0)}
        more = [
            TensorSpec(name=name, dtype="float32", shape=(1, bundle.manifest.canvas_length, size))
            for name, size in columns.items()
        ]
        super().__init__(_with_outputs(bundle, {GRAPH: more}), version=version, threads=threads)

    def run(self, graph: str, feeds: Feeds) -> Feeds:
        """As the engine does; tapped tensors are kept for `taps`."""
        outputs = super().run(graph, feeds)
        if self._taps:
            session, wanted = self._runs[graph][0], list(dict.fromkeys(self._taps.values()))
            arrays = session.run(wanted, feeds)
            self._found[graph] = {value: array[0] for value, array in zip(wanted, arrays, strict=True)}
        return outputs

    def taps(self, graph: str) -> Feeds:
        """Tensors by tap, without a batch, of the last run of `encode` or `denoise`."""
        found = self._found.get(graph, {})
        return {tap: found[value] for tap, value in self._taps.items() if value in found}

    def logits(self, outputs: Feeds) -> Array:
        """Logits before temperature, [N, V] float32, of what `run("denoise", …)` gave."""
        logits: Array = outputs[NAME][0]
        return logits

    def routers(self, outputs: Feeds) -> dict[int, Array]:
        """Layer → scores of its router, [N, E] float32, of what `run("denoise", …)` gave."""
        return {layer: outputs[value][0] for layer, value in self._routers.items()}

    def open(self, file: str) -> Any:
        """As the engine does, but for the graph with outputs more, whose weights stay where they are."""
        if file != self.bundle.graph("onnx", GRAPH).file:
            return super().open(file)
        options = self.options()
        folder = str(self.bundle.file(file).absolute().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return open_session(self._model.SerializeToString(), options)


def _logits(graph: Any, cap: float, path: Path) -> list[Any]:
    """Nodes that join the tiles' logits, whose `unit` is over the cap; raises EngineError."""
    from onnx import helper, numpy_helper

    tiles = sorted((v for n in graph.node for v in n.output if v.startswith(_UNIT)), key=lambda v: int(v.removeprefix(_UNIT)))
    if not tiles:
        raise EngineError(f"{path}: has neither logits nor tiles of them; export the bundle again")
    factor = helper.make_node("Constant", [], ["verify/cap"], value=numpy_helper.from_array(np.array(cap, np.float32)))
    units = helper.make_node("Concat", tiles, ["verify/units"], axis=2)
    return [factor, units, helper.make_node("Mul", ["verify/units", "verify/cap"], [NAME])]


def _taps(bundle: Bundle, inside: set[str]) -> dict[str, str]:
    """Tap → value, for those that the graph has."""
    found = {}
    for tap in tap_order(bundle.manifest.model):
        layer, _, name = tap.removeprefix("layers.").partition(".")
        value = {"k": f"new_key_{layer}", "v": f"new_value_{layer}"}.get(name, _VALUES.get(tap, f"stack/{tap}"))
        if value in inside:
            found[tap] = value
    return found


def _with_outputs(bundle: Bundle, more: dict[str, list[TensorSpec]]) -> Bundle:
    """The same bundle with more outputs of its ONNX graphs, by graph."""
    manifest = bundle.manifest
    graphs = dict(manifest.graphs["onnx"])
    for name, specs in more.items():
        graphs[name] = replace(graphs[name], outputs=(*graphs[name].outputs, *specs))
    return replace(bundle, manifest=replace(manifest, graphs={**manifest.graphs, "onnx": graphs}))
