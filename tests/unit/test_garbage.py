"""While a graph is lowered, the garbage collector goes through new objects only, and through all of them afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from dgemma.export.garbage import only_new_garbage


class Ring:
    def __init__(self) -> None:
        self.own = self


def test_new_cycles_are_collected_and_old_ones_afterwards() -> None:
    gc.collect()
    old = weakref.ref(Ring())
    with only_new_garbage():
        new = weakref.ref(Ring())
        gc.collect()
        assert new() is None and old() is not None
    gc.collect()
    assert old() is None and gc.get_freeze_count() == 0


def test_an_error_ends_it() -> None:
    def fail() -> None:
        with only_new_garbage():
            assert gc.get_freeze_count() > 0
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert gc.get_freeze_count() == 0
