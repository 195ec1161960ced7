"""The operator of routed experts in ONNX graphs: one node for a layer, which the native library gives ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import helper
from onnx.defs import OpSchema
from onnxscript import values

from dgemma.export.experts import experts
from dgemma.quantize.read_onnx import EXPERTS, EXPERTS_DOMAIN

assert experts is not None  # registers the operator of torch
_ATTRIBUTES = ("hidden", "width", "gate_up_group", "down_group")
_INPUTS = {
    "x": "float", "ids": "int64", "weights": "float", "gate_up": "uint8", "gate_up_multipliers": "uint8",
    "gate_up_scale": "float", "down": "uint8", "down_multipliers": "uint8", "down_scale": "float",
}  # fmt: skip
_experts = values.Op(
    values.Opset(EXPERTS_DOMAIN, 1),
    EXPERTS,
    OpSchema(
        EXPERTS,
        EXPERTS_DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(name, f"tensor({dtype})") for name, dtype in _INPUTS.items()],
        outputs=[OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[OpSchema.Attribute(name, OpSchema.AttrType.INT, "") for name in _ATTRIBUTES],
    ),
)


def _translate(*inputs: Any) -> Any:
    tensors, numbers = inputs[: len(_INPUTS)], inputs[len(_INPUTS) :]
    return _experts(*tensors, **dict(zip(_ATTRIBUTES, numbers, strict=True)))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.dgemma.experts.default: _translate}


def imports(graph: onnx.GraphProto) -> list[onnx.OperatorSetIdProto]:
    """The operator's domain where a graph, or one inside it, has such nodes."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    used = any(node.domain == EXPERTS_DOMAIN for node in graph.node) or any(imports(g) for g in inner)
    return [helper.make_opsetid(EXPERTS_DOMAIN, 1)] if used else []
