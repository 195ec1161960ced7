"""`dgemma tune` on a toy: it finds what costs less, keeps halves apart, goes on where it was, and refuses losses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, write_bundle

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.eval.run import Question
from dgemma.benchmarks.tune import run as tune_module
from dgemma.benchmarks.tune.run import PROFILE, RESULT, Asked, TuneRequest, tune
from dgemma.benchmarks.tune.score import FORWARDS, SPEED, Score, fewest
from dgemma.benchmarks.tune.space import Space
from dgemma.core.errors import UsageError
from dgemma.core.profile import read_profile
from dgemma.core.sampler_options import SamplerOptions
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

pytest.importorskip("optuna")
LOOSE = 0.01  # nats of mean entropy; the toy is at 0 once it has settled


def questions(count: int, tasks: int = 2) -> list[Question]:
    item = [EvalItem(task=f"t{i % tasks}", prompt=f"p{i}", answer="x") for i in range(count)]
    return [Question(file=0, index=i, item=one, prompt=one.prompt) for i, one in enumerate(item)]


def test_halves_share_nothing_and_hold_every_task() -> None:
    asked = Asked.of(questions(21, 3), seed=1)
    halves = [{q.index for q in half} for half in (asked.tuning, asked.held_out)]
    assert halves[0] | halves[1] == set(range(21)) and not halves[0] & halves[1]
    assert all({q.item.task for q in half} == {"t0", "t1", "t2"} for half in (asked.tuning, asked.held_out))
    assert {q.index for q in Asked.of(questions(21, 3), seed=2).tuning} != halves[0]
    with pytest.raises(UsageError, match="--task has too few questions"):
        Asked.of(questions(1), seed=0)


def test_so_few_that_nothing_can_be_shown_are_refused() -> None:
    assert fewest(0.02) == 133 and fewest(0.2) == 11 and fewest(1) == 0
    Asked.of(questions(266), seed=0).check(0.02)
    with pytest.raises(
        UsageError, match=r"--task has 265 questions, too few .* no answer changes; give 266 or more, or a larger"
    ):
        Asked.of(questions(265), seed=0).check(0.02)


def test_scores_are_paired_and_one_sided() -> None:
    stock = Score(right=[True] * 10, position_forwards=[8] * 10, tokens=[2] * 10, seconds=[1.0] * 10)
    own = Score(right=[True] * 9 + [False], position_forwards=[4] * 10, tokens=[2] * 10, seconds=[3.0] * 10)
    assert own.cost(FORWARDS) == 4 and own.cost(SPEED) == 1.5
    value, low, high = own.difference(stock)
    assert value == pytest.approx(-0.1) and low < -0.1 - 1.6449 * 0.0949 and high > 0
    assert own.first(9).difference(stock.first(9)) == pytest.approx((0, -0.2311, 0.2311), abs=1e-4)  # z² / (n + z²)
    figures = own.against(stock)
    assert figures["ratio"]["value"] == 0.5 and figures["exact"] == 0.9 and figures["stock_exact"] == 1


class Draws:
    """The largest of everything, as an optimiser might draw it."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[-1]


