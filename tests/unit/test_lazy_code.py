"""Graphs write their Python code when it is first needed, and then it is what it would have been."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, symbolic_trace
from torch.fx._lazy_graph_module import _LazyGraphModule

from dgemma.export.lazy_code import lazy_code


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = symbolic_trace(Inner())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Graphs whose code was written, in order."""
    found, plain = list[Graph](), Graph.python_code

    def counted(graph: Graph, *args: object, **kwargs: object) -> object:
        found.append(graph)
        return plain(graph, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Graph, "python_code", counted)
    return found


@pytest.fixture
def module(written: list[Graph]) -> Iterator[GraphModule]:
    with lazy_code():
        traced = symbolic_trace(Outer())
        written.clear()  # the inner module's code ran
        yield traced


def doubled(module: GraphModule) -> None:
    """Add twice what is added."""
    node = next(n for n in reversed(module.graph.nodes) if n.op == "call_function")
    node.args = (node.args[0], 2)
    module.recompile()


def test_code_is_written_at_first_use_and_once(module: GraphModule, written: list[Graph]) -> None:
    doubled(module)
    doubled(module)
    assert not written
    assert module(torch.tensor(2.0)) == 8
    assert module.graph in written
    before = len(written)
    assert module(torch.tensor(3.0)) == 11
    assert len(written) == before


def test_code_is_that_of_the_last_change(module: GraphModule) -> None:
    assert module(torch.tensor(2.0)) == 7
    doubled(module)
    assert module(torch.tensor(2.0)) == 8
    doubled(module)
    code = module.graph.python_code("self").src
    assert module.code == code and code.strip() in str(module)


def test_a_copy_has_code_of_its_own(module: GraphModule, written: list[Graph]) -> None:
    other = copy.deepcopy(module)
    doubled(module)
    assert not written
    assert (module(torch.tensor(2.0)), other(torch.tensor(2.0))) == (8, 7)


def test_code_may_be_written_afterwards(written: list[Graph]) -> None:
    with lazy_code():
        module = symbolic_trace(Inner())
    assert not written
    assert module.forward(torch.tensor(2.0)) == 6
    module.recompile()
    assert len(written) == 2, "it is written at once again"


def test_torchs_own_lazy_modules_still_work(module: GraphModule) -> None:
    lazy = _LazyGraphModule.from_graphmodule(module)
    assert lazy(torch.tensor(2.0)) == 7
    assert "add" in lazy.code
