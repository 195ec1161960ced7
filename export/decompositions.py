"""Makes torch decompose programs without repeating work that was done for an earlier program, or was already done.

Seen with torch 2.13: looking through all of torch's composite operators, which happens for every program, takes longer than
decomposing a small piece of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch.export import ExportedProgram

from dgemma.export.local_decompositions import locally
from dgemma.export.patching import replaced

_KIND = "CompositeImplicitAutograd"


def _kept_operators(collect: Callable[[], set[Any]]) -> Callable[[], set[Any]]:
    """Stands in for `_collect_all_valid_cia_ops`: looks again only after operators were registered."""
    known: dict[tuple[int, int], set[Any]] = {}

    def kept() -> set[Any]:
        state = len(torch._C._dispatch_get_registrations_for_dispatch_key(_KIND)), len(torch.ops._dir)
        if state not in known:
            known[state] = collect()
        return known[state]

    return kept


@contextmanager
def kept_decompositions() -> Iterator[None]:
    """Operators are looked up once, and decomposed where they stand, while it lasts.

    In the whole process, so no other thread may trace or lower meanwhile.
    """
    names = ("torch._export.utils", "torch.export.decomp_utils", "torch.export.exported_program")
    modules: list[Any] = [import_module(name) for name in names]
    kept = _kept_operators(modules[0]._collect_all_valid_cia_ops)
    with ExitStack() as patches:
        for module in modules:
            patches.enter_context(replaced(module, "_collect_all_valid_cia_ops", kept))
        plain = ExportedProgram.run_decompositions
        patches.enter_context(replaced(ExportedProgram, "run_decompositions", locally(plain)))
        yield
