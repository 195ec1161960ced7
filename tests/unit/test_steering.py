"""Cut draws, biases, bounds and log-probabilities in sessions over a micro model, beside the naive twin with all logits."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import torch
from eager_engine import eager_session

from dgemma.core.errors import UsageError
from dgemma.core.sampler import CANDIDATE_OUTPUTS, CANDIDATES
from dgemma.core.sampler_options import SamplerOptions
from dgemma.model.generate import generate
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

PROMPT = micro.prompt(9)
MOST = 2 * micro.N
ROWS = ("step", "argmax", "accepted", "canvas_out", "tokens")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with eager_session(tmp_path_factory.mktemp("eager") / "b") as opened:
        yield opened


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Of a model whose likeliest id is everywhere a stop token."""
    with eager_session(tmp_path_factory.mktemp("ending") / "b") as opened:
        engine: Any = opened._engine
        call, stop = engine._call, micro.CONFIG.eos_token_ids[0]

        def ends(graph: str, feeds: Any) -> Any:
            names = [spec.name for spec in engine.bundle.graph("onnx", graph).outputs]
            out = dict(zip(names, call(graph, feeds), strict=True))
            if "likeliest" in out:
                others = out["likeliest"] == stop
                out["likeliest"] = np.where(others, out["likeliest"][..., :1], out["likeliest"])  # it takes the first's place
                out["likeliest"][..., 0], out["argmax"][...] = stop, stop
            return [out[name] for name in names]

        engine._call = ends
        yield opened


def run(session: Session, seed: int = 0, **options: Any) -> Result:
    session.reset()
    return session.generate(PROMPT, max_new_tokens=MOST, seed=seed, trace=True, **options)


def same(session: Session, seed: int, options: dict[str, Any], twin: dict[str, Any] | None = None) -> bool:
    """Whether the session and the twin, with other options where they are given, make one trajectory."""
    given = dict(options if twin is None else twin)
    least = given.pop("min_tokens", 0)
    wanted = SamplerOptions(**given)
    found = run(session, seed, **options).trajectory
    other = generate(
        micro.model(), micro.POLICY, PROMPT, seed=seed, max_new_tokens=MOST, options=wanted, min_tokens=least
    ).trajectory
    return found is not None and all(np.array_equal(getattr(found, name), getattr(other, name)) for name in ROWS)


def drawn_options(seed: int) -> dict[str, Any]:
    """Some options at random."""
    random.seed(seed)
    bans = dict.fromkeys(random.sample(range(micro.VOCAB), 40), -math.inf)
    lifts = {i: random.choice([-4.0, 3.0]) for i in random.sample(range(micro.VOCAB), 60)}
    every = {
        "top_k": random.choice([1, 2, 5, 16]),
        "top_p": random.choice([0.2, 0.6, 0.95]),
        "min_p": random.choice([0.01, 0.1, 0.9]),
        "logit_bias": random.choice([bans, lifts]),
        "entropy_bound": random.choice([0.5, 4.0, 20.0, 1000.0, "20:0.5"]),
        "temperature": random.choice(["0.8:0.4", "1.5:1", "0"]),
        "max_steps": random.choice([2, 4]),
        "schedule": "cosine",
        "min_tokens": random.choice([1, 5, micro.N + 3, MOST]),
    }
    return {name: every[name] for name in random.sample(sorted(every), random.choice([1, 2, 4]))}


@pytest.mark.parametrize("seed", range(24))
def test_sessions_agree_with_the_naive_twin(session: Session, seed: int) -> None:
    options = drawn_options(seed)
    assert same(session, seed, options), options


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"top_k": 5}, {"top_k": 4}),
        ({"top_p": 0.6}, {"top_p": 0.5}),
        ({"min_p": 0.1}, {"min_p": 0.2}),
        ({"entropy_bound": 20.0}, {"entropy_bound": 4.0}),
        ({"entropy_bound": "20:0.5", "schedule": "cosine"}, {"entropy_bound": "20:0.5"}),
        ({"temperature": "2:0.2", "schedule": "cosine"}, {"temperature": "2:0.2"}),
        ({"schedule": {"temperature": [1, 0.2, 1]}}, {"schedule": {"temperature": [1, 1, 0.2]}}),
        ({"logit_bias": dict.fromkeys(range(0, 300, 7), 3.0)}, {"logit_bias": dict.fromkeys(range(0, 300, 7), 2.0)}),
    ],
    ids=str,
)
def test_the_comparison_notices_other_options(session: Session, options: dict[str, Any], other: dict[str, Any]) -> None:
    assert all(same(session, seed, options) for seed in range(3))
    assert not all(same(session, seed, options, other) for seed in range(3))


def test_what_changes_nothing_changes_nothing(session: Session) -> None:
    """Candidates that are asked for alone, the bundle's own bound, a bias of 0, and rules that keep all."""
    plain = run(session).trajectory
    assert plain is not None
    for options in ({"logprobs": 3}, {"entropy_bound": micro.POLICY.entropy_bound}, {"logit_bias": {5: 0.0}}):
        found = run(session, **options).trajectory
        assert found is not None and all(np.array_equal(getattr(found, name), getattr(plain, name)) for name in ROWS)
    other = run(session, top_k=2).trajectory
    assert other is not None and not np.array_equal(other.canvas_out, plain.canvas_out)


