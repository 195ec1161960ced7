"""Constants that are made only when they are written, so that they are never in memory all at once.

Tracers need only shapes. In a graph, a stand-in takes the place of such a constant: memory that is never touched and so takes
up none. When the graph is written, `maker` gives the function that makes the constant. This module knows nothing of engines or
of what the constants are.
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
    """The deferred constants. Of those that are made together, only the last group made is kept."""

    def __init__(self) -> None:
        self.makers: dict[int, Callable[[], Tensor]] = {}
        self.stand_ins: list[Tensor] = []  # kept, so that their memory is not reused
        self._made: tuple[Make, Mapping[str, Tensor]] | None = None

    def add(self, name: str, form: Tensor, make: Make) -> Tensor:
        stand_in = torch.empty(form.shape, dtype=form.dtype)
        if form.numel():
            self.makers[stand_in.data_ptr()] = partial(self._part, name, make)
            self.stand_ins.append(stand_in)
        return stand_in

    def _part(self, name: str, make: Make) -> Tensor:
        if self._made is None or self._made[0] is not make:
            self._made = None  # freed before the next group is made
            self._made = make, make()
        return self._made[1][name]


_scope: ContextVar[_Scope | None] = ContextVar("deferred constants", default=None)


@contextmanager
def deferring() -> Iterator[None]:
    """Constants may be deferred inside this context; graphs that hold them must be written inside it too."""
    token = _scope.set(_Scope())
    try:
        yield
    finally:
        _scope.reset(token)


def is_deferring() -> bool:
    return _scope.get() is not None


def defer(forms: Mapping[str, Tensor], make: Make) -> dict[str, Tensor]:
    """Stand-ins for constants that are made together, inside `deferring`.

    Args:
        forms: name → tensor of a constant's shape and dtype, on the meta device.
        make: makes the constants; called again if others were made in between.
    """
    scope = _scope.get()
    assert scope is not None, "outside of deferring()"
    return {name: scope.add(name, form, make) for name, form in forms.items()}


def maker(tensor: Tensor) -> Callable[[], Tensor] | None:
    """The function that makes the constant that a tensor stands in for; None for an ordinary tensor."""
    scope = _scope.get()
    return None if scope is None else scope.makers.get(tensor.data_ptr())
