"""Two results in ratios: of a time to its floor, of diffusion to autoregressive, of memory to weights. Never in seconds.

So a committed result of one machine can judge a run on another one, as long as bundle shape, engine and threads are the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from dgemma.benchmarks.bench.reliability import spread
from dgemma.core.errors import UsageError

Json = dict[str, Any]
Better = Literal["lower", "higher"]
TOLERANCE = 0.10  # change that is nobody's fault, beyond what both runs scatter and what other work may have done
SAME = ("engine", "threads", "recipe", "canvas_length", "parameters", "real_weights")


def ratio(value: float, better: Better, scatter: float | None = None) -> Json:
    """JSON types: a ratio, which way is better, and by how much it may be off, relatively; None when no clock is in it."""
    return {"value": value, "better": better, "scatter": scatter}


def ratios(result: Json) -> dict[str, Json]:
    """Everything of a result that another machine's result can be held against.

    Times are the least ones, for whatever else runs on a machine only adds to them.
    """
    found = {}
    points, prefill = result["growth"], result["prefill"]
    for name, point in (("first", points[0]), ("last", points[-1])):
        step, token = point["step_ms"], point["token_ms"]
        for figure, times in (("step", step), ("token", token)):
            over = times["least"] / point[f"{figure}_floor_ms"]
            found[f"{figure}, {name} canvas, over its floor"] = ratio(over, "lower", _unsure(times))
            kernels = point.get(f"{figure}_kernel_floor_ms")  # earlier results have none
            if kernels and kernels != point[f"{figure}_floor_ms"]:
                over = times["least"] / kernels
                found[f"{figure}, {name} canvas, over the floor of its kernels"] = ratio(over, "lower", _unsure(times))
        if paced := point.get("step_over_pace"):
            turns = ratio(paced["median"], "lower", 2 * spread(paced) / paced["n"] ** 0.5)
            found[f"step, {name} canvas, in turn with its products"] = turns
        gain = result["of"]["canvas_length"] * token["least"] / step["least"]
        found[f"{name} canvas: N autoregressive tokens over a step"] = ratio(gain, "higher", _unsure(step) + _unsure(token))
        if points[0] is points[-1]:
            break
    found["prefill over its floor"] = ratio(prefill["ms"]["least"] / prefill["floor_ms"], "lower", _unsure(prefill["ms"]))
    for group, values in result["groups"].items():
        times, scatter = values["ratio"], 2 * spread(values["ratio"]) / values["ratio"]["n"] ** 0.5
        found[f"{group}: diffusion over autoregressive"] = ratio(times["median"], "higher", scatter)
        found[f"{group}: tokens per forward"] = ratio(values["diffusion"]["tokens_per_forward"], "higher")
    for name in ("resident", "transient"):
        if (value := result["memory"][f"{name}_over_weights"]) is not None:
            found[f"{name} memory over weights"] = ratio(value, "lower")
    return found


def _unsure(times: Json) -> float:
    """How lonely the least of some times is: its distance to the lower quartile, the less the more of them there are."""
    return float((times["q1"] / times["least"] - 1) * 2 / times["n"] ** 0.5)


def read(path: Path) -> Json:
    """An earlier result: a file of --out, or what --json printed. Raises UsageError when it is not one."""
    cure = "give a file that `dgemma bench --out` wrote"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--compare {path}: cannot be read ({getattr(error, 'strerror', 'not UTF-8')}); {cure}") from None
    try:
        found = json.loads(text)
        assert isinstance(found, dict)
        assert found["benchmark"] == "bench"
        assert set(SAME) <= set(found["of"])
        assert found["noise"]["doubt"] >= 0
        assert isinstance(found["bundle"]["digest"], str)
        for entry in found["ratios"].values():
            assert entry["better"] in ("lower", "higher")
            assert entry["value"] > 0
            assert entry["scatter"] is None or entry["scatter"] >= 0
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UsageError(f"--compare {path}: is damaged or not a result of `dgemma bench`; {cure}") from None
    return found


def check_same(old: Json, of: Json, path: Path) -> None:
    """Raise UsageError when two results are of different things."""
    for name in SAME:
        if old["of"][name] != of[name]:
            raise UsageError(
                f"--compare {path}: has {name} {old['of'][name]!r} and this run {of[name]!r}; "
                f"compare with a result of the same {name.replace('_', ' ')}"
            )


def compare(old: Json, new: Json) -> list[Json]:
    """A row for each ratio of both: old, new, change (above 1 is worse), tolerance, and whether it got worse by more.

    A ratio that one of them lacks has a row without a judgement.
    """
    rows: list[Json] = []
    allowed = TOLERANCE + sum(result["noise"]["doubt"] for result in (old, new))
    for name in dict.fromkeys([*old["ratios"], *new["ratios"]]):
        before, after = (result["ratios"].get(name) for result in (old, new))
        row: Json = {"ratio": name, "old": before and before["value"], "new": after and after["value"]}
        if before and after:
            change = after["value"] / before["value"]
            change = change if after["better"] == "lower" else 1 / change
            scatter = [before["scatter"], after["scatter"]]
            tolerance = TOLERANCE if None in scatter else allowed + sum(scatter)
            row |= {"change": change, "tolerance": tolerance, "worse": change > 1 + tolerance}
        rows.append(row)
    return rows
