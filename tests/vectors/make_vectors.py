"""Writes `noise.json` and `sampling.json`: `python tests/vectors/make_vectors.py [FOLDER]`.

Plain Python integers and floats, written from the contract's text and sharing no code with the package, so that the
package can be checked against it as any other language is. README.md describes the format.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

MASK = 0xFFFFFFFF
BLOCK = 256
Pair = tuple[int, int]
SEEDS = (0, 42, (1 << 32) + 7, (1 << 63) + 5, (1 << 64) - 1)


def threefry(key: Pair, counter: Pair) -> Pair:
    """Threefry-2x32 with 20 rounds."""
    ks = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = (counter[0] + ks[0]) & MASK, (counter[1] + ks[1]) & MASK
    for r in range(20):
        rotation = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        a = (a + b) & MASK
        b = (((b << rotation) | (b >> (32 - rotation))) & MASK) ^ a
        if r % 4 == 3:
            group = r // 4 + 1
            a, b = (a + ks[group % 3]) & MASK, (b + ks[(group + 1) % 3] + group) & MASK
    return a, b


def stream_key(seed: int, canvas: int, stream: int) -> Pair:
    return threefry(threefry((seed >> 32, seed & MASK), (0, canvas)), (0, stream))


def words(key: Pair, count: int) -> list[int]:
    return [a ^ b for a, b in (threefry(key, (n >> 32, n & MASK)) for n in range(count))]


def f32(x: float) -> float:
    """x rounded to float32."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def generated(seed: int, vocab: int, power: int) -> list[float]:
    """weights[i] = u_i ** power by repeated float32 products, u_i from word i of key(seed)."""
    us = [(word >> 8) * 2.0**-24 for word in words((seed >> 32, seed & MASK), vocab)]
    out = us
    for _ in range(power - 1):
        out = [f32(w * u) for w, u in zip(out, us, strict=True)]
    return out


def draw(weights: list[float], word: int) -> tuple[int, float]:
    """Token by inverse CDF, and the distance of the target from the nearest boundary as a share of the total."""
    sums = []
    for start in range(0, len(weights), BLOCK):
        total = 0.0
        for w in weights[start : start + BLOCK]:
            total = f32(total + w)
        sums.append(total)
    running, total = [], 0.0
    for s in sums:
        total += s
        running.append(total)
    target = (word >> 8) * 2.0**-24 * total
    block = next((i for i, r in enumerate(running) if r > target), len(sums) - 1)
    boundaries = list(running)
    inside = running[block - 1] if block else 0.0
    last = min(len(weights), (block + 1) * BLOCK) - 1
    token = None
    for i in range(block * BLOCK, last + 1):
        inside += weights[i]
        boundaries.append(inside)
        if token is None and inside > target:
            token = i
    return last if token is None else token, min(abs(b - target) for b in boundaries) / total


def accept(entropy: list[float], bound: float) -> list[bool]:
    """By sorting, which the contract's comparison must equal."""
    order = sorted(range(len(entropy)), key=lambda i: (entropy[i], i))
    accepted, ahead = [False] * len(entropy), 0.0
    for i in order:
        accepted[i] = ahead <= bound
        ahead += entropy[i]
    return accepted


def softmax_entropy(logits: list[float]) -> float:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = math.fsum(weights)
    entropy = math.log(total) - math.fsum(w * (x - top) for w, x in zip(weights, logits, strict=True)) / total
    return round(entropy, 7)  # the same on every C library


def noise_vectors() -> dict[str, Any]:
    known = [((0, 0), (0, 0)), ((MASK, MASK), (MASK, MASK)), ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3))]
    streams = [
        {
            "seed": str(seed),
            "canvas": canvas,
            "stream": stream,
            "shape": [n] if stream == 0 else [2, n],
            "key": list(stream_key(seed, canvas, stream)),
            "words": words(stream_key(seed, canvas, stream), n if stream == 0 else 2 * n),
        }
        for seed in SEEDS
        for canvas, stream, n in ((0, 0, 16), (0, 1, 8), (3, 2, 5), (70_000, 48, 3))
    ]
    some = [0, 1, 255, 256, 0x7FFFFFFF, 0x80000000, MASK, *words((0, 1), 5)]
    return {
        "format": 1,
        "threefry": [{"key": list(k), "counter": list(c), "output": list(threefry(k, c))} for k, c in known],
        "streams": streams,
        "tokens": [{"word": word, "vocab": v, "token": (word * v) >> 32} for v in (1, 300, 342, 262_144) for word in some],
        "uniforms": [{"word": word, "uniform": (word >> 8) * 2.0**-24} for word in some],
    }


