"""Executorch's passes to the edge dialect, in two walks over a graph instead of eight.

Each pass traces the whole graph again, whatever it changes. Passes that look at one operator at a time end in their base
class's `call_operator`, so a class with several of them as bases, in their order, applies all of them to each operator.
Seen with torch 2.13 and executorch 1.5.1; the programs are identical, byte for byte.
"""

from __future__ import annotations

from typing import Any

import torch
from executorch.exir import EdgeCompileConfig
from executorch.exir.pass_base import ExportPass
from executorch.exir.pass_manager import ExportedProgramPassManager
from executorch.exir.passes import MemoryFormatOpsPass, OpReplacePass, base_post_op_replace_passes
from executorch.exir.passes.fold_redundant_qdq_pass import FoldRedundantDequantizeQuantizePass
from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
from executorch.exir.passes.prune_empty_tensors_pass import PruneEmptyTensorsPass
from executorch.exir.passes.remove_mixed_type_operators import RemoveMixedTypeOperators
from executorch.exir.passes.remove_noop_pass import RemoveNoopPass, RemoveToCopyPass
from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import ReplaceBrokenOpsWithFunctionalOpsPass
from executorch.exir.passes.replace_sym_size_op_pass import ReplaceSymSizeOpPass
from executorch.exir.passes.scalar_to_tensor_pass import ScalarToTensorPass
from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
from torch._export.passes import replace_view_ops_with_view_copy_ops_pass as views
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult


class _ViewCopies(ExportPass):  # type: ignore[misc]
    """As torch's `ReplaceViewOpsWithViewCopyOpsPass`, which has another base class."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        copied = views._NON_FUNCTIONAL_OPS_TO_FUNCTIONAL_OPS.get(op)
        if copied is None and isinstance(op, torch._ops.OpOverload):
            copied = views.get_view_copy_of_view_op(op._schema)
        return super().call_operator(copied or op, args, kwargs, meta)


class _Functional(
    _ViewCopies,
    NormalizeTransposePass,  # type: ignore[misc]
    ReplaceBrokenOpsWithFunctionalOpsPass,  # type: ignore[misc]
    ScalarToTensorPass,  # type: ignore[misc]
    SymToTensorPass,  # type: ignore[misc]
):
    """The first walk."""


class ToEdge(RemoveMixedTypeOperators, OpReplacePass, MemoryFormatOpsPass):  # type: ignore[misc]
    """Stands in for `OpReplacePass` and its neighbours."""


class Nothing:
    """Stands in for a pass that another one does the work of."""

    def __call__(self, graph: GraphModule) -> PassResult:
        return PassResult(graph, False)


def passes_to_edge(config: EdgeCompileConfig) -> tuple[list[Any], list[Any]]:
    """Stands in for `_get_aten_to_edge_passes`: what comes before `ToEdge`, and after."""
    assert not config._skip_dim_order, "ToEdge writes orders of dimensions"
    before = [
        ReplaceSymSizeOpPass(),
        _Functional(),
        RemoveNoopPass(),
        PruneEmptyTensorsPass(),
        RemoveToCopyPass(),
        FoldRedundantDequantizeQuantizePass(),
    ]
    return ExportedProgramPassManager(passes=before).passes, base_post_op_replace_passes
