"""Generations under options drawn at random: an engine's host loop and the naive twin in PyTorch give one trajectory."""

from __future__ import annotations

import math
import random
from typing import Any

import micro
import micro_bundle
import numpy as np
import pytest

from dgemma.core.errors import UsageError
from dgemma.core.sampler_options import SamplerOptions
from dgemma.model import checkpoint
from dgemma.model.generate import generate
from dgemma.runtime.session import Session

ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
ROWS = ("step", "argmax", "accepted", "canvas_out", "tokens")


def drawn(seed: int) -> dict[str, Any]:
    random.seed(seed)
    bias = {i: random.choice([-math.inf, -4.0, 3.0]) for i in random.sample(range(micro.VOCAB), 60)}
    every = {
        "top_k": random.choice([1, 3, 16]),
        "top_p": random.choice([0.3, 0.9]),
        "min_p": random.choice([0.02, 0.3]),
        "logit_bias": bias,
        "entropy_bound": random.choice([0.5, 20.0, 1000.0]),
        "temperature": random.choice(["1.5:1", "0"]),
        "schedule": "cosine",
    }
    return {name: every[name] for name in random.sample(sorted(every), random.choice([1, 2, 3]))}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_fused_graph_takes_what_the_host_loop_takes(engine: str) -> None:
    """Temperatures, bounds, steps and stop rule are its inputs; the step that it is made of has others built in."""
    model, missed = checkpoint.load(micro_bundle.checkpoint()).model, 0
    with Session.load(micro_bundle.bundle(engine), engine=engine, threads=1) as session:
        for seed in range(12):
            random.seed(seed)
            every: dict[str, Any] = {
                "temperature": random.choice(["1.5:1", "0", "0.3"]),
                "entropy_bound": random.choice([0.5, "20:1", 1000.0]),
                "schedule": "cosine",
                "max_steps": random.choice([1, 2, 3]),
                "stability": random.choice([0, 2]),
                "confidence": random.choice([1e-4, 3.0]),
            }
            options = {name: every[name] for name in random.sample(sorted(every), random.choice([1, 2, 3]))}
            prompt = micro.prompt(5 + seed)
            found = []
            for own in ({"loop": "graph"}, {"loop": "host"}):
                session.reset()
                found.append(session.generate(prompt, max_new_tokens=32, seed=seed, trace=True, **own, **options).trajectory)
            wanted, plain = (
                generate(model, micro.POLICY, prompt, seed=seed, max_new_tokens=32, options=SamplerOptions(**o)).trajectory
                for o in (options, {})
            )
            for name in (*ROWS, "temperature"):
                for trajectory in found:
                    assert trajectory is not None
                    np.testing.assert_array_equal(getattr(trajectory, name), getattr(wanted, name), err_msg=f"{name} {options}")
            missed += not np.array_equal(wanted.canvas_out, plain.canvas_out)
        with pytest.raises(
            UsageError, match="top_k cannot be combined with loop graph: graph 'generate' returns no candidates"
        ):
            session.generate([], top_k=2, loop="graph")
    assert missed > 8, "options hardly change anything"


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_with_the_naive_twin(engine: str) -> None:
    model, missed = checkpoint.load(micro_bundle.checkpoint()).model, 0
    with Session.load(micro_bundle.bundle(engine), engine=engine, threads=1) as session:
        for seed in range(16):
            options = drawn(seed)
            prompt = micro.prompt(5 + seed)
            session.reset()
            found = session.generate(prompt, max_new_tokens=32, seed=seed, trace=True, **options).trajectory
            assert found is not None
            wanted, plain = (
                generate(model, micro.POLICY, prompt, seed=seed, max_new_tokens=32, options=SamplerOptions(**o)).trajectory
                for o in (options, {})
            )
            for name in ROWS:
                np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=f"{name} {options}")
            missed += not np.array_equal(found.canvas_out, plain.canvas_out)
    assert missed > 12, "options hardly change anything"
