"""Pieces of a graph, traced one by one, put together by the names of their values. It knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dgemma.core.manifest import TensorSpec
from dgemma.export.onnx.linear import DOMAIN
from dgemma.export.onnx.weights import expansion
from dgemma.quantize.read_onnx import WEIGHT

DTYPES = {
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
}


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, DTYPES[spec.dtype], list(spec.shape))


class Wiring:
    """Nodes and initializers of a graph that is being put together from pieces."""

    def __init__(self, pieces: Mapping[str, onnx.ModelProto]) -> None:
        self.pieces = pieces
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.expansions: list[onnx.NodeProto] = []  # of 4-bit weights, for the outermost graph

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def piece(
        self, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str], instance: str | None = None
    ) -> list[onnx.NodeProto]:
        """Nodes of a piece, its inputs and outputs renamed as given and all else made unique; keeps its initializers.

        A piece that is used several times has a name for each `instance`; they share their initializers.
        """
        graph, instance = self.pieces[name].graph, instance or name
        constants = {tensor.name for tensor in graph.initializer}
        given = {**inputs, **outputs}
        packed = [node for node in graph.node if node.domain == DOMAIN]
        given |= {node.output[0]: f"{node.input[0]}/int8" for node in packed}

        def rename(value: str) -> str:
            if not value or value.startswith(WEIGHT):
                return given.get(value, value)
            return given.get(value, f"{name if value in constants else instance}/{value}")

        known = set(self.initializers)
        for tensor in graph.initializer:
            if rename(tensor.name) in known:
                continue
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = rename(tensor.name)
            self.initializers[kept.name] = kept
        for node in packed:
            if node.input[0] not in known:
                packed_tensor, multipliers = (self.initializers[value] for value in node.input)
                self.expansions += expansion(packed_tensor, multipliers, given[node.output[0]])
                known.add(node.input[0])
        nodes = []
        for original in graph.node:
            if original.domain == DOMAIN:
                continue
            assert not any(a.HasField("g") for a in original.attribute), f"{name} has a subgraph"
            node = onnx.NodeProto()
            node.CopyFrom(original)
            node.name = f"{instance}/{original.name}"
            node.input[:] = [rename(value) for value in original.input]
            node.output[:] = [rename(value) for value in original.output]
            nodes.append(node)
        return nodes
