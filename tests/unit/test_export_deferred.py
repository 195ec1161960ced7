"""Experts are laid out when they are written: one layer at a time, and the files have what they would have had."""

from __future__ import annotations

import io
import weakref

import native_experts
import numpy as np
import pytest
import torch

from dgemma.export.deferred import defer, deferring, maker
from dgemma.export.executorch.zero_copy import ZeroCopyData
from dgemma.export.experts import RoutedExperts, routed
from dgemma.quantize import expert_layout
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.read_checkpoint import outline

LAYERS, EXPERTS, HIDDEN, WIDTH = 3, 19, 64, 32


def matrices(bits: int) -> dict[str, QuantizedMatrix]:
    """Of the experts of some layers."""
    pairs = [native_experts.matrices(bits, EXPERTS + layer, HIDDEN, WIDTH) for layer in range(LAYERS)]
    return {name: m for layer, pair in enumerate(pairs) for name, m in zip(names(layer), pair, strict=True)}


def names(layer: int) -> tuple[str, str]:
    return f"layers.{layer}.experts.gate_up_proj", f"layers.{layer}.experts.down_proj"


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_written_is_what_would_have_been_held(bits: int) -> None:
    given = matrices(bits)
    with deferring():
        layers = [routed(given, *names(i)) for i in range(LAYERS)]
        for i, layer in enumerate(layers):
            held = RoutedExperts(*(given[name] for name in names(i)))
            assert layer.groups == held.groups and (layer.hidden, layer.width) == (HIDDEN, WIDTH)
            for (name, stand_in), (_, own) in zip(layer.named_parameters(), held.named_parameters(), strict=True):
                assert (stand_in.shape, stand_in.dtype) == (own.shape, own.dtype), name
                out = io.BytesIO()
                ZeroCopyData(stand_in).write_to_file(out)
                assert out.getvalue() == own.numpy().tobytes(), name
    assert maker(layers[0].gate_up) is None, "a stand-in outlived its scope"


def test_constants_that_are_made_together_are_made_once_and_given_up_for_the_next() -> None:
    made, alive = list[str](), weakref.WeakSet[torch.Tensor]()

    def make(name: str) -> dict[str, torch.Tensor]:
        assert not alive, "two groups are in memory"
        made.append(name)
        parts = {part: torch.full((3,), ord(part)) for part in "ab"}
        alive.update(parts.values())
        return parts

    forms = {part: torch.empty(3, dtype=torch.int64, device="meta") for part in "ab"}
    with deferring():
        makes = [lambda: make("first"), lambda: make("second")]
        groups = [defer(forms, each) for each in makes]
        found = [maker(group[part]) for group in groups for part in "ab"]
        values = [one().tolist()[0] for one in found if one]
        assert values == [97, 98, 97, 98] and made == ["first", "second"]
        assert maker(torch.zeros(3)) is None
        keys = {ZeroCopyData(group[part]).key for group in groups for part in "ab"}
        assert len(keys) == 4 and made == ["first", "second"], "a key made the constant"


def test_the_form_of_a_matrix_is_told_without_its_values() -> None:
    given, (name, _) = matrices(4), names(1)
    form, whole = outline(given, name), given[name]
    assert form.integers.is_meta and (form.group, form.bits) == (whole.group, whole.bits)
    assert form.integers.shape == whole.integers.shape and form.scale.shape == whole.scale.shape


def test_experts_by_the_piece_are_laid_out_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = native_experts.matrices(4, EXPERTS, HIDDEN, WIDTH)
    by_piece = expert_layout.lay_out(*pair)
    monkeypatch.setattr(expert_layout, "_AT_ONCE", EXPERTS)
    for a, b in zip(by_piece, expert_layout.lay_out(*pair), strict=True):
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("weight", "multipliers", "scale"))
        assert a.weight.shape[0] == EXPERTS
