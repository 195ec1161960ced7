"""control.json against the contract with numpy alone, and against the Python runtime on an exported bundle."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import load

from dgemma.core.noise import canvas_words, step_words, token_from_word, uniform_from_word
from dgemma.runtime.session import Session

Run = dict[str, Any]
HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "control.json").read_text(encoding="utf-8"))
RUNS: list[Run] = VECTORS["runs"]
GIVEN = [one for one in RUNS if {"template", "draft"} & one["options"].keys()]


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Iterator[Session]:
    with Session.load(tiny_bundle, engine="onnx", threads=1) as session:
        yield session


def broken_rule(entry: Run) -> str | None:
    """The first rule of drafts and templates that a run does not follow: what can be checked without a model or a tokenizer."""
    n, vocab, seed, said = VECTORS["canvas_length"], VECTORS["vocab_size"], int(entry["seed"]), entry["options"]
    indices = entry["canvas_index"]
    for canvas, begun in enumerate(entry["begun"]):
        noise = token_from_word(canvas_words(seed, canvas, n), vocab).tolist()
        kept = [k for k in range(n) if begun[k] != noise[k]]
        words = step_words(seed, canvas, VECTORS["steps"] + 1, n)[0]
        noisy = (uniform_from_word(words) < said.get("strength", 0.5)).tolist()
        if "draft" in said and any(noisy[k] for k in kept):
            return f"canvas {canvas}: noise"
        rows = [i for i, index in enumerate(indices) if index == canvas]
        steps = said.get("max_steps", VECTORS["steps"])
        first = max(1, int(np.ceil(said.get("strength", 0.5) * steps))) if "draft" in said else steps
        if entry["step"][rows[0]] != first:
            return f"canvas {canvas}: steps"
        if "template" in said:
            length = len(entry["tokens"]) - canvas * n
            ends = entry["canvas_out"][rows[-1]][length:] if length < n else []
            if any(entry[name][i][n - len(ends) :] != ends for i in rows for name in ("argmax", "canvas_out")):
                return f"canvas {canvas}: pinned"
            if any(entry["accepted"][i][k] == "0" for i in rows for k in range(n - len(ends), n)):
                return f"canvas {canvas}: accepted"
    return None


def test_the_vectors_follow_the_contract() -> None:
    assert VECTORS["format"] == 1
    assert [broken_rule(entry) for entry in GIVEN] == [None] * len(GIVEN)
    named = {name for entry in GIVEN for name in entry["options"]}
    assert named >= {"template", "draft", "strength", "early_commit", "logprobs"}
    assert max(entry["canvases"] for entry in GIVEN) > 1


@pytest.mark.parametrize("rule", ["noise", "steps", "pinned"])
def test_the_reader_notices_a_change(rule: str) -> None:
    entry = copy.deepcopy(next(one for one in GIVEN if ("template" in one["options"]) == (rule == "pinned")))
    if rule == "noise":
        words = step_words(int(entry["seed"]), 0, VECTORS["steps"] + 1, VECTORS["canvas_length"])[0]
        entry["begun"][0][int(uniform_from_word(words).argmin())] += 1
    elif rule == "steps":
        entry["step"][0] += 1
    else:
        entry["argmax"][0][-1] += 1
    assert (broken_rule(entry) or "").endswith(rule)


def maker() -> Any:
    return load(HERE / "make_control_vectors.py")


def test_the_runtime_gives_them(tiny: Session) -> None:
    make = maker()
    assert len(make.CASES) == len(RUNS)
    for seed, (prompt, options) in enumerate(make.CASES):
        found = json.loads(json.dumps(make.run(tiny, prompt, seed, options)))
        held = dict(RUNS[seed])
        for name in ("logprobs", "entropies"):
            np.testing.assert_allclose(found.pop(name), held.pop(name), atol=2e-4)
        assert found == held, options


def test_the_runtime_decodes_them(tiny: Session) -> None:
    make = maker()
    assert len(make.DECODED) == len(VECTORS["decoded"])
    for case, held in zip(make.DECODED, VECTORS["decoded"], strict=True):
        assert json.loads(json.dumps(make.decoded(tiny, *case))) == held
    stopped = [one for one in VECTORS["decoded"] if one["stop_reason"] == "stop" and "stop" in one["options"]]
    assert len(stopped) > 1 and {one["loop"] for one in VECTORS["decoded"]} == {"decode"}


def test_guided_steps_run_twice() -> None:
    guided = [one for one in RUNS if one["options"].get("guidance", 1.0) != 1]
    n = VECTORS["canvas_length"]
    assert len(guided) > 6
    for entry in guided:
        said = entry["options"]
        first, _, last = str(said.get("guidance_steps", "1:99")).partition(":")
        most = int(last or first)
        start = [i for i, index in enumerate(entry["canvas_index"]) if i == 0 or index != entry["canvas_index"][i - 1]]
        numbers = [i - max(s for s in start if s <= i) + 1 for i in range(len(entry["step"]))]
        twice = sum(int(first) <= number <= most and ("negative" in said or number > 1) for number in numbers)
        assert entry["position_forwards"] >= n * (len(numbers) + twice)
        assert (entry["position_forwards"] - n * (len(numbers) + twice) > 0) == (entry["canvases"] > 1)


def test_the_runtime_gives_the_samples(tiny: Session) -> None:
    make = maker()
    assert len(make.SAMPLES) == len(VECTORS["samples"])
    for case, held in zip(make.SAMPLES, VECTORS["samples"], strict=True):
        assert json.loads(json.dumps(make.several(tiny, *case))) == held
    assert min(held["agreement"] for held in VECTORS["samples"]) < 1
    assert {entry["loop"] for entry in RUNS} == {"host", "decode"} > {one["loop"] for one in VECTORS["samples"][-1]["results"]}
