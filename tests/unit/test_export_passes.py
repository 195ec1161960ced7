"""What torch's and executorch's passes are spared changes no program."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import exported_program

from dgemma.export.decompositions import kept_decompositions


class Mixed(nn.Module):
    """Something for each pass: views, a transposed matrix, scalars, sizes as numbers, types that differ, a copy for nothing."""

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        rows = x.view(-1, 4).t().contiguous()
        return rows + ids.sum() * 2, (x * x.shape[0]).to(torch.float32) - 1, torch.stack([x, x]).squeeze(0).transpose(0, 1)


def traced() -> exported_program.ExportedProgram:
    given = torch.ones(6, 4), torch.arange(3)
    return torch.export.export(Mixed(), given, dynamic_shapes=({0: torch.export.Dim("R", min=2, max=64)}, {}), strict=False)


def listed(program: Any) -> list[tuple[str, str, str]]:
    """Name, operator and arguments of every node."""
    return [(node.name, str(node.target), f"{node.args} {node.kwargs}") for node in program.graph.nodes]


def test_decompositions_are_the_same_and_operators_looked_up_again_after_one_was_registered() -> None:
    plain, original = listed(traced().run_decompositions()), exported_program._collect_all_valid_cia_ops
    with kept_decompositions():
        assert listed(traced().run_decompositions()) == plain
        kept = exported_program._collect_all_valid_cia_ops
        assert kept() is kept() and kept() == original()
        library = torch.library.Library("dgemma_test_passes", "DEF")
        library.define("same(Tensor x) -> Tensor")
        library.impl("same", lambda x: x.clone(), "CompositeImplicitAutograd")
        assert torch.ops.dgemma_test_passes.same.default in kept()
    assert exported_program._collect_all_valid_cia_ops is original


def test_two_walks_make_the_edge_program_of_executorchs_own_passes() -> None:
    exir = pytest.importorskip("executorch.exir")
    from dgemma.export.executorch.exir_patches import patched_exir

    config = exir.EdgeCompileConfig(_check_ir_validity=False)
    plain = listed(exir.to_edge(traced(), compile_config=config).exported_program())
    with patched_exir():
        assert listed(exir.to_edge(traced(), compile_config=config).exported_program()) == plain
    operators = " ".join(target for _, target, _ in plain)
    assert all(name in operators for name in ("view_copy", "permute_copy", "scalar_tensor", "_to_dim_order_copy")), operators
