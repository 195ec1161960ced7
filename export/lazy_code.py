"""Graphs whose Python code is written when it is first run or read.

torch writes and compiles the code of a graph whenever a pass replaces the graph or changes it, although passes interpret nodes
and never run it. torch has lazy graph modules of its own, but only for its own tracers: passes make plain ones. Seen with torch
2.13; programs are the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph import _PyTreeCodeGen

from dgemma.export.patching import replaced

_WRITTEN = ("_code", "_lineno_map", "_prologue_start")  # what writing leaves in a module
_now = GraphModule.recompile


class _Forward:
    """Stands in for a module's `forward`, which every graph module has a class of its own for."""

    def __get__(self, module: Any, _: Any) -> Any:
        if module is None:
            return self
        _now(module)
        return module.forward


class _Attribute:
    """A value that writing leaves, until it is written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, _: Any) -> Any:
        if module is None or not isinstance(vars(type(module)).get("forward"), _Forward):
            raise AttributeError(self.name)
        _now(module)
        return vars(module)[self.name]


def _later(module: Any) -> None:
    """Stands in for `GraphModule.recompile`."""
    if isinstance(module, _LazyGraphModule):
        _now(module)
        return
    if isinstance(module._graph._codegen, _PyTreeCodeGen):
        info = module._graph._codegen.pytree_info
        module._in_spec, module._out_spec = info.in_spec, info.out_spec
    for name in _WRITTEN:
        vars(module).pop(name, None)
    type(module).forward = _Forward()
    module._recompile_submodules()


for _name in _WRITTEN:
    setattr(GraphModule, _name, _Attribute(_name))


@contextmanager
def lazy_code() -> Iterator[None]:
    """Modules that are made or changed while it lasts write their code at first use, which may be afterwards."""
    with replaced(GraphModule, "recompile", _later):
        yield
