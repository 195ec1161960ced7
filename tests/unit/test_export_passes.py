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


def listed(program: Any) -> list[tuple[str, str]]:
    """Operator and arguments of every node but assertions, nodes by their place."""
    nodes = [node for node in program.graph.nodes if "_assert" not in str(node.target)]
    places = {node: f"%{place}" for place, node in enumerate(nodes)}
    with_places = [torch.fx.map_arg((node.args, node.kwargs), places.__getitem__) for node in nodes]
    return [(str(node.target), str(taken)) for node, taken in zip(nodes, with_places, strict=True) if node.op != "placeholder"]


def test_operators_are_looked_up_again_after_one_was_registered() -> None:
    original = exported_program._collect_all_valid_cia_ops
    with kept_decompositions():
        kept = exported_program._collect_all_valid_cia_ops
        kept()  # the first look imports more operators
        assert kept() is kept() and kept() == original()
        library = torch.library.Library("dgemma_test_passes", "DEF")
        library.define("same(Tensor x) -> Tensor")
        library.impl("same", lambda x: x.clone(), "CompositeImplicitAutograd")
        assert torch.ops.dgemma_test_passes.same.default in kept()
    assert exported_program._collect_all_valid_cia_ops is original


class Branching(nn.Module):
    """A branch, and numbers that become a tensor within the program."""

    def forward(self, x: Tensor) -> Tensor:
        def doubled(x: Tensor) -> Tensor:
            return (x * torch.tensor([2.0])).flatten(0, 1)

        return torch.cond(x.sum() > 0, doubled, lambda x: x.reshape(-1) + 1, (x,))


class Merging(nn.Module):
    """An operator that takes two tensors, of which decomposing another makes one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.rsub(x.to(torch.float32), x).flatten()


class Writing(nn.Module):
    """An operator that writes into what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).add_(1).flatten()


def test_decompositions_in_place_are_those_of_another_trace() -> None:
    table = torch.export.default_decompositions()
    plain, program = traced().run_decompositions(dict(table)), traced()
    with kept_decompositions():
        assert program.run_decompositions(dict(table)) is program, "it was traced again"
    assert listed(program) == listed(plain)
    x, ids = torch.randn(7, 4), torch.arange(3)
    for found, wanted in zip(program.module()(x, ids), Mixed()(x, ids), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("module", "is_local"), [(Branching(), True), (Merging(), True), (Writing(), False)])
def test_programs_give_what_their_module_gives(module: nn.Module, is_local: bool) -> None:
    with kept_decompositions():
        program = torch.export.export(module, (torch.ones(3, 4),), strict=False)
        decomposed = program.run_decompositions(torch.export.default_decompositions())
    assert (decomposed is program) == is_local
    left = {str(node.target) for part in decomposed.graph_module.modules() for node in part.graph.nodes}  # type: ignore[union-attr]
    assert not left & {"aten.flatten.using_ints", "aten.reshape.default", "aten.detach_.default", "aten.add_.Tensor"}, left
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        torch.testing.assert_close(decomposed.module()(x), module(x))


def test_two_walks_make_the_edge_program_of_executorchs_own_passes() -> None:
    exir = pytest.importorskip("executorch.exir")
    from dgemma.export.executorch.exir_patches import patched_exir

    config = exir.EdgeCompileConfig(_check_ir_validity=False)
    plain = listed(exir.to_edge(traced(), compile_config=config).exported_program())
    with patched_exir():
        assert listed(exir.to_edge(traced(), compile_config=config).exported_program()) == plain
    operators = " ".join(target for target, _ in plain)
    assert all(name in operators for name in ("view_copy", "permute_copy", "scalar_tensor", "_to_dim_order_copy")), operators
