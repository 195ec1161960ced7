"""Verify counts the positions whose experts are others than above, by layer and with margins; bisection names the choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import micro
import numpy as np
import pytest
import torch

from dgemma.model.denoiser import Denoiser
from dgemma.verify import ladder, tolerance
from dgemma.verify.routing import changed_margins, chosen, described
from dgemma.verify.text_report import describe
from dgemma.verify.torch_backend import TorchBackend

LAYER = 1


def test_chosen_and_margins() -> None:
    scores = np.array([[0.0, 3.0, 2.0, 1.5], [1.0, 1.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]], np.float32)
    assert chosen(scores, 2).tolist() == [[False, True, True, False], [True, True, False, False], [True, True, False, False]]
    other = scores.copy()
    other[0, 3], other[2, 1] = 2.5, 3.5  # another set in the first row, the same set in the last
    np.testing.assert_allclose(changed_margins(scores, other, 2), [0.5])
    assert changed_margins(scores, scores, 2).size == 0
    assert changed_margins(scores, other, 4).size == 0  # all are chosen


def nothing(model: Denoiser, sign: int) -> None:
    """Two backends alike."""


def tie(model: Denoiser, sign: int) -> None:
    """Two experts that are a millionth from a tie, on one side of it or on the other."""
    with torch.no_grad():
        router = model.layers[LAYER].router.proj.weight
        router[2] = router[1] * (1 + sign * 1e-6)


def wrong(model: Denoiser, sign: int) -> None:
    """Another router."""
    if sign > 0:
        model.layers[LAYER].router.scale.data *= 1.2


def exchanged(model: Denoiser, sign: int) -> None:
    """Experts that stand in for one another."""
    if sign > 0:
        for parameter in model.layers[LAYER].experts.parameters():
            parameter.data = parameter.data.roll(1, 0)


def climb(plant: Any, limits: tolerance.Tolerance = tolerance.SAME_FLOAT) -> dict[str, Any]:
    def backend(name: str, sign: int) -> TorchBackend:
        model = micro.model(micro.MOE_CONFIG)
        plant(model, sign)
        return TorchBackend(model, micro.POLICY, micro.N, name)

    def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
        return items

    backends = [backend("above", -1), backend("below", 1)]
    run = backends[0].trajectory(micro.prompt(11), 1, micro.N)
    asked = [ladder.Asked(ids=run.prompt_ids.tolist(), seed=1, most=micro.N, recorded=run)]
    return ladder.compare_backends(backends, [limits] * 2, asked, "nobody", quietly)


def lines_of(found: dict[str, Any]) -> str:
    for values in found.values():
        values["backends_missing"] = {}
    return "\n".join(describe("a bundle", "ladder", found))


def test_backends_that_agree() -> None:
    found = climb(nothing)
    layers = found["below"]["nearest"]["teacher_forced"]["experts"]
    rows = found["above"]["steps"] * micro.N
    assert layers == {str(i): {"rows": rows, "other": 0, "median_margin": None, "largest_margin": None} for i in (0, 1)}
    assert found["below"]["passed"] and f"below: other experts than above: at none of {2 * rows} positions" in lines_of(found)


def test_a_choice_that_went_the_other_way_is_counted_and_named() -> None:
    found = climb(tie)
    layers, fault = found["below"]["nearest"]["teacher_forced"]["experts"], found["below"]["fault"]
    assert layers["0"]["other"] == 0 and layers["1"]["other"] > 0
    assert 0 <= layers["1"]["median_margin"] <= layers["1"]["largest_margin"] < 1e-3
    assert not found["below"]["passed"] and fault["tensor"] == f"layers.{LAYER}.router" and fault["error"] < 1e-4
    assert "other experts at" in fault["text"] and "margins up to" in fault["text"]
    assert f"layer 1 {layers['1']['other']}; margins up to" in lines_of(found)


def test_a_router_that_is_wrong_is_named_for_itself() -> None:
    fault = climb(wrong)["below"]["fault"]
    assert fault["tensor"] == f"layers.{LAYER}.router" and fault["error"] > 0.1
    assert fault["cause"] == "the router's norm, scale or projection"


@pytest.mark.parametrize("layers", [None, {}])
def test_scores_that_cannot_be_had_are_said_to_be(layers: dict[str, Any] | None) -> None:
    assert described(layers) == "not known, because its graphs do not return the routers' scores"


@pytest.mark.parametrize("limits", [tolerance.SAME_INTEGERS_OF_MIXTURE, tolerance.EIGHT_BITS_OF_MIXTURE])
def test_limits_of_quantized_mixtures_notice_a_fault(limits: tolerance.Tolerance) -> None:
    """They leave room for near-tied positions that a last bit sends to other experts, and for nothing more."""
    assert climb(nothing, limits)["below"]["passed"]
    assert not climb(exchanged, limits)["below"]["passed"]
