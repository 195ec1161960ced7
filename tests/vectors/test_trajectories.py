"""trajectories.json against the contract with numpy alone, and against eager PyTorch and ONNX Runtime with the checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from work_reader import Reader

from dgemma.core.compute_policy import DRAFT_EARLY_COMMIT, EARLY_COMMIT, NARROWEST, ComputePolicy
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.noise import canvas_words, step_words, token_from_word
from dgemma.runtime.session import Session

Run = dict[str, Any]
FILE = Path(__file__).parent / "trajectories.json"
ENTROPY = 2e-4  # nats; kernels sum in other orders


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def session(tiny_bundle: Path) -> Iterator[Session]:
    with Session.load(tiny_bundle, engine="onnx", threads=1) as opened:
        yield opened


def broken_rule(head: dict[str, Any], run: Run) -> str | None:
    """The first rule of the contract that a run does not follow: what a reader in another language can check."""
    n, vocab, sampler = head["canvas_length"], head["vocab_size"], head["sampler"]
    seed, committed, still = int(run["seed"]), list[int](), 0
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
    if run["passes"] != n * (len(run["step"]) + run["canvases"] - 1):
        return "passes"
    return None if run["tokens"] == committed[: ends[0] if ends else None] else "tokens"


def test_runs_follow_the_contract(vectors: dict[str, Any]) -> None:
    assert len(vectors["runs"]) == 4
    assert any(max(run["canvas_index"]) > 0 for run in vectors["runs"])
    assert [broken_rule(vectors, run) for run in vectors["runs"]] == [None] * 4


@pytest.mark.parametrize("key", ["canvas_in", "canvas_out", "accepted", "argmax", "tokens", "entropy", "passes"])
def test_one_changed_value_is_noticed(vectors: dict[str, Any], key: str) -> None:
    run = copy.deepcopy(vectors["runs"][0])
    if key == "passes":
        run[key] += 1
    elif key == "tokens":
        run[key][0] += 1
    elif key == "entropy":
        run[key][-1] = [1.0] * len(run[key][-1])
    else:
        rejected = run["accepted"][0].index(0) if key == "canvas_out" else 0
        run[key][-1 if key == "argmax" else 0][rejected] ^= 1
    assert broken_rule(vectors, run) is not None


def test_the_defaults_are_those_that_other_languages_read(vectors: dict[str, Any]) -> None:
    assert vectors["work_defaults"] == {"settle": EARLY_COMMIT, "draft_settle": DRAFT_EARLY_COMMIT, "narrowest": NARROWEST}


def test_runs_that_leave_positions_out_follow_their_rule(vectors: dict[str, Any]) -> None:
    runs = vectors["work_runs"]
    assert len(runs) == 12
    assert [Reader(vectors, run).problem() for run in runs] == [None] * 12
    assert any(run["work"]["speculate"] and run["canvases"] > 2 for run in runs), "no draft was cut"


@pytest.mark.parametrize("key", ["canvas_in", "canvas_out", "accepted", "argmax", "tokens", "entropy", "passes", "settle"])
def test_one_changed_value_of_them_is_noticed(vectors: dict[str, Any], key: str) -> None:
    for run in copy.deepcopy(vectors["work_runs"]):
        if key == "settle":
            run["work"] = run["work"] | {"settle": 1e-9}
        elif key == "passes":
            run[key] += 1
        elif key == "tokens":
            run[key][0] += 1
        elif key == "entropy":
            run[key][-1] = [1.0] * len(run[key][-1])
        elif key == "argmax":
            run[key][-1][1] ^= 1
        else:
            run[key][len(run[key]) // 2][0] ^= 1
        assert Reader(vectors, run).problem() is not None, run["work"]


def both(vectors: dict[str, Any]) -> list[tuple[Run, ComputePolicy | None]]:
    """All runs, with what each leaves out."""
    runs = [*vectors["runs"], *vectors["work_runs"]]
    return [(run, policy(run["work"]) if run["work"] else None) for run in runs]


def policy(work: dict[str, Any]) -> ComputePolicy:
    return ComputePolicy(
        early_commit=work["settle"], start_width=work["canvas"], recheck=work["repair"], speculate=work["speculate"]
    )


def check(found: Any, run: Run) -> None:
    """A generation or a result against a run."""
    about = f"{run['prompt']} {run['work']}"
    assert list(found.tokens) == run["tokens"], about
    counts = found.canvases, found.position_forwards, found.stop_reason
    assert counts == (run["canvases"], run["passes"], run["stop_reason"]), about
    for name in ("canvas_index", "step", "canvas_in", "argmax", "accepted", "canvas_out"):
        np.testing.assert_array_equal(getattr(found.trajectory, name), run[name], err_msg=f"{about} {name}")
    np.testing.assert_allclose(found.trajectory.entropy, run["entropy"], atol=ENTROPY)


def test_eager_replays_them(vectors: dict[str, Any], tiny_checkpoint: Path) -> None:
    from dgemma.model import checkpoint
    from dgemma.model.generate import generate

    loaded, most = checkpoint.load(tiny_checkpoint), vectors["max_new_tokens"]
    for run, compute in both(vectors):
        ids, seed = run["prompt_ids"], int(run["seed"])
        check(generate(loaded.model, loaded.sampler, ids, seed=seed, max_new_tokens=most, compute=compute), run)


def on_engine(session: Session, vectors: dict[str, Any], run: Run, compute: ComputePolicy | None) -> Any:
    options = GenerateOptions(seed=int(run["seed"]), max_new_tokens=vectors["max_new_tokens"], trace=True, compute=compute)
    return session.generate(run["prompt_ids"], options)


def test_onnx_replays_them(vectors: dict[str, Any], session: Session) -> None:
    for run, compute in both(vectors):
        check(on_engine(session, vectors, run, compute), run)


def test_other_work_is_noticed(vectors: dict[str, Any], session: Session) -> None:
    for run, compute in both(vectors):
        other = ComputePolicy(early_commit=2.0) if compute is None or compute.early_commit < 1 else None
        with pytest.raises(AssertionError):
            check(on_engine(session, vectors, run, other), run)
