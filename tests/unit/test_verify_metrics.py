"""Figures of one step against naive twins; NaN is never hidden."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.core.metrics import paired_score_bounds, ratio_of_sums
from dgemma.verify import metrics
from dgemma.verify.backend import StepOut
from dgemma.verify.metrics import CEILING_DB, Noise, finite, jaccard, kl_divergence, spread, sqnr
from dgemma.verify.teacher_forced import broken


def naive_kl(p_logits: list[float], q_logits: list[float]) -> float:
    p, q = ([math.exp(x) for x in logits] for logits in (p_logits, q_logits))
    p_sum, q_sum = sum(p), sum(q)
    return sum(a / p_sum * math.log((a / p_sum) / (b / q_sum)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
def test_kl_is_that_of_its_definition(rows: int) -> None:
    generator = np.random.default_rng(rows)
    a, b = (generator.normal(0, 3, (rows, 50)).astype(np.float32) for _ in range(2))
    expected = [naive_kl(x.astype(float).tolist(), y.astype(float).tolist()) for x, y in zip(a, b, strict=True)]
    assert np.allclose(kl_divergence(a, b), expected, rtol=1e-9)
    assert not np.allclose(kl_divergence(b, a), expected, rtol=1e-2)  # it has a direction


def test_kl_of_equals_is_zero_and_shifts_do_not_count() -> None:
    a = np.random.default_rng(0).normal(0, 3, (4, 50))
    assert kl_divergence(a, a).tolist() == [0.0] * 4
    assert kl_divergence(a, a + 7).max() < 1e-12
    assert np.isfinite(kl_divergence(1e4 * a, -1e4 * a)).all()


def test_nan_and_infinity_stay_visible() -> None:
    a, b = np.zeros((3, 5)), np.zeros((3, 5))
    b[1, 2] = np.nan
    found = kl_divergence(a, b)
    assert np.isnan(found).tolist() == [False, True, False]
    assert spread(found) == {"mean": None, "p99": None, "max": None}
    assert spread(np.empty(0)) == {"mean": None, "p99": None, "max": None}
    assert math.isnan(sqnr(np.ones(3), np.array([1.0, np.nan, 1.0])))
    assert math.isnan(sqnr(np.ones(3), np.array([1.0, np.inf, 1.0])))
    assert finite(float("nan")) is None and finite(float("inf")) is None and finite(2.0) == 2.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_jaccard_is_that_of_sets(pairs: list[tuple[bool, bool]]) -> None:
    a, b = ({i for i, pair in enumerate(pairs) if pair[k]} for k in (0, 1))
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])) == expected


def test_sqnr_is_a_ratio_of_powers_over_all_arrays() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    assert sqnr(signal, signal + np.float32(0.5)) == pytest.approx(10 * math.log10(25 / 0.5))
    assert sqnr(signal, signal) == CEILING_DB
    assert sqnr(np.zeros(2), signal) == -CEILING_DB
    noise = Noise()
    noise.add(signal, signal)
    noise.add(signal, signal + 1)
    assert noise.db == pytest.approx(10 * math.log10(50 / 2))


def test_shapes_must_agree() -> None:
    for function in (kl_divergence, jaccard, sqnr):
        with pytest.raises(ValueError, match="shapes"):
            function(np.zeros((2, 3)), np.zeros((2, 4)))


def test_spread_is_mean_quantile_and_maximum() -> None:
    values = np.arange(101, dtype=np.float32)
    assert spread(values) == {"mean": 50.0, "p99": 99.0, "max": 100.0}


def test_a_ratio_of_sums_comes_with_a_bootstrap_interval() -> None:
    steps = [2.0] * 90 + [16.0] * 10
    assert ratio_of_sums(steps, steps) == (1.0, 1.0, 1.0)
    value, low, high = ratio_of_sums([2.0] * 95 + [16.0] * 5, [2.0] * 100)
    assert value == pytest.approx(1.35) and low < value < high and high - low > 0.2
    assert ratio_of_sums(steps, [1.0] * 100) == ratio_of_sums(steps, [1.0] * 100)
    for a, b in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0])):
        with pytest.raises(ValueError, match="ratio of sums"):
            ratio_of_sums(a, b)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_score_bounds_hold_the_difference_and_never_vanish(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    value, low, high = paired_score_bounds(a, b, 1.96)
    assert low < value < high or abs(value) == 1
    assert -1 <= low <= value <= high <= 1 and high - low > 0.01
    other, below, above = paired_score_bounds(b, a, 1.96)
    assert (other, below, above) == pytest.approx((-value, -high, -low), abs=1e-9)


def test_paired_score_bounds_of_pairs_that_are_all_alike() -> None:
    value, low, high = paired_score_bounds([True] * 30, [True] * 30, 2.0)
    assert (value, low, high) == pytest.approx((0, -4 / 34, 4 / 34))
    few, many = (paired_score_bounds([False] + [True] * n, [True] * (n + 1), 1.96)[1] for n in (10, 1000))
    assert few < many < 0 and many > -0.01


def test_candidates_may_take_each_others_places_but_no_others() -> None:
    ids, log_probs = np.array([[5, 7, 9]]), np.array([[-0.5, -1.5, -1.5001]], np.float32)
    assert metrics.candidates_error(ids, log_probs, ids, log_probs) == 0
    swapped = metrics.candidates_error(ids, log_probs, ids[:, [0, 2, 1]], log_probs)
    other = metrics.candidates_error(ids, log_probs, np.array([[5, 7, 8]]), np.array([[-0.5, -1.5, -1.5]], np.float32))
    assert 0 < swapped[0] < 2e-4 and 0 <= other[0] < 2e-4
    assert metrics.candidates_error(ids, log_probs, ids[:, ::-1], log_probs)[0] == pytest.approx(1.0001, abs=1e-3)
    assert metrics.candidates_error(ids, log_probs, np.array([[1, 2, 3]]), log_probs)[0] == pytest.approx(1.0001, abs=1e-3)
    assert np.isnan(metrics.candidates_error(ids, log_probs, ids, log_probs * np.float32("nan"))).all()


def test_a_step_that_contradicts_itself_is_counted() -> None:
    sound = StepOut(
        argmax=np.array([5, 6]), entropy=np.zeros(2, np.float32), accepted=np.array([True, False]), canvas=np.array([7, 1]),
        soft=np.zeros((2, 1)), logits=None, drawn=np.array([7, 2]), likeliest=np.array([[5, 7], [6, 2]]),
        log_probs=np.array([[-0.1, -3.0], [-0.2, -2.0]], np.float32),
    )  # fmt: skip
    assert broken(sound) == 0 and broken(replace(sound, drawn=None)) == 0
    assert broken(replace(sound, drawn=np.array([5, 2]))) == 1  # accepted, and the next canvas has another
    assert broken(replace(sound, argmax=np.array([7, 2]))) == 2
    assert broken(replace(sound, argmax=np.array([7, 6]), log_probs=np.array([[-3.0, -3.0], [-0.2, -2.0]], np.float32))) == 0
    assert broken(replace(sound, log_probs=sound.log_probs[:, ::-1])) == 2  # type: ignore[index]
    assert broken(replace(sound, log_probs=-sound.log_probs)) == 2  # type: ignore[operator]