def test_the_space_asks_for_nothing_that_the_bundle_lacks() -> None:
    old = Space(canvas=64, entropy_bound=0.1, has_candidates=False, has_active=False).draw(Draws())
    assert old["entropy_bound"] == 0.1 and "start_width" not in old
    new = Space(canvas=64, entropy_bound=0.1, has_candidates=True, has_active=True).draw(Draws())
    assert new["entropy_bound"] == 10 and new["start_width"] == 16 and new["recheck"] is True
    SamplerOptions(**{name: new[name] for name in ("temperature", "schedule", "entropy_bound", "confidence", "stability")})


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A toy bundle, whose answers are right unless its canvases may end while they are far from certain."""
    path = write_bundle(tmp_path / "b")

    def load(*_: Any, **__: Any) -> Session:
        opened = Bundle.open(path)
        return Session(opened, FakeEngine(opened, [200, 201, 202]))

    def judged(session: Session, question: Question, decoder: str, options: Any) -> Any:
        row = real(session, question, decoder, options)
        return type(row)(**{**vars(row), "right": (options.sampler.confidence or 0) < LOOSE})

    real = tune_module.answer
    monkeypatch.setattr(Session, "load", load)
    monkeypatch.setattr(tune_module, "answer", judged)
    yield path


def task(tmp_path: Path, count: int = 24) -> Path:
    path = tmp_path / "task.jsonl"
    lines = [json.dumps({"task": "t", "prompt": f"Say {i}.", "answer": "x"}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def request(bundle: Path, tmp_path: Path, **changes: Any) -> TuneRequest:
    given: dict[str, Any] = {"bundle": bundle, "tasks": (task(tmp_path),), "out": tmp_path / "out", "trials": 16}
    return TuneRequest(**given | {"max_new_tokens": 16, "margin": 0.2} | changes)


def test_it_finds_a_profile_and_goes_on(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    drawn: list[dict[str, Any]] = []
    draw = Space.draw
    monkeypatch.setattr(Space, "draw", lambda self, trial: drawn.append(draw(self, trial)) or drawn[-1])  # type: ignore[func-returns-value]
    result, _ = tune(request(bundle, tmp_path, trials=5), said.append)
    assert result["trials"] == 5 == len(drawn)
    result, holds = tune(request(bundle, tmp_path), said.append)
    assert result["trials"] == 16 == len(drawn) and "continuing after 5 trials" in said
    assert len({json.dumps(one) for one in drawn}) == 16  # what is drawn after a stop is not drawn again
    assert holds and result["options"]["confidence"] < LOOSE < max(one["confidence"] for one in drawn)  # which loses
    assert result["held_out"]["n"] == result["tuning"]["n"] == 12 and result["held_out"]["ratio"]["value"] < 1
    profile = read_profile(tmp_path / "out" / PROFILE)
    assert profile.options == result["options"] and profile.bundle == Bundle.open(bundle).digest
    assert profile.evidence["held_out"] == result["held_out"]
    assert json.loads((tmp_path / "out" / RESULT).read_text()) == json.loads(json.dumps(result))
    again, _ = tune(request(bundle, tmp_path), said.append)
    assert again["options"] == result["options"] and len(drawn) == 16


def test_where_all_lose_there_is_no_profile(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Space.draw
    monkeypatch.setattr(Space, "draw", lambda self, trial: draw(self, trial) | {"confidence": 1.0})
    result, holds = tune(request(bundle, tmp_path, trials=3), lambda _: None)
    assert not holds and result["options"] is None and not (tmp_path / "out" / PROFILE).exists()


def test_what_cannot_be_is_refused(bundle: Path, tmp_path: Path) -> None:
    for changes, says in (
        ({"objective": "x"}, "--objective 'x' is unknown; choose one of forwards, tokens-per-second"),
        ({"trials": 0}, "trials 0 must be 1 or more"),
        ({"margin": 0}, "margin 0 must be above 0 and at most 1"),
        ({"name": "a\nb"}, "name must be one line of text"),
    ):
        with pytest.raises(UsageError, match=says):
            request(bundle, tmp_path, **changes)
    tune(request(bundle, tmp_path, trials=1), lambda _: None)
    with pytest.raises(UsageError, match="holds a run with another margin; name another folder"):
        tune(request(bundle, tmp_path, trials=1, margin=0.5), lambda _: None)
    with pytest.raises(UsageError, match="holds other files; name a folder that is new or empty"):
        tune(request(bundle, tmp_path, out=tmp_path), lambda _: None)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "study.journal").write_text("{\n")
    with pytest.raises(UsageError, match="cannot be read"):
        tune(request(bundle, tmp_path, out=broken), lambda _: None)
