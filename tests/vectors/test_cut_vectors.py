"""The committed vectors of the cut draw, their generator, and the runtime say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import load

from dgemma.runtime import cut_draw
from dgemma.runtime.cut_draw import Cut

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "cut_draw.json").read_text())
CASES = VECTORS["cut_draw"]


def test_the_file_is_what_the_generator_writes() -> None:
    module = load(HERE / "make_cut_vectors.py")
    assert (HERE / "cut_draw.json").read_text() == module.text(), "run make_cut_vectors.py"


def answer(case: dict[str, Any], **changes: Any) -> tuple[list[tuple[int, float]], list[int], int | None]:
    """Log-probabilities by id and kept ids, both in their order, and the id drawn."""
    case = {**case, **changes}
    ids, values = np.array([case["ids"]], np.int64), np.array([case["log_probs"]], np.float32)
    bias = np.zeros(40)
    for i, value in case["bias"]:
        bias[i] = -np.inf if value is None else value
    candidates = cut_draw.ordered(ids, values)
    candidates, _ = cut_draw.tilted(candidates, bias[candidates.ids], case["temperature"])
    keeps = cut_draw.kept(candidates.log_probs, Cut(case["top_k"], case["top_p"], case["min_p"]))
    drawn = int(cut_draw.draw(candidates, keeps, np.array([case["word"]], np.uint32))[0])
    pairs = [(int(i), float(v)) for i, v in zip(candidates.ids[0], candidates.log_probs[0], strict=True) if v > -np.inf]
    return pairs, candidates.ids[0][keeps[0]].tolist(), drawn if keeps.any() else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_cut_draw(case: dict[str, Any]) -> None:
    pairs, kept, token = answer(case)
    assert [i for i, _ in pairs] == [i for i, _ in case["log_probs_after"]] and kept == case["kept"] and token == case["token"]
    assert (pairs[0][0] if pairs else None) == case["argmax"]
    wanted = [value for _, value in case["log_probs_after"]]
    np.testing.assert_allclose([value for _, value in pairs], wanted, atol=VECTORS["tolerance"], rtol=1e-6)


def test_vectors_can_fail() -> None:
    """Control: plausible mistakes in a port do not pass them."""
    assert any(answer(case, top_k=None)[1] != case["kept"] for case in CASES)
    assert any(answer(case, top_p=None)[1] != case["kept"] for case in CASES)
    assert any(answer(case, min_p=None)[1] != case["kept"] for case in CASES)
    assert any(answer(case, temperature=1.0)[2] != case["token"] for case in CASES)  # a bias on tempered logits
    turned = [answer(case, ids=case["ids"][::-1], log_probs=case["log_probs"][::-1]) for case in CASES]
    assert [one[1:] for one in turned] == [(case["kept"], case["token"]) for case in CASES]  # candidates come in any order
    by_rank = [case for case in CASES if len(case["kept"]) > 1 and case["kept"] != sorted(case["kept"])]

    def falling(case: dict[str, Any]) -> int:
        """A draw in order of rank in place of ids."""
        values = dict(case["log_probs_after"])
        running = np.exp([values[i] for i in case["kept"]]).cumsum()
        return int(case["kept"][int((running <= (case["word"] >> 8) * 2.0**-24 * running[-1]).sum())])

    assert any(falling(case) != case["token"] for case in by_rank)


@pytest.mark.filterwarnings("error")
def test_a_bias_that_float32_cannot_hold_makes_others_impossible() -> None:
    candidates = cut_draw.Candidates(np.array([[3, 4]]), np.log(np.array([[0.75, 0.25]], np.float32)))
    bias = np.array([0, 0, 0, -1e100, 0])
    found, touched = cut_draw.tilted(candidates, bias[candidates.ids], 1e-20)
    assert touched.all() and found.ids.tolist() == [[4, 3]] and found.log_probs.tolist() == [[0.0, -np.inf]]
