"""Keeps Python's garbage collector from going through what is there to stay.

Lowering makes and drops millions of small objects, so the collector runs often, and each full run visits what torch and the
exporters had made when they were imported: a twelfth of the time of a small export.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Objects that are there already are not looked at while it lasts; memory is still freed where nothing refers to it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
