"""Vulkan's graphs read back from a `.pte` and computed with torch on the processor: what was lowered, without a GPU.

Operators are torch's own, on float16 tensors, so values are rounded after every operator; a GPU may round sums inside one
otherwise. An operator that is not in the list is an error. It knows nothing of denoisers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgemma.export.static import Array

# What a method may hold. `prepack` moves a constant to the GPU.
OPERATORS = frozenset({
    "aten._softmax.default", "aten.add.Tensor", "aten.bmm.default", "aten.cat.default", "aten.clamp.default", "aten.div.Tensor",
    "aten.gelu.default", "aten.linear.default", "aten.mean.dim", "aten.mm.default", "aten.mul.Tensor",
    "aten.permute_copy.default", "aten.split_with_sizes_copy.default", "aten.sqrt.default", "aten.squeeze_copy.dims",
    "aten.sub.Tensor", "aten.unsqueeze_copy.default", "aten.view_copy.default", "et_vk.linear_q4gsw.default",
    "et_vk.prepack.default",
})  # fmt: skip
_DTYPES = {"float16": torch.float16, "float32": torch.float32, "int8": torch.int8, "uint8": torch.uint8, "int32": torch.int32}
_PREPACK = "et_vk.prepack.default"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A method's graph.

    Args:
        operators: how often each is there.
        dtypes: of what is computed.
        inputs, outputs: shapes, in the backend's order.
    """

    operators: Mapping[str, int]
    dtypes: frozenset[str]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    _graph: Any
    _constant: Callable[[int], bytes]

    @torch.no_grad()
    def run(self, feeds: Sequence[Array]) -> list[Array]:
        """Inputs in the backend's order → outputs, float32."""
        values = self._graph.values
        known: dict[int, Any] = {}
        for i, array in zip(self._graph.input_ids, feeds, strict=True):
            dtype = _DTYPES[values[i].value.datatype.name.lower()]
            known[i] = torch.from_numpy(np.ascontiguousarray(array)).to(dtype).reshape(values[i].value.dims)
        for call in self._graph.chain:
            *taken, given = (int(i) for i in call.args)
            arguments = [self._value(i, known) for i in taken]
            found = arguments[0] if call.name == _PREPACK else _call(call.name, arguments)
            if isinstance(found, Tensor):
                known[given] = found
            else:
                known.update(zip(values[given].value.items, found, strict=True))
        return [known[i].float().numpy() for i in self._graph.output_ids]

    def _value(self, index: int, known: dict[int, Any]) -> Any:
        """An argument: a tensor, a number, a list of either, a string or None."""
        value = self._graph.values[index].value
        match type(value).__name__:
            case "VkTensor":
                if index not in known:
                    known[index] = self._stored(value)
                return known[index]
            case "ValueList":
                return [self._value(i, known) for i in value.items]
            case "IntList" | "DoubleList" | "BoolList":
                return list(value.items)
            case "Null":
                return None
        return next(iter(vars(value).values()))

    def _stored(self, value: Any) -> Tensor:
        raw = bytearray(self._constant(value.constant_id))
        dtype = _DTYPES[value.datatype.name.lower()]
        return torch.frombuffer(raw, dtype=dtype).reshape(value.dims)


def _call(name: str, arguments: list[Any]) -> Any:
    """One of torch's operators, or of Vulkan's, which have torch's form here."""
    if name.startswith("et_vk."):
        import_module("executorch.backends.vulkan.custom_ops_lib")
    space, kind, overload = name.split(".")
    operator = getattr(getattr(getattr(torch.ops, space), kind), overload)
    by_name = {
        given.name: value for given, value in zip(operator._schema.arguments, arguments, strict=True) if given.kwarg_only
    }
    taken = arguments[: len(arguments) - len(by_name)]
    if space != "et_vk":
        return operator(*taken, **by_name)
    found: Tensor = operator(*(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in taken), **by_name)
    return found.half()


def read(processed: bytes, shared: Callable[[str], bytes]) -> Graph:
    """What a call of the backend holds. `shared`: the file's data by name, where weights are."""
    schema: Any = import_module("executorch.backends.vulkan.serialization.vulkan_graph_schema")
    stored: Any = import_module("executorch.backends.vulkan.serialization.vulkan_graph_serialize")
    head = stored.VulkanDelegateHeader.from_bytes(processed[: stored.VulkanDelegateHeader.EXPECTED_LENGTH])
    graph = stored.flatbuffer_to_vk_graph(processed[head.flatbuffer_offset : head.flatbuffer_offset + head.flatbuffer_size])

    def constant(index: int) -> bytes:
        entry = graph.constants[index]
        if entry.named_key:
            return shared(entry.named_key)
        return processed[head.bytes_offset + entry.offset : head.bytes_offset + entry.offset + entry.length]

    computed = [v.value for v in graph.values if isinstance(v.value, schema.VkTensor) and v.value.constant_id < 0]

    def shapes(ids: Any) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(graph.values[i].value.dims) for i in ids)

    return Graph(
        operators=dict(sorted(Counter(call.name for call in graph.chain).items())),
        dtypes=frozenset(t.datatype.name.lower() for t in computed),
        inputs=shapes(graph.input_ids),
        outputs=shapes(graph.output_ids),
        _graph=graph,
        _constant=constant,
    )
