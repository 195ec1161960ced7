"""Constants that are made when they are written, so that they are never in memory together.

Tracers need shapes alone. What stands for such a constant in a graph is memory that nobody touches, which takes none; who
writes the graph asks here for the constant by what stands for it. It knows nothing of engines or of what the constants are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor

Make = Callable[[], Mapping[str, Tensor]]


class _Scope:
    """What is deferred; of constants that are made together, those made last are kept."""

    def __init__(self) -> None:
        self.makers: dict[int, Callable[[], Tensor]] = {}
        self.stand_ins: list[Tensor] = []  # kept, so that their memory is nothing else's
        self._made: tuple[Make, Mapping[str, Tensor]] | None = None

    def add(self, name: str, form: Tensor, make: Make) -> Tensor:
        stand_in = torch.empty(form.shape, dtype=form.dtype)
        if form.numel():
            self.makers[stand_in.data_ptr()] = partial(self._part, name, make)
            self.stand_ins.append(stand_in)
        return stand_in

    def _part(self, name: str, make: Make) -> Tensor:
        if self._made is None or self._made[0] is not make:
            self._made = None  # before others are made
            self._made = make, make()
        return self._made[1][name]


_scope: ContextVar[_Scope | None] = ContextVar("deferred constants", default=None)


@contextmanager
def deferring() -> Iterator[None]:
    """Constants may be deferred inside; graphs that have them are written inside too."""
    token = _scope.set(_Scope())
    try:
        yield
    finally:
        _scope.reset(token)


def is_deferring() -> bool:
    return _scope.get() is not None


def defer(forms: Mapping[str, Tensor], make: Make) -> dict[str, Tensor]:
    """What stands for constants that are made together, inside of `deferring`.

    Args:
        forms: name → tensor of a constant's shape and dtype, on the meta device.
        make: makes the constants; called again where others were made in between.
    """
    scope = _scope.get()
    assert scope is not None, "outside of deferring()"
    return {name: scope.add(name, form, make) for name, form in forms.items()}


def maker(tensor: Tensor) -> Callable[[], Tensor] | None:
    """What makes the constant that a tensor stands for; None for a tensor that stands for itself."""
    scope = _scope.get()
    return None if scope is None else scope.makers.get(tensor.data_ptr())
