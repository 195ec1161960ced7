"""Results of `dgemma bench` compared: what is worse, what is not, and what cannot be compared."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dgemma.benchmarks.bench import compare
from dgemma.benchmarks.stats import quartiles
from dgemma.core.errors import UsageError


def times(value: float) -> dict[str, Any]:
    return asdict(quartiles([value, value * 1.01, value * 1.02, value * 1.03]))


def made() -> dict[str, Any]:
    """What `compare` reads of a result."""
    points = [
        {"prefix": p, "step_ms": times(step), "token_ms": times(2.0), "step_floor_ms": 1.0, "token_floor_ms": 1.0}
        for p, step in ((10, 4.0), (20, 5.0))
    ]
    result: dict[str, Any] = {
        "benchmark": "bench",
        "of": dict.fromkeys(compare.SAME, 1) | {"canvas_length": 16},
        "bundle": {"digest": "d"},
        "growth": points,
        "prefill": {"ms": times(3.0), "floor_ms": 1.0},
        "noise": {"doubt": 0.0},
        "groups": {"short": {"ratio": times(2.0), "diffusion": {"tokens_per_forward": 9.0}}},
        "memory": {"resident_over_weights": 1.5, "transient_over_weights": None},
    }
    return {**result, "ratios": compare.ratios(result)}


def slower(result: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same with steps that take longer."""
    other = deepcopy(result)
    for point in other["growth"]:
        point["step_ms"] = {k: v if k == "n" else v * factor for k, v in point["step_ms"].items()}
    return {**other, "ratios": compare.ratios(other)}


def worse(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    return {row["ratio"] for row in compare.compare(old, new) if row.get("worse")}


def test_the_same_result_is_no_worse_and_neither_is_a_better_one() -> None:
    assert worse(made(), made()) == set()
    assert worse(made(), slower(made(), 0.5)) == set()
    assert worse(made(), slower(made(), 1.05)) == set()  # within what is allowed


def test_steps_that_take_longer_are_worse() -> None:
    found = worse(made(), slower(made(), 1.5))
    assert found == {
        f"{name} canvas{rest}" if rest.startswith(":") else f"step, {name} canvas{rest}"
        for name in ("first", "last")
        for rest in (", over its floor", ": N autoregressive tokens over a step")
    }


def test_a_machine_that_is_slower_throughout_is_not_a_worse_result() -> None:
    other = deepcopy(made())
    for point in other["growth"]:
        for key, value in list(point.items()):
            if key != "prefix":
                point[key] = value * 3 if isinstance(value, float) else {k: v if k == "n" else 3 * v for k, v in value.items()}
    other["prefill"] = {"ms": {k: v if k == "n" else 3 * v for k, v in times(3.0).items()}, "floor_ms": 3.0}
    assert worse(made(), {**other, "ratios": compare.ratios(other)}) == set()


def test_a_busy_machine_is_allowed_more() -> None:
    new = slower(made(), 1.2)
    assert worse(made(), new)
    assert not worse(made(), {**new, "noise": {"doubt": 0.2}})
    answers = deepcopy(made())
    answers["ratios"]["short: tokens per forward"]["value"] /= 1.2
    assert worse(made(), {**answers, "noise": {"doubt": 0.2}})  # no clock is in it


def test_a_ratio_that_only_one_has_is_shown_and_not_judged() -> None:
    new = made()
    del new["ratios"]["resident memory over weights"]
    (row,) = [row for row in compare.compare(made(), new) if row["ratio"] == "resident memory over weights"]
    assert row == {"ratio": "resident memory over weights", "old": 1.5, "new": None}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"benchmark": "speed"}', "\x00", '{"benchmark": "bench"}', "[" * 9000])
def test_a_damaged_old_result_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"old\.json: is damaged .*dgemma bench --out"):
        compare.read(file)
    with pytest.raises(UsageError, match="cannot be read"):
        compare.read(tmp_path / "absent.json")
    damaged = made()
    damaged["ratios"]["resident memory over weights"]["value"] = 0
    file.write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match="is damaged"):
        compare.read(file)


def test_results_of_different_things_are_not_compared() -> None:
    old = made()
    compare.check_same(old, dict(old["of"]), Path("old.json"))
    with pytest.raises(UsageError, match="has threads 1 and this run 2; compare with a result of the same threads"):
        compare.check_same(old, {**old["of"], "threads": 2}, Path("old.json"))
