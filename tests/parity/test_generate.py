"""Whole generations: transformers' `generate` with the contract's noise against `model/generate.py`, step by step.

Random checkpoints are chaotic under self-conditioning when gains are large: embeddings × 20 and matrices × 2 of the
default init accept several positions a step and still replay ("lively", which never stops early). With smaller layer
outputs the same weights settle on a canvas and stop ("settling"). transformers with eager and with sdpa attention must
replay each other first; what they cannot do, nobody can.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import checkpoints as hf
import numpy as np
import pytest
import torch
from replay import hf_replay

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.model import generate as eager
from dgemma.model.checkpoint import load
from dgemma.model.denoiser import Denoiser

STEPS, CANVASES = 12, 3
SEEDS = (0, 2**63 + 5)
PROMPTS = {"short": list(range(5, 10)), "long": list(range(30, 55))}  # the window is 8
SAMPLER = SamplerConfig(steps=STEPS, entropy_bound=1.0, confidence_threshold=0.2)  # lets random weights accept and stop
ENTROPY = 2e-3  # nats, after the rounding of up to 12 self-conditioned steps; the canvases must be equal exactly


@dataclasses.dataclass(frozen=True)
class Case:
    settling: bool
    folder: Path
    eager: Any
    sdpa: Any
    model: Denoiser


def make(kind: str, temper: str, folder: Path) -> Case:
    dense = kind == "dense"
    branches = {"lively": 1.0, "settling": 0.5 if dense else 0.34}[temper]
    eps = 1e-12 if dense else 1e-6  # the dense oracle norms twice: a small epsilon makes it exact
    hf.save(hf.hf_model(experts=None if dense else 4, seed=12, branches=branches, rms_norm_eps=eps), folder)
    sdpa = hf.hf_from_folder(folder, attention="sdpa")
    return Case(temper == "settling", folder, hf.hf_from_folder(folder), sdpa, load(folder).model)


@pytest.fixture(scope="module", params=[(k, t) for k in ("dense", "moe") for t in ("lively", "settling")], ids="-".join)
def any_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(*request.param, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module", params=["dense", "moe"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(request.param, "settling", tmp_path_factory.mktemp("checkpoint"))


@functools.cache
def oracle(model: Any, prompt: str, seed: int, eos: int | None = None) -> Trajectory:
    config = hf.hf_generation(
        steps=STEPS, bound=SAMPLER.entropy_bound, confidence=SAMPLER.confidence_threshold, eos=None if eos is None else [eos]
    )
    return hf_replay(model, PROMPTS[prompt], config, seed=seed, canvases=CANVASES)[0]


def ours(model: Denoiser, prompt: str, seed: int, sampler: SamplerConfig = SAMPLER, **options: Any) -> eager.Generation:
    model.config = dataclasses.replace(model.config, eos_token_ids=options.pop("eos", ()))
    return eager.generate(model, sampler, PROMPTS[prompt], seed=seed, max_new_tokens=CANVASES * hf.CANVAS, **options)


def differences(want: Trajectory, got: Trajectory) -> list[str]:
    """Names of what differs; tokens aside, which transformers pads behind a stop token."""
    if want.step.shape != got.step.shape:
        return ["number of steps"]
    exact = ("prompt_ids", "canvas_index", "step", "canvas_in", "argmax", "accepted", "canvas_out")
    bad = [name for name in exact if not np.array_equal(getattr(want, name), getattr(got, name))]
    if not np.abs(want.temperature - got.temperature).max() < 1e-6:
        bad.append("temperature")
    if not np.abs(want.entropy - got.entropy).max() < ENTROPY:
        bad.append("entropy")
    return bad


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_transformers_replays_itself_and_we_replay_it(any_case: Case, prompt: str, seed: int) -> None:
    want = oracle(any_case.eager, prompt, seed)
    assert differences(want, oracle(any_case.sdpa, prompt, seed)) == []
    got = ours(any_case.model, prompt, seed)
    assert differences(want, got.trajectory) == []
    assert (got.stop_reason, got.steps, got.canvases) == ("length", len(want.step), CANVASES)
    last = [np.flatnonzero(want.canvas_index == c)[-1] for c in range(CANVASES)]
    assert list(got.tokens) == want.tokens.tolist() == np.concatenate([want.argmax[i] for i in last]).tolist()


def test_the_replay_exercises_the_sampler(any_case: Case) -> None:
    """The cases above accept several positions and not all of them, settle early where they should, and differ by seed."""
    runs = [oracle(any_case.eager, prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    accepted = np.concatenate([run.accepted.sum(1) for run in runs])
    steps = np.concatenate([np.bincount(run.canvas_index) for run in runs])
    assert ((accepted > 1) & (accepted < hf.CANVAS)).mean() > 0.5
    assert len({run.canvas_out.tobytes() for run in runs}) == len(runs)
    if any_case.settling:
        assert steps.min() > 1
        assert (steps < STEPS).mean() > 0.5
        assert len(set(steps.tolist())) > 2


def test_stop_tokens_end_both(case: Case) -> None:
    """A token that is committed in the second canvas serves as stop token: no third canvas, same committed tokens."""
    free = ours(case.model, "long", 1)
    first, second = free.tokens[: hf.CANVAS], free.tokens[hf.CANVAS : 2 * hf.CANVAS]
    stop = next(token for token in second[3:] if token not in first + second[:3])
    want = oracle(case.eager, "long", 1, stop)
    got = ours(case.model, "long", 1, eos=(stop,))
    assert differences(want, got.trajectory) == []
    assert (got.stop_reason, got.canvases) == ("stop", 2)
    committed = want.tokens.tolist()
    assert list(got.tokens) == committed[: committed.index(stop)]
    assert stop not in got.tokens


def off_by_one(self: SamplerConfig, remaining: int) -> float:
    return self.t_min + (self.t_max - self.t_min) * ((remaining - 1) / self.steps)


def test_a_schedule_off_by_one_fails(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    want = oracle(case.eager, "short", 0)
    monkeypatch.setattr(SamplerConfig, "temperature", off_by_one)
    assert differences(want, ours(case.model, "short", 0).trajectory)
    monkeypatch.undo()
    assert differences(want, ours(case.model, "short", 0).trajectory) == []


@pytest.mark.parametrize(
    "change",
    [{"entropy_bound": 2.0}, {"stability_threshold": 2}, {"confidence_threshold": 0.05}, {"t_max": 0.9}],
    ids=lambda c: next(iter(c)),
)
def test_another_sampler_fails(case: Case, change: dict[str, Any]) -> None:
    want = oracle(case.eager, "short", 0)
    assert differences(want, ours(case.model, "short", 0, dataclasses.replace(SAMPLER, **change)).trajectory)


def test_without_the_stop_rule_it_fails(case: Case) -> None:
    want = oracle(case.eager, "short", 0)
    fixed = ours(case.model, "short", 0, adaptive=False)
    assert differences(want, fixed.trajectory) == ["number of steps"]
    assert fixed.steps == STEPS * CANVASES


@pytest.mark.parametrize("noise", ["seed", "canvas", "row"])
def test_other_noise_fails(case: Case, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want = oracle(case.eager, "short", 0)
    words = eager.step_words
    if noise == "row":
        monkeypatch.setattr(eager, "step_words", lambda *a: words(*a)[::-1].copy())
    elif noise == "canvas":
        monkeypatch.setattr(eager, "step_words", lambda s, c, r, n: words(s, c, r + (c == 2), n))
    got = ours(case.model, "short", 1 if noise == "seed" else 0)
    assert differences(want, got.trajectory)


def test_a_damaged_model_fails(case: Case) -> None:
    want = oracle(case.eager, "long", 0)
    other = load(case.folder).model
    other.soft_embed = lambda tempered, top_k=None: torch.zeros(1, hf.CANVAS, other.config.hidden_size)  # type: ignore[method-assign,misc]
    assert differences(want, ours(other, "long", 0).trajectory)