@pytest.mark.parametrize("compute", [{}, {"early_commit": 0.2}, {"start_width": 4}], ids=str)
def test_a_cut_to_one_draws_the_likeliest(session: Session, compute: dict[str, Any]) -> None:
    plain, cut = (run(session, temperature=2, entropy_bound=1000.0, **o, **compute).trajectory for o in ({}, {"top_k": 1}))
    assert plain is not None and cut is not None and cut.accepted.any()
    assert (cut.canvas_out == cut.argmax)[cut.accepted].all()
    assert (plain.canvas_out != plain.argmax)[plain.accepted].any()


def test_banned_ids_never_come_up(session: Session) -> None:
    tokens = set(run(session).tokens)
    found = run(session, ban=sorted(tokens))
    assert tokens.isdisjoint(found.tokens) and found.tokens
    assert found.tokens == run(session, logit_bias=dict.fromkeys(tokens, -math.inf)).tokens


@pytest.mark.parametrize("least", [1, micro.N - 1, micro.N, micro.N + 1, MOST])
@pytest.mark.parametrize("compute", [{}, {"early_commit": 0.2}, {"start_width": 4}], ids=str)
def test_answers_have_their_least_length(ending: Session, least: int, compute: dict[str, Any]) -> None:
    """Exact across canvases, for a model that would end at once."""
    ends = {*micro.CONFIG.eos_token_ids, micro.CONFIG.pad_token_id}
    plain = run(ending, **compute)
    assert len(plain.tokens) == 0 and plain.stop_reason == "stop"
    found = run(ending, min_tokens=least, **compute)
    assert len(found.tokens) == least and not ends & set(found.tokens)  # the model ends it as soon as it may
    cut = run(ending, min_tokens=least, ban=list(range(7, 300)), **compute)
    assert len(cut.tokens) >= least and not (ends | set(range(7, 300))) & set(cut.tokens[:least])


def test_a_least_length_that_cannot_be_is_refused(session: Session, tmp_path: Path) -> None:
    pad, stops = micro.CONFIG.pad_token_id, micro.CONFIG.eos_token_ids
    for options, says in (
        ({"min_tokens": -1}, "min_tokens -1 must be an integer from 0 to max_new_tokens, 256"),
        ({"min_tokens": 9, "max_new_tokens": 8}, "min_tokens 9 must be an integer from 0 to max_new_tokens, 8"),
        ({"min_tokens": 2, "loop": "graph"}, "min_tokens needs decoder diffusion and loop host"),
        ({"min_tokens": 2, "decoder": "autoregressive"}, "min_tokens needs decoder diffusion"),
        ({"min_tokens": 2, "speculate": True}, "min_tokens cannot be combined with speculate, which can end it sooner"),
        ({"min_tokens": 2, "ban": [i for i in range(300) if i not in (pad, *stops)]}, "leaves only banned ids"),
    ):
        with pytest.raises(UsageError, match=says):
            session.generate(PROMPT, **options)  # type: ignore[arg-type]
    with (
        eager_session(tmp_path / "old", without=CANDIDATE_OUTPUTS) as old,
        pytest.raises(UsageError, match="was exported before min_tokens was supported"),
    ):
        old.generate(PROMPT, min_tokens=2)


def test_where_all_candidates_are_banned_stands_padding(session: Session) -> None:
    pad, stops = micro.CONFIG.pad_token_id, set(micro.CONFIG.eos_token_ids)
    allowed = {pad, 299} - stops
    nearly = run(session, ban=[i for i in range(300) if i not in allowed], logprobs=0)
    assert set(nearly.tokens) <= allowed and pad in nearly.tokens
    assert {one.logprob for one in nearly.logprobs if one.token == pad} & {-math.inf}
    assert nearly.to_dict()["score"] is None
    first = run(session, ban=[pad, *range(7, 300)])
    assert set(first.tokens) <= set(range(7)) - {pad}


@pytest.mark.parametrize("compute", [{}, {"early_commit": 0.2}], ids=str)
def test_log_probabilities_are_those_of_the_last_step(session: Session, compute: dict[str, Any]) -> None:
    result = run(session, logprobs=5, **compute)
    assert [one.token for one in result.logprobs] == list(result.tokens) and result.score is not None
    assert result.score == pytest.approx(sum(one.logprob for one in result.logprobs))
    for one, entropy in zip(result.logprobs, result.entropies, strict=True):
        values = [value for _, value in one.top]
        assert len(one.top) == 5 and one.top[0] == (one.token, one.logprob) and values == sorted(values, reverse=True)
        assert -entropy - 1e-3 <= one.logprob <= 1e-6  # the likeliest has at least e^-H
    plain = result.to_dict()
    assert plain["logprobs"][0] == {
        "id": result.tokens[0], "logprob": result.logprobs[0].logprob, "top": [list(pair) for pair in result.logprobs[0].top]
    }  # fmt: skip
    assert "logprobs" not in run(session).to_dict() and run(session).score is None


