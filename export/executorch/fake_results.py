"""Keeps passes over a graph from running its operators again on the same fake tensors.

Every pass of executorch runs all operators of a graph on fake tensors, only to learn the shapes of their outputs. With open
lengths, this takes most of the pass's time. An operator that gets the very same objects again returns its earlier result;
between passes, graphs keep their nodes' fake tensors. Seen with torch 2.13 and executorch 1.5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from executorch.exir.dialects.edge._ops import EdgeOpOverload
from executorch.exir.pass_base import _ExportPassBase

# Outputs that differ from one call to the next, in values or in sizes that nothing else has.
_CHANGING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
_BY_IDENTITY = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)
_BY_VALUE = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class FakeResults:
    """Outputs by operator and the identity of its inputs, which are kept, so that no other object gets their place."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Any]] = {}

    def call(self, run: Callable[..., Any], target: Any, args: Any, kwargs: Any) -> Any:
        """What `run(target, args, kwargs)` gives."""
        key = self._key(target, args, kwargs)
        if key is None:
            return run(target, args, kwargs)
        if key not in self._known:
            self._known[key] = (run(target, args, kwargs), (args, kwargs))
        return self._known[key][0]

    @staticmethod
    def _key(target: Any, args: Any, kwargs: Any) -> Any:
        """None for what cannot be known beforehand."""
        operator = target._op if isinstance(target, EdgeOpOverload) else target
        if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable or _CHANGING & {*operator.tags}:
            return None
        try:
            return operator, _frozen(args), _frozen(tuple(sorted(kwargs.items())))
        except TypeError:
            return None


def _frozen(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_frozen, value))
    if isinstance(value, _BY_IDENTITY):
        return type(value), id(value)
    if isinstance(value, _BY_VALUE):
        return type(value), str(value)
    raise TypeError(f"{type(value)} is not compared")


class _Remembering:
    """Stands in for a pass's interpreter."""

    def __init__(self, interpreter: Any, results: FakeResults) -> None:
        self._interpreter, self._results = interpreter, results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._interpreter, name)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._results.call(self._interpreter.call_function, target, args, kwargs)


@contextmanager
def remembered_results() -> Iterator[None]:
    """Passes share what operators gave, while it lasts."""
    original, results = _ExportPassBase._fx, FakeResults()

    def with_results(self: Any, *args: Any) -> Any:
        plain = self.interpreter
        self.interpreter = _Remembering(plain, results)
        try:
            return original(self, *args)
        finally:
            self.interpreter = plain

    _ExportPassBase._fx = with_results
    try:
        yield
    finally:
        _ExportPassBase._fx = original
