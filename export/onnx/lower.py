"""From torch modules to ONNX files: export, convert, share one external weight file, wrap the loop.

Initializers keep the names of their parameters; those of a page or more go to `weights.bin`, once for all graphs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
import torch
from onnx.external_data_helper import set_external_data

from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export.graphs import Decode, Denoise, Encode, Shapes, specs
from dgemma.export.onnx.linear import TRANSLATIONS, replace
from dgemma.export.onnx.loop import loop
from dgemma.export.trace import trace
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import QuantizedMatrix

OPSET = 21
WEIGHTS = "weights.bin"
ALIGNMENT = 4096  # bytes, so that engines can map every tensor
_INLINE_BELOW = 1024  # bytes
Progress = Callable[[str], None]


class WeightFile:
    """One file of tensors, each stored once however many graphs use it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.places = file, dict[tuple[int, tuple[int, ...], str], tuple[int, int]]()

    def add(self, tensor: onnx.TensorProto) -> None:
        """Move a tensor's data into the file and leave a reference."""
        data = tensor.raw_data
        key = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(data).hexdigest())
        if key not in self.places:
            offset = -(-self.file.tell() // ALIGNMENT) * ALIGNMENT
            self.file.write(b"\0" * (offset - self.file.tell()))
            self.file.write(data)
            self.places[key] = (offset, len(data))
        offset, length = self.places[key]
        set_external_data(tensor, location=WEIGHTS, offset=offset, length=length)
        tensor.ClearField("raw_data")


def convert(module: torch.nn.Module, inputs: list[TensorSpec], outputs: list[TensorSpec], shapes: Shapes) -> onnx.ModelProto:
    """One graph as an ONNX model with the contract's names and dimension names."""
    program = torch.onnx.export(
        trace(module, inputs, shapes), dynamo=True, optimize=True, opset_version=OPSET, verbose=False,
        custom_translation_table=TRANSLATIONS,
        input_names=[s.name for s in inputs], output_names=[s.name for s in outputs],
    )  # fmt: skip
    assert program is not None
    model = ir.to_proto(program.model)
    for values, wanted in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for value, spec in zip(values, wanted, strict=True):
            value.name = spec.name
            del value.type.tensor_type.shape.dim[:]
            for size in spec.shape:
                dim = value.type.tensor_type.shape.dim.add()
                if isinstance(size, str):
                    dim.dim_param = size
                else:
                    dim.dim_value = size
    del model.graph.value_info[:]  # symbolic sizes of the tracer; engines infer their own
    del model.metadata_props[:]
    for node in model.graph.node:  # stack traces and paths of the machine that exported
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def lower(
    model: Denoiser,
    quantized: dict[str, QuantizedMatrix],
    policy: SamplerConfig,
    shapes: Shapes,
    folder: Path,
    progress: Progress,
) -> dict[str, str]:
    """Write encode, denoise, generate and decode below `folder`; returns graph name → file name."""
    model = copy.deepcopy(model).requires_grad_(False)
    replace(model, quantized)
    wanted = specs(model.config, shapes, policy.steps)
    modules = {"encode": Encode(model), "denoise": Denoise(model, policy), "decode": Decode(model)}
    models = {}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WEIGHTS).open("wb") as file:
        weights = WeightFile(file)
        for name, module in modules.items():
            progress(f"onnx: {name}")
            models[name] = convert(module.eval(), *wanted[name], shapes)
            for tensor in models[name].graph.initializer:
                if len(tensor.raw_data) >= _INLINE_BELOW:
                    weights.add(tensor)
    progress("onnx: generate")
    models["generate"] = loop(models["denoise"], policy, *wanted["generate"])
    for name, proto in models.items():
        proto.producer_name, proto.producer_version = "dgemma", ""
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    return {name: f"{name}.onnx" for name in models}