def cdf_vectors() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []

    def add(name: str, word: int, weights: list[float], **source: Any) -> None:
        token, margin = draw(weights, word)
        exact = not source
        assert exact or margin > 1e-5, f"{name}: too near to a boundary for sums in another order"
        cases.append({"name": name, "word": word, **(source or {"weights": weights}), "token": token})

    half, top = 1 << 31, MASK
    add("one id", top, [1.0])
    for word in (0, (1 << 30) - 256, 1 << 30, half - 256, half, top):
        add("dyadic weights, targets on the boundaries", word, [1.0, 1.0, 0.0, 0.5, 1.5])
    add("no weight before the third id", 0, [0.0, 0.0, 0.25, 0.75])
    add("no weight after the second id", top, [0.25, 0.75, 0.0])
    spread = [0.0] * 600
    spread[3], spread[255], spread[256], spread[599] = 1.0, 1.0, 1.0, 1.0
    for word in (0, (1 << 30) - 256, 1 << 30, half - 256, half, 3 << 30, top):
        add("three blocks, the last of 88 ids", word, spread)
    gap = [0.0] * 700
    gap[0], gap[699] = 1.0, 1.0
    add("an empty block is passed over", half, gap)
    rounded = [0.0] * 520  # 1 + 2⁻²⁴(1 + 2⁻¹⁰) rounds up to 1 + 2⁻²³, and half of the total lies between the two
    rounded[0], rounded[1], rounded[256], rounded[512] = 1.0, 2.0**-24 * (1 + 2.0**-10), 1.0, 2.0**-24
    add("a block's float32 sum exceeds its float64 running sum: its last id", half, rounded)
    chosen = words((0, 2), 40)
    for vocab, power in ((256, 1), (257, 2), (300, 8), (1000, 1), (5000, 4)):
        weights, taken = generated(vocab, vocab, power), 0
        for word in chosen:
            if taken < 4 and draw(weights, word)[1] > 1e-5:
                taken += 1
                add(f"generated, {vocab} ids", word, weights, generated={"seed": vocab, "vocab": vocab, "power": power})
        assert taken == 4
    return cases


def accept_vectors() -> list[dict[str, Any]]:
    cases = [
        ("one position is always accepted", [9.0], 0.5),
        ("the sum before a position counts, not its own", [0.25, 0.25, 4.0, 0.5], 0.5),
        ("a sum equal to the bound is accepted", [0.5, 0.25, 0.25, 1.0, 1.0], 1.0),
        ("ties go by index", [1.0, 1.0, 1.0, 1.0], 1.0),
        ("ties among others", [2.0, 0.5, 2.0, 0.5, 0.125, 2.0], 3.0),
        ("zeros cost nothing", [0.0, 3.0, 0.0, 2.0, 0.0], 0.5),
        ("all", [0.03125] * 8, 0.5),
        ("descending", [8.0, 4.0, 2.0, 1.0, 0.5, 0.25], 2.0),
        ("the default bound", [f32(x) for x in (0.01, 0.08, 0.02, 1.5, 0.05, 0.04, 2.5, 0.03)], 0.1),
    ]
    return [{"name": name, "entropy": e, "bound": b, "accepted": accept(e, b)} for name, e, b in cases]


def entropy_vectors() -> list[dict[str, Any]]:
    rows = [
        [0.0, 0.0],
        [0.0] * 7,
        [30.0, -30.0, -30.0],
        [1.0, 2.0, 3.0, 4.0],
        [-5.0, 5.0, 4.75, 0.125],
        [60.0, 59.5, -60.0],
    ]
    rows.append([(word >> 8) * 2.0**-20 for word in words((0, 3), 40)])
    return [{"logits": row, "entropy": softmax_entropy(row), "tolerance": 2e-6} for row in rows]


def step_vectors() -> list[dict[str, Any]]:
    """A whole step: N = 6 positions, V = 300."""
    n, vocab, bound = 6, 300, 1.0
    us = [(word >> 8) * 2.0**-24 for word in words((0, 4), n * vocab)]
    rows = [[f32(u * 4 * (i + 1)) for u in us[i * vocab : (i + 1) * vocab]] for i in range(n)]
    for i, row in enumerate(rows):
        row[(37 * i + 11) % vocab] = f32(16.0 - 1.5 * i)
    noise = words((0, 5), 2 * n)
    entropy = [softmax_entropy(row) for row in rows]
    accepted = accept(entropy, bound)
    assert True in accepted
    assert False in accepted
    canvas = []
    for i, row in enumerate(rows):
        token, margin = draw([f32(math.exp(x - max(row))) for x in row], noise[i])
        assert margin > 1e-5
        canvas.append(token if accepted[i] else (noise[n + i] * vocab) >> 32)
    return [
        {
            "tempered": rows,
            "words": [noise[:n], noise[n:]],
            "bound": bound,
            "canvas": canvas,
            "argmax": [row.index(max(row)) for row in rows],
            "entropy": entropy,
            "accepted": accepted,
            "tolerance": 1e-5,
        }
    ]


def files() -> dict[str, str]:
    """Name → content of both files."""
    sampling = {
        "format": 1,
        "block": BLOCK,
        "inverse_cdf": cdf_vectors(),
        "accept": accept_vectors(),
        "entropy": entropy_vectors(),
        "step": step_vectors(),
    }
    return {name: dump(values) for name, values in (("noise.json", noise_vectors()), ("sampling.json", sampling))}


def dump(values: dict[str, Any]) -> str:
    """One case a line, so that a difference can be read."""
    lines = []
    for key, value in values.items():
        if isinstance(value, list):
            lines.append(f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(case) for case in value) + "\n]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for file, text in files().items():
        (target / file).write_text(text, encoding="utf-8")
