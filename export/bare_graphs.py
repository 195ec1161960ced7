"""Graphs without what only people who debug torch read.

Seen with torch 2.13 and executorch 1.5.1: every pass over a program, and every copy, writes a graph module's Python and
compiles it, though few are ever called; and every node is told the lines of source that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule, config
from torch.fx.graph import _PyTreeCodeGen

from dgemma.export.patching import replaced


@contextmanager
def bare_graphs() -> Iterator[None]:
    """Nodes say nothing of their source, and modules have no Python until their first call, while it lasts.

    Nothing may read a module's Python before that, as dynamo does. In the whole process, so no other thread may trace or lower
    meanwhile.
    """
    plain = GraphModule.recompile

    def forward(module: GraphModule, *args: Any, **kwargs: Any) -> Any:
        plain(module)
        return module.forward(*args, **kwargs)

    def recompile(module: GraphModule) -> None:
        codegen = module.graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
        vars(module).setdefault("_code", "")  # executorch formats it for its logs
        type(module).forward = forward
        module._recompile_submodules()

    with replaced(GraphModule, "recompile", recompile), replaced(config, "do_not_emit_stack_traces", True):
        yield
