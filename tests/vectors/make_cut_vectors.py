"""Writes `cut_draw.json`: `python tests/vectors/make_cut_vectors.py [FOLDER]`.

Plain Python, one position at a time, written from the formulae of docs/design/sampling.md; it shares no code with the package.
README.md describes the format.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from pathlib import Path
from typing import Any

GREEDY = 1e-20


def f32(x: float) -> float:
    """x rounded to float32."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def tilt(case: dict[str, Any]) -> list[tuple[float, int]]:
    """(log-probability, id) of the candidates after the bias, falling, and of equal ones the lower id first."""
    bias = {i: -math.inf if b is None else b for i, b in case["bias"]}
    pairs = list(zip(case["log_probs"], case["ids"], strict=True))
    if any(i in bias for _, i in pairs):
        lifted = [(value + bias.get(i, 0.0) / case["temperature"], i) for value, i in pairs]
        most = max(value for value, _ in lifted)
        if most > -math.inf:
            total = math.log(sum(math.exp(value - most) for value, _ in sorted(lifted, key=lambda p: case["ids"].index(p[1]))))
            lifted = [(f32(value - most - total), i) for value, i in lifted]
        pairs = lifted
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def keep(pairs: list[tuple[float, int]], case: dict[str, Any]) -> list[tuple[float, int]]:
    found, mass = [], 0.0
    for rank, (value, i) in enumerate(pairs):
        fits = value > -math.inf
        fits &= case["top_k"] is None or rank < case["top_k"]
        fits &= case["top_p"] is None or mass < case["top_p"]
        fits &= case["min_p"] is None or value >= pairs[0][0] + math.log(case["min_p"])
        if fits:
            found.append((value, i))
        mass += math.exp(value)
    return found


def draw(kept: list[tuple[float, int]], word: int) -> tuple[int, float]:
    """The id, and the distance of the target from the nearest border as a share of the total."""
    most = max(value for value, _ in kept)
    by_id = sorted((i, f32(math.exp(value - most))) for value, i in kept)
    running, total = [], 0.0
    for _, weight in by_id:
        total += weight
        running.append(total)
    target = (word >> 8) * 2.0**-24 * total
    at = next(k for k, r in enumerate(running) if r > target)
    return by_id[at][0], min(abs(r - target) for r in [0.0, *running]) / total


def solved(case: dict[str, Any]) -> dict[str, Any] | None:
    """With its answer; None where it lies too near to a border for two machines to agree."""
    pairs = tilt(case)
    kept = keep(pairs, case)
    answer = {"argmax": None, "log_probs_after": [], "kept": [], "token": None}
    if kept:
        token, margin = draw(kept, case["word"])
        if margin < 1e-5:
            return None
        finite = [[i, value] for value, i in pairs if value > -math.inf]
        answer = {"argmax": pairs[0][1], "log_probs_after": finite, "kept": [i for _, i in kept], "token": token}
    return {**case, **answer}


def cases() -> list[dict[str, Any]]:
    random.seed(0)
    found: list[dict[str, Any]] = []
    plain: dict[str, Any] = {"bias": [], "temperature": 0.5, "top_k": None, "top_p": None, "min_p": None}
    flat: dict[str, Any] = {**plain, "ids": [9, 4, 7, 2], "log_probs": [f32(math.log(0.25))] * 4}
    by_hand = [
        ("equal ones are in order of ids", {**flat, "top_k": 2, "word": 1 << 30}),
        ("the second half of the kept", {**flat, "top_k": 2, "word": 3 << 30}),
        (
            "mass that is reached exactly is enough",
            {**flat, "log_probs": [f32(math.log(0.2500001))] * 4, "top_p": 0.5, "word": 3 << 30},
        ),
        ("more mass than there is keeps all", {**flat, "log_probs": [-2.0] * 4, "top_p": 1.0, "word": 7 << 29}),
        ("all equally likely ones are kept", {**flat, "min_p": 1.0, "word": 5 << 29}),
        ("a banned id is not drawn", {**flat, "bias": [[2, None]], "word": 1 << 20}),
        ("all are banned", {**flat, "bias": [[i, None] for i in flat["ids"]], "word": 1 << 20}),
        ("a bias over the temperature", {**flat, "bias": [[9, 1.0]], "top_k": 1, "word": 1 << 20}),
        ("a ban of another id changes nothing", {**flat, "bias": [[3, None]], "top_k": 3, "word": 3 << 30}),
        (
            "what is left may be all but impossible",
            {**flat, "log_probs": [0.0, -200.0, -201.0, -400.0], "bias": [[9, None]], "word": 3 << 30},
        ),
        (
            "temperature 0",
            {
                **flat,
                "log_probs": [0.0, f32(-3e19), f32(-4e19), f32(-9e19)],
                "bias": [[7, 0.5]],
                "temperature": GREEDY,
                "word": 3 << 30,
            },
        ),
    ]
    for name, case in by_hand:
        one = solved({**plain, **case})
        assert one is not None, name
        found.append({"name": name, **one})
    while len(found) < 60:
        size = random.choice([1, 2, 5, 16])
        values = sorted((random.gauss(0, random.choice([0.5, 3.0])) for _ in range(size)), reverse=True)
        total = math.log(sum(math.exp(v) for v in values)) + random.choice([0.0, 1e-3, 0.7])
        ids = random.sample(range(40), size)
        case = {
            "ids": ids,
            "log_probs": [f32(v - total) for v in values],
            "bias": [[i, random.choice([None, 2.0, -3.0])] for i in random.sample(range(40), random.choice([0, 0, 3]))],
            "temperature": random.choice([0.4, 0.8]),
            "top_k": random.choice([None, 1, 3, 16]),
            "top_p": random.choice([None, 0.3, 0.9]),
            "min_p": random.choice([None, 0.05, 0.5]),
            "word": random.randrange(1 << 32),
        }
        if (one := solved(case)) is not None:
            found.append({"name": f"random {len(found)}", **one})
    return found


def text() -> str:
    lines = ",\n".join(json.dumps(case) for case in cases())
    return f'{{\n"format": 1,\n"tolerance": 1e-5,\n"cut_draw": [\n{lines}\n]\n}}\n'


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (target / "cut_draw.json").write_text(text(), encoding="utf-8")
