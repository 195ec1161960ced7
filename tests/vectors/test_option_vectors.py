"""options.json against the contract with numpy alone, and against eager PyTorch, which has formulae of its own."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.core.noise import canvas_words, step_words, token_from_word
from dgemma.core.sampler_options import SamplerOptions
from dgemma.model import checkpoint
from dgemma.model.generate import generate

Run = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "options.json").read_text(encoding="utf-8"))
RUNS: list[Run] = VECTORS["runs"]
ENTROPY = 2e-4  # nats; kernels sum in other orders


def schedule(run: Run) -> list[tuple[float, float]]:
    """Temperature and bound of every step that may run."""
    sampler, said = VECTORS["sampler"], run["options"]
    table = said["schedule"] if isinstance(said.get("schedule"), dict) else {}
    steps = len(table.get("temperature", [])) or said.get("max_steps", sampler["steps"])
    shares = [left / steps for left in range(steps, 0, -1)]
    if said.get("schedule") == "cosine":
        shares = [(1 - math.cos(math.pi * x)) / 2 for x in shares]
    ends = (
        said.get("temperature", [sampler["t_max"], sampler["t_min"]]),
        said.get("entropy_bound", [sampler["entropy_bound"]] * 2),
    )
    found = [tuple(b + (a - b) * x for a, b in ends) for x in shares]
    columns = [table.get(name, [one[k] for one in found]) for k, name in enumerate(("temperature", "entropy_bound"))]
    return [(1e-20 if t < 0.01 else t, bound) for t, bound in zip(*columns, strict=True)]


def broken_rule(run: Run) -> str | None:
    """The first rule that a run does not follow: what a reader in another language can check without a model."""
    n, vocab, sampler, said = VECTORS["canvas_length"], VECTORS["vocab_size"], VECTORS["sampler"], run["options"]
    steps, seed, still = schedule(run), int(run["seed"]), 0
    banned = {i for i, bias in said.get("logit_bias", []) if bias is None} | set(said.get("ban", []))
    ends = {VECTORS["pad_token_id"], *VECTORS["eos_token_ids"]}
    for i, left in enumerate(run["step"]):
        temperature, bound = steps[i]
        if left != len(steps) - i or not math.isclose(run["temperature"][i], temperature, rel_tol=1e-6):
            return f"row {i}: schedule"
        entropy = np.array(run["entropy"][i])
        ahead = [sum(e for j, e in enumerate(entropy) if (e, j) < (own, k)) for k, own in enumerate(entropy)]
        near = [abs(a - bound) < 1e-4 for a in ahead]
        accepted = [a == "1" for a in run["accepted"][i]]
        if any(a != (total <= bound) and not tie for a, total, tie in zip(accepted, ahead, near, strict=True)):
            return f"row {i}: accepted"
        noise = token_from_word(step_words(seed, 0, i + 1, n)[1], vocab).tolist()
        if any(not a and out != new for a, out, new in zip(accepted, run["canvas_out"][i], noise, strict=True)):
            return f"row {i}: renoise"
        for k, (token, out) in enumerate(zip(run["argmax"][i], run["canvas_out"][i], strict=True)):
            never = banned | (ends if k < said.get("min_tokens", 0) else set())
            if token in never or (accepted[k] and out in never):
                return f"row {i}: banned"
            if temperature == 1e-20 and accepted[k] and out != token:
                return f"row {i}: greedy"
        still = still + 1 if i and run["argmax"][i] == run["argmax"][i - 1] else 0
        stop = still >= said.get("stability", sampler["stability_threshold"])
        stop = stop and entropy.mean() < said.get("confidence", sampler["confidence_threshold"])
        if (i + 1 == len(run["step"])) != (stop or left == 1):
            return f"row {i}: stop"
    end = next((k for k, token in enumerate(run["argmax"][-1]) if token in VECTORS["eos_token_ids"]), n)
    return None if run["tokens"] == run["argmax"][-1][:end] else "tokens"


def test_the_vectors_follow_the_contract() -> None:
    assert VECTORS["format"] == 1
    assert [broken_rule(run) for run in RUNS] == [None] * len(RUNS)
    assert {name for run in RUNS[:15] for name in run["options"]} == {
        "temperature", "max_steps", "entropy_bound", "schedule", "confidence", "stability", "top_k", "top_p", "min_p",
        "logit_bias", "ban", "min_tokens",
    }  # fmt: skip


def test_a_reader_that_ignores_an_option_is_told() -> None:
    """Control: every rule fails for some run once the reader forgets what it says."""
    found = set()
    for run in RUNS:
        for name in run["options"]:
            forgetful = copy.deepcopy(run)
            del forgetful["options"][name]
            if broken_rule(forgetful):
                found.add(name)
    assert found >= {"temperature", "max_steps", "entropy_bound", "schedule", "confidence", "stability"}
    kept = next(run for run in RUNS if "min_tokens" in run["options"])
    kept = copy.deepcopy(kept)
    kept["argmax"][-1][0] = VECTORS["eos_token_ids"][0]
    assert broken_rule(kept) is not None


def test_eager_pytorch_decides_the_same() -> None:
    loaded = checkpoint.load(ROOT / "checkpoints" / "tiny")
    changed = 0
    for run in RUNS:
        said = dict(run["options"])
        least, ban = said.pop("min_tokens", 0), said.pop("ban", ())
        if "logit_bias" in said or ban:
            pairs = {i: -math.inf if bias is None else bias for i, bias in said.get("logit_bias", [])}
            said["logit_bias"] = {**pairs, **dict.fromkeys(ban, -math.inf)}
        options = SamplerOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in said.items()})
        given: Any = {"seed": int(run["seed"]), "max_new_tokens": VECTORS["max_new_tokens"]}
        mine, plain = (
            generate(loaded.model, loaded.sampler, run["prompt_ids"], **given, **more).trajectory
            for more in ({"options": options, "min_tokens": least}, {})
        )
        for name in ("step", "argmax", "canvas_out", "tokens"):
            assert getattr(mine, name).tolist() == run[name], (name, run["options"])
        assert ["".join(str(int(x)) for x in row) for row in mine.accepted] == run["accepted"]
        np.testing.assert_allclose(mine.entropy, run["entropy"], atol=ENTROPY)
        begun = token_from_word(canvas_words(int(run["seed"]), 0, VECTORS["canvas_length"]), VECTORS["vocab_size"])
        assert mine.canvas_in[0].tolist() == begun.tolist()
        changed += plain.canvas_out.tolist() != run["canvas_out"]
    assert changed > len(RUNS) // 2, "options hardly change anything"


@pytest.mark.parametrize("name", ["argmax", "canvas_out", "accepted", "entropy"])
def test_the_reader_notices_a_change(name: str) -> None:
    run = copy.deepcopy(next(run for run in RUNS if len(run["step"]) > 2 and "0" in run["accepted"][1]))
    at = run["accepted"][1].index("0")
    row = run[name][1]
    if name == "accepted":
        run[name][1] = row[:at] + "1" + row[at + 1 :]
    elif name == "entropy":
        row[at] = 0.0
    elif name == "canvas_out":
        row[at] += 1
    else:
        run["argmax"][-1][0] += 1
    assert broken_rule(run) is not None
