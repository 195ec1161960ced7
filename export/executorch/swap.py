"""Modules of one kind replaced by another that does the same, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def swap(module: nn.Module, kind: type[M], make: Callable[[M], nn.Module]) -> None:
    """Replace every `kind` below `module` by what `make` makes of it."""
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, make(child))
        else:
            swap(child, kind, make)
