"""Makes executorch's passes over a lowered graph faster, and makes them keep the graph's order.

Seen with torch 2.13 and executorch 1.5.1: three things take most of the time. Every node that a pass makes copies the whole
history of its ancestors; every pass runs all delegates on fake tensors, only to learn the shapes of their outputs; and each
delegate goes through passes for convolutions, pooling and resizing. Most of the memory holds copies of weights, which are made
whenever a program is copied or traced around. The patches leave the programs as they are, with one exception: whenever a part
was taken out for XNNPACK, the rest was sorted breadth first. XNNPACK runs operations in the given order and plans its memory
accordingly, so it held the beginnings of many independent sums at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from executorch.backends.xnnpack import _passes as passes
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.exir.emit._emitter import _Emitter
from executorch.exir.schema import EValue
from executorch.exir.tensor import make_tensor_value
from torch import SymInt, Tensor
from torch.fx import traceback
from torch.fx.passes.tools_common import stable_topological_sort
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from dgemma.export.decompositions import kept_decompositions
from dgemma.export.deferred import maker
from dgemma.export.executorch.fused_passes import Nothing, ToEdge, passes_to_edge
from dgemma.export.executorch.zero_copy import ZeroCopyData
from dgemma.export.patching import replaced

_PASSES = [
    passes.XNNPACKRemoveCloneOpsTransform,
    passes.DimOrderOpsRevertPass,
    passes.ConvertToLinearPass,
    passes.ConstPropPass,
    passes.FuseActivationPass,
    passes.DecomposeConcatenate,
    passes.ChannelsLastTaggedReshapePass,
    passes.RemoveRedundantCopyPass,
]
_SMALL = 1024  # bytes


def _without_history(source: Any, node: Any, pass_name: str = "", action: Any = None) -> None:
    """Stands in for `NodeSource.__init__`."""
    source.pass_name, source.action, source.node_info, source.from_node = pass_name, [], None, []
    source._action_string = source._dict = None


def _outputs_by_shape(lowered: Any, *arguments: Any) -> list[Tensor]:
    """Stands in for running a delegate: empty outputs, their symbolic sizes expressed in the sizes of the arguments."""
    program = lowered.original_module
    inputs = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]
    known: dict[sympy.Expr, Any] = {}
    for node, argument in zip(nodes, arguments, strict=True):
        value = node.meta["val"]
        pairs = zip(value.shape, argument.shape, strict=True) if isinstance(value, Tensor) else [(value, argument)]
        known.update((size.node.expr, actual) for size, actual in pairs if isinstance(size, SymInt))

    def resolve(size: Any) -> Any:
        if not isinstance(size, SymInt):
            return size
        expression = size.node.expr
        return known[expression] if expression in known else sympy_interp(PythonReferenceAnalysis, known, expression)

    outputs = [n.meta["val"] for n in next(n for n in program.graph.nodes if n.op == "output").args[0]]
    return [torch.empty([resolve(size) for size in out.shape], dtype=out.dtype) for out in outputs]


def _pass_manager(program: Any, passes: Any = None) -> XNNPACKPassManager:
    """XNNPACK's passes that have anything to do in a transformer; each of the others retraces the graph for nothing."""
    return XNNPACKPassManager(program, passes or _PASSES)


def _kept(deepcopy: Any) -> Any:
    """Stands in for a tensor's `__deepcopy__`: programs are copied many times, and their constants never change. Other threads'
    copies stay copies."""
    thread = threading.get_ident()

    def kept(tensor: Tensor, memo: dict[int, Any]) -> Any:
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" and not tensor.requires_grad
        is_kept = plain and (tensor.nbytes > _SMALL or maker(tensor)) and threading.get_ident() == thread
        return tensor if is_kept else deepcopy(tensor, memo)

    return kept


def _uncopied(plain: Any) -> Any:
    """Stands in for an emitter's `_tensor_spec_to_evalue`, which copies and hashes a constant for every method that has it."""
    known = dict[int, ZeroCopyData]()

    def stored(emitter: Any, spec: Any, constant_tag: str | None = None) -> Any:
        if not spec.const or spec.mem_id is not None or spec.extra_tensor_info is not None:
            return plain(emitter, spec, constant_tag)
        tensor = torch.empty(0, dtype=torch.uint8).set_(spec.storage)
        if (tensor.nbytes <= _SMALL and maker(tensor) is None) or spec.nbytes() != tensor.nbytes:
            return plain(emitter, spec, constant_tag)
        data = known.setdefault(tensor.data_ptr(), ZeroCopyData(tensor))
        index = emitter.program_state.cached_spec_hash_values.get(data.key, -1)
        if index == -1:
            index = emitter._save_new_const_tensor(spec, data, data.key)
        return EValue(make_tensor_value(index, None, spec))

    return stored


@contextmanager
def patched_exir() -> Iterator[None]:
    """Nodes without histories, delegates known by their shapes and constants that are not copied, while it lasts.

    All but the copying of constants holds in the whole process, so no other thread may trace or lower meanwhile.
    """
    partitions: Any = import_module("executorch.exir.lowered_backend_module")
    tracer: Any = import_module("torch._dynamo.variables.builder")
    delegates: Any = import_module("torch._higher_order_ops.executorch_call_delegate")
    programs: Any = import_module("executorch.exir.program._program")
    with kept_decompositions(), ExitStack() as patches:
        for owner, name, value in (
            (traceback.NodeSource, "__init__", _without_history),
            (delegates, "call_delegate_cpu", _outputs_by_shape),
            (partitions, "legalize_graph", stable_topological_sort),
            (tracer, "_clone_input", lambda value, fake_mode: value),
            (xnnpack_preprocess, "XNNPACKPassManager", _pass_manager),
            (torch.nn.Parameter, "__deepcopy__", _kept(torch.nn.Parameter.__deepcopy__)),
            (Tensor, "__deepcopy__", _kept(Tensor.__deepcopy__)),
            (programs, "ReplaceViewOpsWithViewCopyOpsPass", Nothing),
            (programs, "_get_aten_to_edge_passes", passes_to_edge),
            (programs, "OpReplacePass", ToEdge),
            (programs, "MemoryFormatOpsPass", Nothing),
            (_Emitter, "_tensor_spec_to_evalue", _uncopied(_Emitter._tensor_spec_to_evalue)),
        ):
            patches.enter_context(replaced(owner, name, value))
        yield
