"""trajectories.json against the contract with numpy alone, and against eager PyTorch with the shipped checkpoint."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.core.noise import canvas_words, step_words, token_from_word

Run = dict[str, Any]
FILE = Path(__file__).parent / "trajectories.json"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return values


def broken_rule(head: dict[str, Any], run: Run) -> str | None:
    """The first rule of the contract that a run does not follow: what a reader in another language can check."""
    n, vocab, sampler = head["canvas_length"], head["vocab_size"], head["sampler"]
    seed, committed, still = int(run["seed"]), [], 0
    for i, (canvas, remaining) in enumerate(zip(run["canvas_index"], run["step"], strict=True)):
        first = remaining == sampler["steps"]
        number = sampler["steps"] - remaining + 1
        before = token_from_word(canvas_words(seed, canvas, n), vocab).tolist() if first else run["canvas_out"][i - 1]
        if run["canvas_in"][i] != before:
            return f"row {i}: canvas_in"
        entropy = np.array(run["entropy"][i], np.float32).astype(np.float64)
        ahead = [sum(e for j, e in enumerate(entropy) if (e, j) < (own, k)) for k, own in enumerate(entropy)]
        accepted = [int(a <= sampler["entropy_bound"]) for a in ahead]
        if run["accepted"][i] != accepted:
            return f"row {i}: accepted"
        noise = token_from_word(step_words(seed, canvas, number, n)[1], vocab).tolist()
        if any(not a and out != new for a, out, new in zip(accepted, run["canvas_out"][i], noise, strict=True)):
            return f"row {i}: renoise"
        still = still + 1 if not first and run["argmax"][i] == run["argmax"][i - 1] else 0
        stop = still >= sampler["stability_threshold"] and entropy.mean() < sampler["confidence_threshold"]
        last = i + 1 == len(run["step"]) or run["canvas_index"][i + 1] != canvas
        if last != (stop or remaining == 1):
            return f"row {i}: stop"
        committed += run["argmax"][i] if last else []
    committed = committed[: head["max_new_tokens"]]
    ends = [i for i, token in enumerate(committed) if token in head["eos_token_ids"]]
    return None if run["tokens"] == committed[: ends[0] if ends else None] else "tokens"


def test_runs_follow_the_contract(vectors: dict[str, Any]) -> None:
    assert len(vectors["runs"]) == 4
    assert any(max(run["canvas_index"]) > 0 for run in vectors["runs"])
    assert [broken_rule(vectors, run) for run in vectors["runs"]] == [None] * 4


@pytest.mark.parametrize("key", ["canvas_in", "canvas_out", "accepted", "argmax", "tokens", "entropy"])
def test_one_changed_value_is_noticed(vectors: dict[str, Any], key: str) -> None:
    run = copy.deepcopy(vectors["runs"][0])
    if key == "tokens":
        run[key][0] += 1
    elif key == "entropy":
        run[key][-1] = [1.0] * len(run[key][-1])
    else:
        rejected = run["accepted"][0].index(0) if key == "canvas_out" else 0
        run[key][-1 if key == "argmax" else 0][rejected] ^= 1
    assert broken_rule(vectors, run) is not None


def test_eager_replays_them(vectors: dict[str, Any], tiny_checkpoint: Path) -> None:
    from dgemma.model import checkpoint
    from dgemma.model.generate import generate

    loaded = checkpoint.load(tiny_checkpoint)
    for run in vectors["runs"]:
        done = generate(
            loaded.model, loaded.sampler, run["prompt_ids"], seed=int(run["seed"]), max_new_tokens=vectors["max_new_tokens"]
        )
        assert list(done.tokens) == run["tokens"], run["prompt"]
        assert done.trajectory.argmax.tolist() == run["argmax"]
        assert done.trajectory.accepted.astype(int).tolist() == run["accepted"]
        np.testing.assert_allclose(done.trajectory.entropy, run["entropy"], atol=2e-4)
