"""Writing XNNPACK graphs by hand: a visitor base that appends values and nodes, and the partitioner for our operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor, get_shape, get_tensor_value
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import ViewCopyConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType, XNNPartitionerConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT
from executorch.backends.xnnpack.utils.utils import get_param_tensor, is_param_node
from executorch.backends.xnnpack.utils.xnnpack_constants import UINT64_MAX, XNN_INVALID_VALUE_ID
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from dgemma.export.executorch.zero_copy import ZeroCopyData

INFERRED = 0  # in shapes given to XNNPACK
NONE = XNN_INVALID_VALUE_ID
FP32 = xnn.XNNDatatype.xnn_datatype_fp32


class Visitor(NodeVisitor):  # type: ignore[misc]
    """Appends to the XNNPACK graph of one delegate; values are known by their ids, open sizes by their largest."""

    graph: xnn.XNNGraph

    def define_node(self, node: Node, xnn_graph: xnn.XNNGraph, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
        self.graph = xnn_graph
        self.write(node, vals_to_ids)

    def write(self, node: Node, ids: dict[Any, int]) -> None:
        raise NotImplementedError

    def tensor(self, node: Node, ids: dict[Any, int]) -> int:
        """A float value that torch knows, an input or output of the delegate perhaps."""
        self.define_tensor(node, self.graph, ids)
        return ids[node]

    def dims(self, x: int) -> list[int]:
        return list(get_tensor_value(self.graph.xvalues[x]).dims)

    def value(
        self,
        dims: Sequence[int],
        datatype: xnn.XNNDatatype = FP32,
        quant: xnn.XNNQuantParams | None = None,
        buffer: int = 0,
        external: int = NONE,
        flags: int = 0,
    ) -> int:
        """A new value inside the delegate, constant where there is a buffer."""
        made = xnn.XNNTensorValue(
            datatype=datatype,
            num_dims=len(dims),
            dims=list(dims),
            external_id=external,
            constant_buffer_idx=buffer,
            flags=flags,
            id_out=len(self.graph.xvalues),
        )
        union = made if quant is None else xnn.XNNQuantizedTensorValue(tensor_value=made, quant_params=quant)
        self.graph.xvalues.append(xnn.XValue(xvalue_union=union))
        return made.id_out

    def external(self, node: Node, datatype: xnn.XNNDatatype, quant: xnn.XNNQuantParams) -> int:
        """A new value that is an input of the delegate, and not float."""
        known = self.external_ids[node]
        made = self.value(get_shape(node), datatype, quant, external=known.external_id, flags=known.io_type)
        self.graph.input_ids.append(made)
        return made

    def parameter(self, node: Node) -> Tensor:
        found = get_param_tensor(self.exported_program, node)
        assert isinstance(found, Tensor), f"{node} is no constant"
        return found

    def name(self, node: Node) -> str:
        """A constant as the model names it, whatever module the model is in."""
        signature = self.exported_program.graph_signature
        return str({**signature.inputs_to_buffers, **signature.inputs_to_parameters}[node.name]).rpartition("model.")[2]

    def buffer(self, tensor: Tensor, key: str | None = None) -> int:
        """Store a constant's bytes under a key or their hash; returns the buffer's index in the graph."""
        data = ZeroCopyData(tensor)
        key = key or data.sha256().hex()
        self.graph.constant_data.append(xnn.ConstantDataOffset(offset=UINT64_MAX, size=len(data), named_key=key))
        self._named_data_store.add_named_data(key, data, alignment=CONSTANT_TENSOR_ALIGNMENT)
        return len(self.graph.constant_data) - 1

    def constant(self, tensor: Tensor) -> int:
        return self.value(tensor.shape, FP32, None, self.buffer(tensor))

    def emit(self, kind: Any, out: int | Sequence[int], **fields: Any) -> int:
        """Append a node; `out` is the id of its output, or the sizes of a new float value."""
        made = out if isinstance(out, int) else self.value(out)
        self.graph.xnodes.append(xnn.XNode(xnode_union=kind(output_id=made, flags=0, **fields), debug_handle=0))
        return made

    def binary(self, kind: Any, a: int, b: int, out: int | Sequence[int]) -> int:
        return self.emit(kind, out, input1_id=a, input2_id=b)

    def reshape(self, x: int, shape: Sequence[int], out: int | Sequence[int]) -> int:
        """One dimension of `shape` may be INFERRED."""
        return self.emit(xnn.XNNStaticReshape, out, num_dims=len(shape), new_shape=list(shape), input_id=x)

    def transpose(self, x: int, order: Sequence[int]) -> int:
        return self.emit(
            xnn.XNNStaticTranspose, [self.dims(x)[i] for i in order], num_dims=len(order), perm=list(order), input_id=x
        )

    def linear(self, x: int, weight: int, out: int | Sequence[int]) -> int:
        return self.emit(xnn.XNNFullyConnected, out, input1_id=x, filter_id=weight, bias_id=NONE)

    def pooled(self, x: int) -> int:
        """Maxima over G of (1, R, G, C), as (1, R, 1, C): pooling of a picture, which XNNPACK has as NHWC."""
        _, rows, window, channels = self.dims(x)
        none = dict.fromkeys(("padding_top", "padding_right", "padding_bottom", "padding_left"), 0)
        return self.emit(
            xnn.XNNMaxPooling2d,
            (1, rows, 1, channels),
            input_id=x,
            pooling_height=1,
            pooling_width=window,
            stride_height=1,
            stride_width=window,
            dilation_height=1,
            dilation_width=1,
            **none,
        )

    def concatenate(self, values: Sequence[int], axis: int, out: int | Sequence[int]) -> int:
        kind = {2: xnn.XNNConcatenate2, 3: xnn.XNNConcatenate3}[len(values)]
        ids = {f"input{i + 1}_id": values[i] if i < len(values) else NONE for i in range(5)}
        return self.emit(kind, out, axis=axis, **ids)


class _Config(XNNPartitionerConfig):  # type: ignore[misc]
    """Takes every node of an operator, with its constants."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        return True

    def get_node_and_deps(self, node: Node, ep: ExportedProgram) -> list[Node]:
        return [node, *(n for n in node.all_input_nodes if is_param_node(ep, n))]

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32]


def partitioner(operators: Sequence[str]) -> XnnpackPartitioner:
    """XNNPACK's own but views, which cost nothing elsewhere and are copies there, and the operators of these names."""
    theirs = [config for config in ALL_PARTITIONER_CONFIGS if config is not ViewCopyConfig]
    ours = [type(f"_{name}", (_Config,), {"target_name": f"{name}.default"}) for name in operators]
    return XnnpackPartitioner([*theirs, *ours])
