"""Which positions run, step by step, told by hand: early commits, growing, ending at a stop token, rechecks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgemma.core.compute_policy import EARLY_COMMIT, ActiveSet, ComputePolicy
from dgemma.core.errors import UsageError
from dgemma.core.sampler import SamplerConfig

N, STOP = 8, 1
SURE, OPEN = 0.001, 3.0  # entropies below and above the bound
POLICY = SamplerConfig(steps=8, confidence_threshold=0.3)


def run(compute: ComputePolicy, *steps: dict[int, tuple[int, float]]) -> tuple[ActiveSet, list[list[int]], list[bool]]:
    """Steps give ids and entropies by position, (7, OPEN) where they say nothing; rows that ran, and what `take` said."""
    state, ran, done = ActiveSet(N, compute, POLICY, (STOP, 5)), [], []
    for gives in steps:
        rows = state.begin()
        ran.append(rows.tolist())
        ids, entropy = zip(*(gives.get(int(row), (7, OPEN)) for row in rows), strict=True)
        done.append(state.take(rows, np.array(ids), np.array(entropy, np.float32), np.zeros(len(rows), np.bool_)))
    return state, ran, done


def sure(*positions: int, id_: int = 7) -> dict[int, tuple[int, float]]:
    return dict.fromkeys(positions, (id_, SURE))


def test_positions_that_are_committed_early_leave_and_their_ids_stay() -> None:
    state, ran, done = run(ComputePolicy(early_commit=0.01), sure(0, 2, 3), sure(1, 4, 5, 6), sure(7, id_=9))
    assert ran == [list(range(8)), [1, 4, 5, 6, 7], [7]]
    assert done == [False, False, True]
    assert state.argmax.tolist() == [7] * 7 + [9]


def test_a_canvas_grows_until_it_is_whole() -> None:
    state, ran, done = run(ComputePolicy(early_commit=0.01, start_width=2), sure(0, 1), sure(2), sure(3, 4, 5, 6, 7))
    assert ran == [[0, 1], [2, 3], [3, 4, 5, 6, 7]]
    assert done == [False, False, True]
    assert state.width == N


@pytest.mark.parametrize("entropy", [SURE, OPEN])
def test_a_stop_token_ends_the_growing_and_what_follows_it_leaves_once_it_is_committed(entropy: float) -> None:
    steps = [sure(0) | {1: (STOP, entropy)}, sure(1, id_=STOP)][: 1 if entropy == SURE else 2]
    state, ran, done = run(ComputePolicy(early_commit=0.01, start_width=4), *steps)
    assert ran == [[0, 1, 2, 3], [1, 2, 3]][: len(steps)]
    assert done[-1] and state.width == 2 and state.argmax[:2].tolist() == [7, STOP]


def test_a_stop_token_that_was_not_one_lets_it_grow() -> None:
    _, ran, done = run(ComputePolicy(early_commit=0.01, start_width=2), {1: (5, OPEN)}, {}, {})
    assert ran == [[0, 1], [0, 1], [0, 1, 2, 3]]
    assert not any(done)


def test_the_adaptive_stop_holds_for_the_positions_that_there_are() -> None:
    near = dict.fromkeys(range(N), (7, 0.2))
    assert run(ComputePolicy(early_commit=0.01), near, near)[2] == [False, True]
    assert run(ComputePolicy(early_commit=0.01), near, near | {0: (8, 0.2)})[2] == [False, False]  # it changed
    assert run(ComputePolicy(early_commit=0.01), near, near | {0: (7, OPEN)})[2] == [False, False]  # it is unsure on the whole
    assert run(ComputePolicy(early_commit=0.01, start_width=4), near, near, near)[2] == [False, False, True]  # once grown
    ended = {0: (7, 0.9), 1: (STOP, SURE)}
    assert run(ComputePolicy(early_commit=0.01), ended, ended)[2] == [False, True]  # what is gone is certain: 0.9 / 8
    unsure = {0: (7, OPEN), 1: (STOP, SURE)}
    assert run(ComputePolicy(early_commit=0.01), unsure, unsure)[2] == [False, False]


def test_a_recheck_runs_everything_once_more_and_goes_on_where_that_changes() -> None:
    compute, everything = ComputePolicy(early_commit=0.01, recheck=True), list(range(N))
    assert run(compute, sure(*everything), sure(*everything))[1:] == ([everything, everything], [False, True])
    _, ran, done = run(compute, sure(*everything), sure(*everything[1:]), sure(0), sure(*everything))
    assert ran == [everything, everything, [0], everything]
    assert done == [False, False, False, True]


def test_steps_that_are_left_run_every_position_again() -> None:
    _, ran, done = run(ComputePolicy(early_commit=0.01), sure(*range(N)), {})
    assert ran == [list(range(N))] * 2
    assert done[0]


@pytest.mark.parametrize(
    ("asked", "compute"),
    [
        ({}, None),
        ({"early_commit": 0.02}, ComputePolicy(early_commit=0.02)),
        ({"start_width": "auto"}, ComputePolicy(early_commit=EARLY_COMMIT, start_width="auto")),
        (
            {"start_width": 4, "early_commit": 0.5, "recheck": True},
            ComputePolicy(early_commit=0.5, start_width=4, recheck=True),
        ),
    ],
)
def test_what_is_asked_for(asked: dict[str, Any], compute: ComputePolicy | None) -> None:
    nothing: dict[str, Any] = {"early_commit": None, "start_width": None, "recheck": False, "speculate": False}
    assert ComputePolicy.of(**nothing | asked) == ComputePolicy.of(**asked) == compute


@pytest.mark.parametrize(("start", "width"), [("auto", 4), (None, 64), (8, 8), (64, 64)])
def test_the_first_width(start: Any, width: int) -> None:
    assert ComputePolicy(early_commit=0.1, start_width=start).first_width(64) == width
    assert ComputePolicy(early_commit=0.1, start_width="auto").first_width(3) == 1


def test_drafts_commit_sooner() -> None:
    compute = ComputePolicy.of(early_commit=None, start_width=None, recheck=False, speculate=True)
    assert compute is not None and compute.early_commit > EARLY_COMMIT and compute.start_width is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"early_commit": 0.0},
        {"early_commit": float("inf")},
        {"early_commit": True},
        {"early_commit": 0.1, "start_width": 0},
        {"early_commit": 1, "start_width": "8"},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must be"):
        ComputePolicy(**wrong)
