"""The native operators in ONNX graphs, which the native library gives ONNX Runtime: a node each for a layer's attention and its
routed experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from onnx.defs import OpSchema
from onnxscript import values

from dgemma.export.attention import attention
from dgemma.export.experts import experts
from dgemma.quantize.read_onnx import EXPERTS, EXPERTS_DOMAIN

assert experts is not None and attention is not None  # they register the operators of torch
Translation = Callable[..., Any]


def _translation(name: str, inputs: Mapping[str, str], attributes: Sequence[str] = ()) -> Translation:
    """Of torch's operator, whose arguments are these tensors, by their types, and then these integers."""
    schema = OpSchema(
        name,
        EXPERTS_DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(one, f"tensor({dtype})") for one, dtype in inputs.items()],
        outputs=[OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[OpSchema.Attribute(one, OpSchema.AttrType.INT, "") for one in attributes],
    )
    op = values.Op(values.Opset(EXPERTS_DOMAIN, 1), name, schema)

    def translate(*given: Any) -> Any:
        return op(*given[: len(inputs)], **dict(zip(attributes, given[len(inputs) :], strict=True)))

    return translate


TRANSLATIONS: dict[Callable[..., Any], Translation] = {
    torch.ops.dgemma.experts.default: _translation(
        EXPERTS,
        {
            "x": "float", "ids": "int64", "weights": "float", "gate_up": "uint8", "gate_up_multipliers": "uint8",
            "gate_up_scale": "float", "down": "uint8", "down_multipliers": "uint8", "down_scale": "float",
        },
        ("hidden", "width", "gate_up_group", "down_group"),
    ),
    torch.ops.dgemma.attention.default: _translation(
        "Attention", dict.fromkeys(("q", "old_keys", "old_values", "keys", "values", "bias"), "float")
    ),
}  # fmt: skip


def imports(graph: onnx.GraphProto) -> list[onnx.OperatorSetIdProto]:
    """The operators' domain where a graph, or one inside it, has such nodes."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    used = any(node.domain == EXPERTS_DOMAIN for node in graph.node) or any(imports(g) for g in inner)
    return [helper.make_opsetid(EXPERTS_DOMAIN, 1)] if used else []
