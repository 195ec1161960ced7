"""Guided generations: an engine's host loop and the naive twin in PyTorch, which has all logits, give one trajectory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import micro
import micro_bundle
import numpy as np
import pytest

from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.guidance import Guidance
from dgemma.core.manifest import Manifest
from dgemma.core.sampler_options import SamplerOptions
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.runtime.generator import Generator
from dgemma.runtime.session import Session

ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
ROWS = ("step", "argmax", "accepted", "canvas_out", "tokens")
NEGATIVE = micro.prompt(30)[::-1]
GUIDED = {
    "another prompt": Guidance(scale=1.7, negative=NEGATIVE),
    "towards the other": Guidance(scale=0.3, negative=NEGATIVE),
    "two steps": Guidance(scale=3.0, negative=NEGATIVE, steps=(2, 3)),
    "less self-conditioning": Guidance(scale=2.0),
}


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return checkpoint.load(micro_bundle.checkpoint()).model


@pytest.fixture(params=ENGINES)
def session(request: pytest.FixtureRequest) -> Any:
    with Session.load(micro_bundle.bundle(request.param), engine=request.param, threads=1) as opened:
        yield opened


def found(session: Session, seed: int, guidance: Guidance | None, **more: Any) -> Any:
    session.reset()
    guided = {} if guidance is None else {"guidance": guidance.scale, "negative": guidance.negative}
    if guidance is not None and guidance.steps is not None:
        guided["guidance_steps"] = tuple(guidance.steps)  # type: ignore[assignment]
    result = session.generate(micro.prompt(9 + seed), seed=seed, max_new_tokens=40, trace=True, **guided, **more)
    return result


@pytest.mark.parametrize("name", GUIDED)
def test_the_host_loop_agrees_with_the_naive_twin(name: str, session: Session, model: Denoiser) -> None:
    guidance, changed = GUIDED[name], 0
    for seed in range(4):
        mine = found(session, seed, guidance).trajectory
        given = {"seed": seed, "max_new_tokens": 40, "negative_ids": NEGATIVE if guidance.negative else ()}
        wanted, plain, other = (
            generate(model, micro.POLICY, micro.prompt(9 + seed), guidance=one, **given).trajectory  # type: ignore[arg-type]
            for one in (guidance, None, replace(guidance, scale=guidance.scale + 1.5))
        )
        for row in ROWS:
            np.testing.assert_array_equal(getattr(mine, row), getattr(wanted, row), err_msg=f"{row} {seed}")
        changed += not np.array_equal(mine.canvas_out, plain.canvas_out)
        changed += not np.array_equal(mine.canvas_out, other.canvas_out)
    assert changed >= 6, "guidance, or its scale, hardly changes anything"


def test_a_scale_of_1_is_the_plain_loop_and_costs_nothing(session: Session) -> None:
    guided = found(session, 1, Guidance(scale=1.0, negative=NEGATIVE))
    plain = found(session, 1, None)
    np.testing.assert_array_equal(guided.trajectory.canvas_out, plain.trajectory.canvas_out)
    np.testing.assert_array_equal(guided.trajectory.entropy, plain.trajectory.entropy)
    assert guided.steps == plain.steps and guided.position_forwards == plain.position_forwards


def test_a_negative_prompt_that_is_too_long_leaves_the_prefix_alone(session: Session) -> None:
    found(session, 1, None)
    before = session.prefix_ids
    with pytest.raises(PromptTooLong, match=f"negative of {micro.CONTEXT} tokens leaves no room for {micro.N} more"):
        session.generate([1], continue_=True, guidance=2, negative=micro.prompt(micro.CONTEXT))
    assert session.prefix_ids == before


def test_the_second_pass_is_counted(session: Session) -> None:
    plain = found(session, 2, None, adaptive=False)
    guided = found(session, 2, Guidance(scale=1.2, negative=NEGATIVE), adaptive=False)
    both = 2 * micro.N * guided.steps
    assert both <= guided.position_forwards <= both + 2 * guided.canvases * micro.N
    assert guided.prefill_position_forwards == plain.prefill_position_forwards + len(NEGATIVE)


def test_options_of_the_sampler_go_with_it(session: Session, model: Denoiser) -> None:
    guidance, options = GUIDED["another prompt"], {"top_k": 3, "temperature": "1.2:0.4"}
    mine = found(session, 3, guidance, **options).trajectory
    wanted = generate(
        model, micro.POLICY, micro.prompt(12), seed=3, max_new_tokens=40, guidance=guidance, negative_ids=NEGATIVE,
        options=SamplerOptions(**options),  # type: ignore[arg-type]
    ).trajectory  # fmt: skip
    for row in ROWS:
        np.testing.assert_array_equal(getattr(mine, row), getattr(wanted, row), err_msg=row)


def test_a_bundle_without_the_graph_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = session.engine
    graphs = {name: spec for name, spec in session.manifest.graphs[engine].items() if name != "denoise_guided"}
    old: Manifest = replace(session.manifest, graphs={engine: graphs})
    generator: Generator = session._generator
    monkeypatch.setattr(generator, "_manifest", old)
    with pytest.raises(UsageError, match=f"guidance: this bundle has no 'denoise_guided' for {engine}; use engine onnx"):
        found(session, 0, GUIDED["less self-conditioning"])
