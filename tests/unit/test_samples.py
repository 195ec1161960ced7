"""Several answers to one prompt, and how sure the model was of each token."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_checks import fails
from fake_bundle import BOS, START, N, fake_engine, fake_session

from dgemma.cli import dispatch
from dgemma.core.errors import UsageError
from dgemma.runtime.samples import Samples
from dgemma.runtime.session import Session

PROMPT = [BOS, 50, 51, START]
HARD = "19 plus 54?"  # which tiny gets wrong with some seeds


@pytest.fixture(scope="module")
def tiny() -> Iterator[Session]:
    with Session.load("tiny") as session:
        yield session


def test_samples_are_generations_with_seeds_of_their_own(tiny: Session) -> None:
    alone = [tiny.generate(HARD, seed=seed) for seed in range(3, 7)]
    samples = tiny.sample(HARD, n=4, seed=3)
    assert [result.tokens for result in samples.results] == [result.tokens for result in alone]
    assert [result.steps for result in samples.results] == [result.steps for result in alone]
    assert samples.results[1].prefill_position_forwards == 0 < samples.results[0].prefill_position_forwards
    assert tiny.prefix_ids == tiny.prompt_ids(HARD)
    assert [r.tokens for r in tiny.sample(HARD, n=2, seed=2**64 - 1).results][1] == tiny.generate(HARD, seed=0).tokens


def test_each_falls_back_behind_the_same_prompt(tmp_path: Path) -> None:
    """The prompt is encoded once, and the first call of greedy decoding reads its last token, not one behind it."""
    session, answered = fake_session(tmp_path / "b", [200, 201]), [*PROMPT, 200, 201]
    samples = session.sample(answered, n=3, fallback="autoregressive")
    assert [(r.loop, r.tokens, r.stop_reason) for r in samples.results] == [("decode", (), "stop")] * 3
    assert session.prefix_ids == tuple(answered)


def test_what_most_of_them_say(tmp_path: Path) -> None:
    one = fake_session(tmp_path / "b", [200]).generate(PROMPT)
    texts = ["a", "b", "b ", "c", "c"]
    samples = Samples(results=tuple(replace(one, text=text, steps=i) for i, text in enumerate(texts)))
    assert samples.votes == {"b": 2, "c": 2, "a": 1} and samples.best.steps == 1 and samples.agreement == 0.4
    ids = Samples(results=tuple(replace(one, text="", tokens=tokens) for tokens in ((1,), (2,), (2,))))
    assert ids.best.tokens == (2,) and ids.agreement == 2 / 3


def test_a_cancel_ends_them(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", list(range(200, 240)))
    engine, calls = fake_engine(session), []
    denoise = engine._denoise

    def cancel(feeds: Any) -> Any:
        calls.append(1)
        if len(calls) == 20:
            session.cancel()
        return denoise(feeds)

    engine._denoise = cancel  # type: ignore[method-assign]
    results = session.sample(PROMPT, n=9).results
    assert [r.stop_reason for r in results] == ["stop", "cancelled"] and session.prefix_ids == tuple(PROMPT)


@pytest.mark.parametrize(
    ("n", "options", "says"),
    [
        (0, {}, "n 0 must be between 1 and 1000"),
        (True, {}, "n True must be"),
        (2, {"decoder": "autoregressive"}, "greedy decoding always gives the same answer"),
        (2, {"speculate": True}, "greedy decoding always gives the same answer"),
    ],
    ids=str,
)
def test_what_cannot_be_sampled(tmp_path: Path, n: int, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fake_session(tmp_path / "b", [200]).sample(PROMPT, n=n, **options)


@pytest.mark.parametrize("options", [{}, {"loop": "graph"}, {"early_commit": 0.01}], ids=str)
def test_each_token_has_the_entropy_of_its_last_step(tiny: Session, options: dict[str, Any]) -> None:
    result = tiny.generate("Spell each of ugabemr jizeli edip pidu uaipai hujmu gacic.", trace=True, **options)
    trajectory, n = result.trajectory, tiny.manifest.canvas_length
    assert trajectory is not None and result.canvases > 1 and len(result.entropies) == len(result.tokens)
    for canvas in range(result.canvases):
        last = (trajectory.canvas_index == canvas).nonzero()[0][-1]
        own = result.entropies[canvas * n : (canvas + 1) * n]
        assert own == tuple(trajectory.entropy[last, : len(own)].tolist())


def test_entropies_of_what_was_given_cut_or_decoded(tmp_path: Path, tiny: Session) -> None:
    infill = tiny.infill("Dear {{3}}, come.", "x")
    pinned = [entropy for token, entropy in zip(infill.tokens, infill.entropies, strict=True)]
    assert sum(entropy > 0 for entropy in pinned) <= 3 < len(pinned)
    session = fake_session(tmp_path / "b", list(range(200, 240)), entropy_floor=0.001)
    assert session.generate(PROMPT, max_new_tokens=N + 3).entropies == pytest.approx([0.001] * (N + 3))
    assert session.decode_greedy(PROMPT).entropies == ()


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", "tiny", "-p", "Reverse the word table.", "--n", "3"]) == 0
    assert capsys.readouterr() == ("elbat\n", "3 of 3 answers say this\n")
    assert dispatch(["run", "tiny", "-p", HARD, "--n", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["samples"]) == 2 and values["agreement"] in (0.5, 1.0) and values["text"] == values["samples"][0]["text"]
    fails(capsys, ["run", "tiny", "-p", "x", "--n", "0"], "--n 0 must be between 1 and 1000")
    fails(capsys, ["run", "tiny", "-p", "x", "--n", "2", "--trace", "t.npz"], "--n gives several answers")


@pytest.mark.parametrize(("after", "said", "shown"), [(0, "0 of 9 answers", ""), (2, "2 of 9 answers", "elbat\n")])
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_the_answers_that_are_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, after: int, said: str, shown: str, as_json: bool
) -> None:
    real, ended = Session._answer, list[object]()

    def interrupted(self: Session, *given: Any) -> Any:
        if len(ended) == after:
            signal.raise_signal(signal.SIGINT)
        ended.append(given)
        return real(self, *given)

    monkeypatch.setattr(Session, "_answer", interrupted)
    asked = ["run", "tiny", "-p", "Reverse the word table.", "--n", "9", *(["--json"] if as_json else [])]
    assert dispatch(asked) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"interrupted after {said}"
    if as_json:
        assert len(json.loads(out)["samples"]) == max(1, after)
    else:
        assert out == shown and ("say this" in err) == (after > 0)
