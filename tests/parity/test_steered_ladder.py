"""Generations under options drawn at random: every backend decides the same, and a backend that ignores an option is found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import micro_bundle
import numpy as np
import pytest

from dgemma.benchmarks.studies import same_options
from dgemma.core.guidance import Guidance
from dgemma.core.sampler_options import SamplerOptions
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.verify import options, tolerance
from dgemma.verify.backend import Backend
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.jax_backend import JaxBackend
from dgemma.verify.options import Steered, margin_of
from dgemma.verify.steer import OF_CANDIDATES, PLAIN, Steer, drawn
from dgemma.verify.torch_backend import TorchBackend

MOST = 2 * micro.N
NAMES = (*PLAIN, *OF_CANDIDATES, "guidance")
ENGINES = ("onnx", pytest.param("executorch", marks=pytest.mark.slow))
# What each option is called in `SamplerOptions`, where that is not its name.
FIELDS = {"greedy": "temperature", "lower_bound": "entropy_bound", "higher_bound": "entropy_bound", "table": "schedule"}


def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(micro_bundle.bundle("onnx"))


@pytest.fixture(scope="module")
def eager() -> TorchBackend:
    return TorchBackend(micro.model(), micro.POLICY, micro.N)


@pytest.fixture(scope="module")
def runs(eager: TorchBackend) -> list[tuple[int, int, Trajectory]]:
    return [(seed, MOST, eager.trajectory(micro.prompt(n), seed, MOST)) for seed, n in ((1, 11), (2, 24))]


def asked(count: int, bundle: Bundle, eager: TorchBackend, runs: list[tuple[int, int, Trajectory]]) -> list[Steered]:
    engine = EngineBackend(bundle, next(iter(bundle.manifest.graphs)), 1)
    return options.draw_all(count, bundle.manifest, [eager, engine], runs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("unoptimized_jax")
def test_all_backends_decide_the_same(engine: str, eager: TorchBackend, runs: list[tuple[int, int, Trajectory]]) -> None:
    bundle = Bundle.open(micro_bundle.bundle(engine))
    reference = JaxBackend(micro_bundle.checkpoint(), "float32", bundle.manifest)
    backends: list[Backend] = [reference, eager, EngineBackend(bundle, engine, 1)]
    steered = asked(24, bundle, eager, runs)
    assert sum(one.steer.guidance is not None for one in steered) >= 2
    found = options.compare(backends, [tolerance.SAME_FLOAT] * 3, steered, quietly)
    assert list(found) == ["reference float32", "torch", engine]
    assert found["reference float32"]["changed"] >= 20 and found["reference float32"]["against"] is None
    for name, above in (("torch", "reference float32"), (engine, "torch")):
        assert (found[name]["against"], found[name]["equal"], found[name]["differences"]) == (above, 24, [])
    assert found[engine]["fused"]["equal"] == found[engine]["fused"]["drawn"] >= 8
    assert [check["value"] for check in found[engine]["checks"]] == [0, 0]


class Deaf(TorchBackend):
    """Ignores an option."""

    ignored = ""

    def steered(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, steer: Steer) -> Trajectory:
        if self.ignored in ("ban", "min_tokens", "guidance"):
            deaf = replace(steer, **{self.ignored: Steer.__dataclass_fields__[self.ignored].default})
        else:
            deaf = replace(steer, sampler=replace(steer.sampler, **{FIELDS.get(self.ignored, self.ignored): None}))
        return super().steered(prompt_ids, seed, max_new_tokens, deaf)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_one_side_ignores_is_found_and_named(
    name: str, bundle: Bundle, eager: TorchBackend, runs: list[tuple[int, int, Trajectory]]
) -> None:
    number = NAMES.index(name)
    deaf = Deaf(eager.model, micro.POLICY, micro.N, name="deaf")
    deaf.ignored = name
    singles = asked(len(NAMES), bundle, eager, runs)
    chosen = [replace(singles[number], seed=seed) for seed in range(4)]
    found = options.compare([eager, deaf], [tolerance.SAME_FLOAT] * 2, chosen, quietly)["deaf"]
    assert found["checks"][0]["value"] >= 1 and not found["checks"][0]["passed"]
    field = FIELDS.get(name, name)
    assert all(f"{field} " in one["options"] for one in found["differences"])


def test_logits_of_guided_steps_are_those_that_decided(
    bundle: Bundle, eager: TorchBackend, runs: list[tuple[int, int, Trajectory]]
) -> None:
    prompts = ([7, 8, 9], None)
    for guidance in (Guidance(scale=2.5, negative=negative, steps=(2, micro.T)) for negative in prompts):
        steer, (seed, most, recorded) = Steer(guidance=guidance), runs[0]
        found = eager.steered(recorded.prompt_ids.tolist(), seed, most, steer)
        rows = range(len(found.step))
        told = [eager.steered_logits(found, row, steer).argmax(-1) for row in rows]
        np.testing.assert_array_equal(told, found.argmax)
        assert any(not np.array_equal(eager.logits(found, row).argmax(-1), found.argmax[row]) for row in rows)
    without = EngineBackend(bundle, "onnx", 1)
    assert not any(one.steer.guidance for one in options.draw_all(60, bundle.manifest, [without], runs))


@pytest.mark.usefixtures("unoptimized_jax")
def test_the_study_counts_options_and_fails_where_an_engine_ignores_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    given = [str(micro_bundle.bundle("onnx")), "--checkpoint", str(micro_bundle.checkpoint()), "--count", "4"]
    assert same_options.run([*given, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["backends"]) == ["reference float32", "torch", "onnx"] and found["generations"] == 4
    assert sum(found["drawn"].values()) >= 8 and found["backends"]["onnx"]["equal"] == 4
    steered = EngineBackend.steered

    def deaf(self: EngineBackend, ids: Sequence[int], seed: int, most: int, steer: Steer, loop: str = "host") -> Trajectory:
        return steered(self, ids, seed, most, Steer(), loop)

    monkeypatch.setattr(EngineBackend, "steered", deaf)
    assert same_options.run(given) == 1


def test_draws_have_each_option_alone_and_then_several(bundle: Bundle) -> None:
    ids = range(50, 200)
    alone = [drawn(i, bundle.manifest, ids, guidance=True) for i in range(len(NAMES))]
    assert all(FIELDS.get(name, name) in one.to_dict() for name, one in zip(NAMES, alone, strict=True))
    stops, guided = {"confidence", "stability"}, {"guidance", "negative", "guidance_steps"}
    assert all(len(keys := one.to_dict().keys()) == 1 or keys == stops or keys <= guided for one in alone)
    some = [drawn(i, bundle.manifest, ids) for i in range(200)]
    assert max(len(one.to_dict()) for one in some) >= 4 and len({str(one) for one in some}) > 150
    assert drawn(37, bundle.manifest, ids) == some[37] and {one.in_graph for one in some} == {True, False}
    plain = [drawn(i, bundle.manifest, ids, candidates=False) for i in range(60)]
    assert not any(one.ban or one.min_tokens or one.sampler.needs_candidates(micro.POLICY) for one in plain)


def _margin(rule: Any, probabilities: list[float], uniform: float, count: int = 4, **given: Any) -> float:
    logits = np.log(np.array(probabilities, np.float32))
    steer = Steer(sampler=SamplerOptions(**given))
    return margin_of(rule, logits, steer, 1.0, count, (), uniform)


def test_how_far_a_steered_decision_was_from_another() -> None:
    even = [0.4, 0.3, 0.2, 0.06, 0.04]
    assert _margin("sample", even, 0.69) == pytest.approx(0.01, abs=1e-6)  # 0.7 is the border between the second and the third
    assert _margin("sample", even, 0.5, top_k=2) == pytest.approx(4 / 7 - 0.5, abs=1e-6)
    assert _margin("sample", even, 0.2, top_p=0.699) == pytest.approx(0.001, abs=1e-6)  # the third is all but cut
    assert _margin("sample", even, 0.2, min_p=0.501) == pytest.approx(0.0004, abs=1e-6)  # 0.2 of 0.4 is all but kept
    assert _margin("sample", [0.3, 0.25, 0.25, 0.2], 0.4, top_k=2) == pytest.approx(0.0, abs=1e-6)  # another second
    assert _margin("argmax", even, 0.5) == pytest.approx(np.log(4 / 3), abs=1e-6)
    assert _margin("argmax", even, 0.5, logit_bias={1: np.log(4 / 3)}) == pytest.approx(0.0, abs=1e-6)
    assert _margin("argmax", even, 0.5, logit_bias={0: -np.inf}) == pytest.approx(np.log(1.5), abs=1e-6)
    tied = [0.5, 0.2, 0.1, 0.1, 0.1]  # which of the last three are candidates, rounding decides; it matters where one is lifted
    assert _margin("argmax", tied, 0.5, count=3, logit_bias={2: 1.0}) == pytest.approx(0.0, abs=1e-6)
