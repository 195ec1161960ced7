"""Names for the values inside a graph that a model taps (see `model/taps.py`), so that a verifier can ask for them.

While a piece is traced, an operator marks each tapped tensor; in the graph the value gets the tap's name, and the marks go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnx.defs import OpSchema
from onnxscript import values
from torch import Tensor

_DOMAIN, _MARK = "dgemma.taps", "Tap"
_PREFIX = "layers."  # taps of other names are outputs of pieces, which have names of their own
_mark = values.Op(
    values.Opset(_DOMAIN, 1),
    _MARK,
    OpSchema(
        _MARK,
        _DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter("x", "tensor(float)")],
        outputs=[OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[OpSchema.Attribute("name", OpSchema.AttrType.STRING, "")],
    ),
)


@torch.library.custom_op("dgemma::tap", mutates_args=())
def _tap(x: Tensor, name: str) -> Tensor:
    return x.clone()


@_tap.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


def _translate(x: Any, name: str) -> Any:
    return _mark(x, name=name)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.dgemma.tap.default: _translate}


def mark(name: str, x: Tensor) -> Tensor:
    """Sink for `taps.collecting` while a module is traced."""
    return torch.ops.dgemma.tap(x, name) if name.startswith(_PREFIX) else x


def name_values(model: ir.Model) -> None:
    """Give marked values their names and remove the marks, in place."""
    for node in list(model.graph):
        if node.domain == _DOMAIN:
            value, marked = node.inputs[0], node.outputs[0]
            assert value is not None
            value.name = node.attributes["name"].as_string()
            for i, output in enumerate(model.graph.outputs):
                if output is marked:
                    model.graph.outputs[i] = value
            marked.replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
    model.opset_imports.pop(_DOMAIN, None)
