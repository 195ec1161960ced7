"""What torch's exporter is spared: torchlib's functions registered again, and pieces that are traced already."""

from __future__ import annotations

from dataclasses import replace

import micro
import pytest
import torch
from torch.onnx._internal.exporter import _registration

from dgemma.core.sampler import EXACT, SamplerConfig
from dgemma.export import head
from dgemma.export.onnx import linear
from dgemma.export.onnx.head_pieces import head_pieces
from dgemma.export.onnx.registry_cache import cached_registry


def test_functions_are_registered_once_and_callers_do_not_share_what_they_add() -> None:
    kind = _registration.ONNXRegistry
    original = kind.__dict__["from_torchlib"]
    with cached_registry():
        first, second = (kind().from_torchlib(opset_version=21) for _ in range(2))
        target = torch.ops.aten.relu.default
        known = second.get_decomps(target)
        assert known and first.get_decomps(target) == known and first.opset_version == second.opset_version == 21
        first.register_op(target, lambda x: x)
        assert len(first.get_decomps(target)) == len(known) + 1
        assert second.get_decomps(target) == kind().from_torchlib(opset_version=21).get_decomps(target) == known
    assert kind.__dict__["from_torchlib"] is original


@pytest.mark.parametrize("soft", [EXACT, "topk:8"])
@pytest.mark.parametrize(("tile", "alike"), [(8192, True), (150, True), (256, False)])  # of 300 ids
def test_tiles_of_one_length_are_one_piece(soft: str, tile: int, alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE", tile)
    model = micro.model()
    linear.replace(model, {})
    made = head_pieces(model, replace(SamplerConfig(), soft=soft))
    assert (made["tile"][1:] == made["last_tile"][1:]) is alike
    assert ("soft" in made) is (soft == EXACT) and ("mean" in made) is (soft != EXACT and tile > 300)
