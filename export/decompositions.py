"""Makes torch's `run_decompositions` find only once what is the same for every program.

Seen with torch 2.13: whatever the program, each call looks up all composite operators of torch three times, then gives every
one of them a dozen kernels, and the annotations of what registers a kernel are evaluated each time. For a small piece of a
graph that takes longer than its decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import DispatchKey
from torch._ops import OperatorBase

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


def _registering(plain: Any) -> Any:
    """Stands in for `OperatorBase.py_impl`, without annotations on what it returns."""

    def py_impl(operator: Any, key: Any) -> Any:
        if not isinstance(key, DispatchKey) or key == DispatchKey.Python or key in operator.py_kernels:
            return plain(operator, key)

        def register(function):  # type: ignore[no-untyped-def]
            operator.py_kernels[key] = function
            operator._dispatch_cache.clear()
            return function

        return register

    return py_impl


@contextmanager
def kept_decompositions() -> Iterator[None]:
    """Operators are looked up once, while it lasts; in the whole process, so no other thread may trace or lower meanwhile."""
    names = ("torch._export.utils", "torch.export.decomp_utils", "torch.export.exported_program")
    modules: list[Any] = [import_module(name) for name in names]
    kept = _kept_operators(modules[0]._collect_all_valid_cia_ops)
    with ExitStack() as patches:
        for module in modules:
            patches.enter_context(replaced(module, "_collect_all_valid_cia_ops", kept))
        patches.enter_context(replaced(OperatorBase, "py_impl", _registering(OperatorBase.py_impl)))
        yield
