"""android_demo/same_tokens.py without Java: what it asks for, what it counts as a difference, what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_bundle import BOS, START, fake_session
from program import load

from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.sampler import SamplerConfig

ROOT = Path(__file__).parents[2]
LONG = list(range(200, 240))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load(ROOT / "android_demo" / "same_tokens.py")


@pytest.fixture
def answer(tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """A judge and one answer as a worker prints it."""
    session = fake_session(tmp_path / "b", LONG)
    result = session.generate([BOS, 50, START], trace=True)
    assert result.trajectory is not None
    arrays = {name: array.tolist() for name, array in result.trajectory.arrays().items()}
    judge = SimpleNamespace(bundle=session.bundle, sampler=SamplerConfig(steps=6), logits=None)
    found: dict[str, Any] = json.loads(json.dumps({**result.to_dict(), "trajectory": arrays}))
    return judge, found


ASKED = {"prompt": "p", "seed": 0, "loop": "host", "continue": False}


def test_equal_answers_are_equal(script: ModuleType, answer: tuple[Any, dict[str, Any]]) -> None:
    judge, a = answer
    tally = script.Tally()
    script.compare(tally, judge, ASKED, a, copy.deepcopy(a))
    assert (tally.compared, tally.equal, tally.same_answers, tally.canvases, tally.equal_canvases) == (1, 1, 1, 3, 3)
    assert tally.differences == [] and tally.entropy_error == 0.0


@pytest.mark.parametrize(
    ("name", "rule"),
    [("argmax", "argmax"), ("accepted", "accept"), ("canvas_out", "host"), ("prompt_ids", "prompt"), ("tokens", "host"),
     ("text", "result"), ("stop_reason", "result"), ("steps", "result")],
)  # fmt: skip
def test_one_changed_value_is_a_difference(
    script: ModuleType, answer: tuple[Any, dict[str, Any]], name: str, rule: str
) -> None:
    judge, a = answer
    b = copy.deepcopy(a)
    if name in ("text", "stop_reason", "steps"):
        b[name] = "other"
    elif name in ("prompt_ids", "tokens"):
        b["trajectory"][name][0] += 1
    else:
        row = b["trajectory"][name][0]
        at = a["trajectory"]["accepted"][0].index(False)
        row[at] = not row[at] if name == "accepted" else row[at] + 1
    tally = script.Tally()
    script.compare(tally, judge, ASKED, a, b)
    assert tally.equal == 0
    assert [d["rule"] for d in tally.differences] == [rule]


def test_requests_cover_loops_seeds_turns_and_fixed_steps(script: ModuleType, tmp_path: Path) -> None:
    bundle = fake_session(tmp_path / "b", LONG).bundle
    everything = script.requests_of(bundle, [f"prompt {i}" for i in range(20)], script.SEEDS[:2])
    asked = [one for one in everything if "sampler" not in one]
    assert {(one["loop"], one["seed"]) for one in asked} == {(loop, s) for loop in ("host", "graph") for s in (0, 2**64 - 1)}
    assert sum(one["continue"] for one in asked) == 2 * 2 * 5 and sum(not one["adaptive"] for one in asked) == 2 * 2 * 2
    follow = next(i for i, one in enumerate(asked) if one["continue"])
    assert asked[follow]["prompt"] != asked[follow - 1]["prompt"]
    assert len(everything) - len(asked) == 20


def test_requests_hold_options_that_python_takes(script: ModuleType, tmp_path: Path) -> None:
    bundle = fake_session(tmp_path / "b", LONG).bundle
    drawn = [script.random_options(number, bundle) for number in range(100)]
    assert drawn[7] == script.random_options(7, bundle)
    names = {name for one in drawn for name in (*one, *one["sampler"])}
    assert names >= {"stop", "logprobs", "logit_bias", "temperature", "max_steps", "top_k", "stability"}
    for one in drawn:
        options = GenerateOptions.of(**script.keywords_of(json.loads(json.dumps(one))))
        assert len(options.sampler.given) == len(one["sampler"])


def test_other_log_probabilities_are_a_difference(script: ModuleType) -> None:
    one = {"id": 3, "logprob": -0.5, "top": [[3, -0.5], [4, -1.0]]}
    assert script.same_logprobs([one], [copy.deepcopy(one)]) and script.same_logprobs([], [])
    for other in ({**one, "id": 4}, {**one, "logprob": -0.6}, {**one, "logprob": None}, {**one, "top": one["top"][:1]}):
        assert not script.same_logprobs([one], [other])
    assert not script.same_logprobs([one], [])


def test_bad_input_is_said_in_one_line(script: ModuleType, tmp_path: Path) -> None:
    assert script.pinned_version() in (ROOT / "android_demo" / "pom.xml").read_text(encoding="utf-8")
    for argv in (["b", "--jar", str(tmp_path / "none.jar")], ["b", "--count", "0"], ["b", "--seeds", "9"]):
        with pytest.raises(UsageError) as error:
            script.arguments(argv)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="does not hold onnxruntime"):
        script.python_engine(script.pinned_version(), tmp_path)