def test_they_are_the_logits_softmax(session: Session) -> None:
    result = run(session, logprobs=2)
    trajectory = result.trajectory
    assert trajectory is not None
    last = int(np.flatnonzero(trajectory.canvas_index == 0)[-1])
    model, soft = micro.model(), torch.zeros(1, micro.N, 32)
    prefix = micro.prefix(model, 9, 9)
    with torch.no_grad():
        for row in range(last + 1):
            logits = model.denoise(torch.from_numpy(trajectory.canvas_in[row])[None], soft, prefix, 9)
            tempered = logits / float(trajectory.temperature[row])
            soft = model.soft_embed(tempered, None)
    wanted = tempered.log_softmax(-1)[0]
    for i, one in enumerate(result.logprobs[: micro.N]):
        assert one.logprob == pytest.approx(float(wanted[i, one.token]), abs=1e-4)
        assert [v for _, v in one.top] == pytest.approx(wanted[i].topk(2).values.tolist(), abs=1e-4)
    assert abs(float((logits / 2).log_softmax(-1)[0, 0, result.tokens[0]]) - result.logprobs[0].logprob) > 1e-4


def test_what_a_bundle_cannot_do_is_refused(session: Session, tmp_path: Path) -> None:
    for options, says in (
        ({"top_k": CANDIDATES + 1}, "top_k 17 must be at most 16, the likeliest ids that a step of this bundle gives"),
        ({"logprobs": 17}, "logprobs 17 must be at most 16"),
        ({"logprobs": 1, "temperature": 0}, "certain at temperature 0; give a higher one"),
        ({"logit_bias": {300: 1.0}}, "id 300 is outside the vocabulary of 300"),
        ({"ban": [300]}, "id 300 is outside"),
        ({"ban": list(range(300))}, "bans every id"),
        (
            {"ban": 5, "loop": "graph"},
            "logit_bias cannot be combined with loop graph: graph 'generate' returns no candidates; use host",
        ),
        ({"top_p": 0.5, "loop": "graph"}, "top_p cannot be combined with loop graph"),
        ({"logprobs": 1, "loop": "graph"}, "logprobs needs decoder diffusion and loop host"),
        ({"logprobs": 1, "decoder": "autoregressive"}, "logprobs needs decoder diffusion"),
        ({"logprobs": 1, "speculate": True}, "logprobs cannot be combined with speculate"),
        ({"ban": 5, "speculate": True}, "ban cannot be combined with speculate, whose tokens come from greedy decoding"),
        ({"logit_bias": {5: 1.0}, "fallback": "autoregressive"}, "logit_bias cannot be combined with fallback, whose"),
        ({"ban": 5, "decoder": "autoregressive"}, "ban needs decoder diffusion"),
        ({"min_p": 0.5, "decoder": "autoregressive"}, "min_p needs decoder diffusion"),
        ({"ban": "x"}, None),
    ):
        with pytest.raises(Exception, match=says or "ban 'x' cannot be read, for .* has no tokenizer; give ids"):
            session.generate(PROMPT, **options)  # type: ignore[arg-type]
    with eager_session(tmp_path / "old", without=CANDIDATE_OUTPUTS) as old:
        assert old.generate(PROMPT, max_new_tokens=MOST).tokens == run(session).tokens
        assert old.generate(PROMPT, entropy_bound=0.5, temperature=0.6).steps
        for given in (
            {"top_k": 2},
            {"top_p": 0.5},
            {"min_p": 0.5},
            {"logit_bias": {5: 1.0}},
            {"entropy_bound": 9.0},
            {"logprobs": 0},
        ):
            name = next(iter(given))
            with pytest.raises(UsageError, match=f"was exported before {name} was supported; export it again"):
                old.generate(PROMPT, **given)


def test_soft_embeddings_of_more_ids_give_more_candidates(tmp_path: Path) -> None:
    with eager_session(tmp_path / "b", replace(micro.POLICY, soft="topk:20")) as session:
        assert len(run(session, top_k=20, logprobs=20).logprobs[0].top) == 20


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"top_k": 0}, "top_k 0 must be an integer, 1 or more"),
        ({"top_p": 0}, "top_p 0 must be a number above 0 and at most 1"),
        ({"min_p": 1.5}, "min_p 1.5 must be a number above 0"),
        ({"logit_bias": "abc"}, "logit_bias abc must be ids with numbers"),
        ({"logit_bias": {"a": 1}}, "id 'a' must be an integer"),
        ({"logit_bias": {1: math.inf}}, "of id 1: inf must be a number from"),
        ({"logit_bias": {1: math.nan}}, "of id 1: nan must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SamplerOptions(**wrong)


def test_a_bias_becomes_pairs() -> None:
    assert SamplerOptions(logit_bias={7: 1, 3: -2.5, 4: 0}).bias == ((3, -2.5), (7, 1.0))
    assert SamplerOptions(logit_bias={}).given == () == SamplerOptions(logit_bias={4: 0}).given
    assert replace(SamplerOptions(logit_bias=[(3, 1)]), top_k=2).bias == ((3, 1.0),)
