"""From torch modules to ONNX files: trace the pieces, share one external weight file, wire up the graphs.

`shared.onnx` serves all graphs but the loop, `generate.onnx`. Initializers keep the names of their parameters; those of a
page or more are in `weights.bin`, once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx import helper
from onnxscript import optimizer

from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export.attention import replace_attention
from dgemma.export.decompositions import kept_decompositions
from dgemma.export.deferred import deferring, maker
from dgemma.export.garbage import only_new_garbage
from dgemma.export.graphs import Shapes, release, sharing, specs
from dgemma.export.lazy_code import lazy_code
from dgemma.export.onnx import native_ops, softmax, taps
from dgemma.export.onnx.body import denoising_step, shared
from dgemma.export.onnx.head import Head
from dgemma.export.onnx.linear import MICROSOFT, TRANSLATIONS, replace
from dgemma.export.onnx.loop import loop
from dgemma.export.onnx.pieces import BODY, pieces
from dgemma.export.onnx.registry_cache import cached_registry
from dgemma.export.onnx.rewrite_filter import filtered_rules
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.onnx.wiring import Wiring, value_info
from dgemma.export.stages import ONNX, Progress, Reached
from dgemma.export.trace import trace
from dgemma.model.denoiser import Denoiser
from dgemma.model.taps import collecting
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.read_onnx import WEIGHT

OPSET, IR_VERSION = 21, 10


def convert(module: torch.nn.Module, inputs: list[TensorSpec], outputs: list[TensorSpec], shapes: Shapes) -> ir.Model:
    """One piece as an ONNX model with the names of its specs, and without the tracer's traces of the exporting machine."""
    with collecting(taps.mark):
        traced = trace(module, inputs, shapes)
    program = torch.onnx.export(
        traced,
        dynamo=True,
        optimize=False,
        opset_version=OPSET,
        verbose=False,
        custom_translation_table=TRANSLATIONS | native_ops.TRANSLATIONS | softmax.TRANSLATIONS | taps.TRANSLATIONS,
        input_names=[s.name for s in inputs],
        output_names=[s.name for s in outputs],
    )
    assert program is not None
    model: ir.Model = program.model
    _defer(model)
    optimizer.optimize_ir(model, should_fold=lambda node: False if _uses_weights(node) else None)
    taps.name_values(model)
    for value, spec in zip((*model.graph.inputs, *model.graph.outputs), (*inputs, *outputs), strict=True):
        value.name = spec.name
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for out in node.outputs:  # symbolic sizes of the tracer; engines infer their own
            out.shape, out.type = None, None
    return model


def _defer(model: ir.Model) -> None:
    """Replace stand-ins by lazy tensors that make the constants."""
    for value in model.graph.initializers.values():
        stored = value.const_value
        make = maker(stored.raw) if isinstance(stored, ir.Tensor) and isinstance(stored.raw, torch.Tensor) else None
        if stored is not None and make is not None:
            value.const_value = ir.LazyTensor(partial(_made, make), stored.dtype, stored.shape, name=stored.name)


def _made(make: Callable[[], torch.Tensor]) -> ir.Tensor:
    return ir.Tensor(make().numpy())


def module_graph(
    module: torch.nn.Module, inputs: list[TensorSpec], outputs: list[TensorSpec], shapes: Shapes
) -> onnx.ModelProto:
    """A module of one tensor as a graph of its own, weights inside; dimension names as in `trace`."""
    wiring = Wiring({"module": ir.to_proto(convert(_Named(module).eval(), inputs, outputs, shapes))})
    nodes = wiring.piece("module", {s.name: s.name for s in inputs}, {s.name: s.name for s in outputs})
    graph = helper.make_graph(
        [*wiring.expansions, *nodes],
        "module",
        [value_info(s) for s in inputs],
        [value_info(s) for s in outputs],
        list(wiring.initializers.values()),
    )
    return _model(graph)


class _Named(torch.nn.Module):
    """Gives a module's weights the prefix that those of a denoiser's pieces have."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", OPSET), (MICROSOFT, 1))]
    made = helper.make_model(graph, opset_imports=[*opsets, *native_ops.imports(graph)], ir_version=IR_VERSION)
    made.producer_name, made.producer_version = "dgemma", ""
    return made


def _uses_weights(node: ir.Node) -> bool:
    """Weights are stored as they are, whatever an engine makes of them."""
    return any(value is not None and (value.name or "").startswith(WEIGHT) for value in node.inputs)


def lower(
    model: Denoiser,
    quantized: Mapping[str, QuantizedMatrix],
    policy: SamplerConfig,
    shapes: Shapes,
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """Write the graphs below `folder`; returns graph name → file name."""
    original, model = model, sharing(model)
    wanted = specs(model.config, shapes, policy)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / FILE).open("wb") as file,
        kept_decompositions(),
        cached_registry(),
        filtered_rules(),
        deferring(),
        lazy_code(),
        only_new_garbage(),
    ):
        replace(model, quantized)
        replace_attention(model)
        parts = _written(model, policy, shapes, WeightFile(file), progress)
    progress(Reached(ONNX["graphs"]))
    denoise = wanted["denoise"][0]
    wiring = Wiring(parts)
    files = {"shared.onnx": shared(wiring, Head.of(wiring, model, policy), wanted)}
    wiring = Wiring(parts)
    soft = next(s for s in denoise if s.name == "soft")
    step = denoising_step(wiring, Head.of(wiring, model, policy), denoise)
    files["generate.onnx"] = loop(step, wiring, soft, *wanted["generate"])
    for name, graph in files.items():
        (folder / name).write_bytes(_model(graph).SerializeToString(deterministic=True))
    release(model, original)
    return {name: "generate.onnx" if name == "generate" else "shared.onnx" for name in wanted}


def _written(
    model: Denoiser, policy: SamplerConfig, shapes: Shapes, weights: WeightFile, progress: Progress
) -> dict[str, onnx.ModelProto]:
    """The pieces of the graphs, their weights written."""
    parts, made, stage = dict[str, onnx.ModelProto](), dict[tuple[object, ...], onnx.ModelProto](), ""
    for name, (module, inputs, outputs) in pieces(model, policy).items():
        before, stage = stage, name if name in BODY else "head"
        if stage != before:
            progress(Reached(ONNX[stage]))
        same = (type(module), *inputs, *outputs)  # the last tile, for one, is often as long as the others
        if same not in made:
            part = convert(module.eval(), inputs, outputs, shapes)
            weights.externalize(part)
            made[same] = ir.to_proto(part)
        parts[name] = made[same]
    return parts
