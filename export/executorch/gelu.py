"""Tanh GELUs as an operator of our own: XNNPACK would make exact ones of them (`ops.tanh_gelu`)."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from dgemma.export.executorch import ops  # noqa: F401  (registers the operator)


def name_gelus(program: ExportedProgram) -> ExportedProgram:
    """Rename them in place."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.gelu.default:
            assert node.kwargs.get("approximate") == "tanh", node
            node.target, node.kwargs = torch.ops.dgemma.tanh_gelu.default, {}
    program.graph_module.recompile()
    return program
