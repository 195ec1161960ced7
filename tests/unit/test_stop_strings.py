"""Where an answer ends before the model says so: stop strings over tokens and canvases; and answers that are empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import BOS, PAD, START, FakeEngine, N, fake_engine, fake_session, write_bundle

from dgemma.core.errors import TokenizerError, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds
from dgemma.runtime.result import TextEvent
from dgemma.runtime.session import Session
from dgemma.runtime.stop_strings import StopStrings

PROMPT = [BOS, 50, 51, START]
TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen; Zebra, quartz & jumble: 4271 vex 98-76 (why?)"
ways = pytest.mark.parametrize("way", [{}, {"loop": "graph"}, {"decoder": "autoregressive"}], ids=["host", "graph", "decode"])


@pytest.fixture
def session(tmp_path: Path) -> Session:
    opened = fake_session(tmp_path / "b")
    assert opened.tokenizer is not None
    fake_engine(opened).answer = opened.tokenizer.encode(TEXT)
    return opened


def pieces(session: Session, count: int) -> str:
    """The text of the answer's first `count` tokens."""
    assert session.tokenizer is not None
    return session.tokenizer.decode(fake_engine(session).answer[:count])


@ways
@pytest.mark.parametrize("stop", ["three", "two th", "ree four", "thirteen", " ", "@", "(why", "one"])
def test_the_text_ends_before_the_first_stop_string(session: Session, way: dict[str, Any], stop: str) -> None:
    events: list[TextEvent] = []
    result = session.generate(PROMPT, GenerateOptions(stop=[stop, "zzz"], **way), on_text=events.append)
    before, found, _ = TEXT.partition(stop)
    assert result.text == before == "".join(event.text for event in events)
    assert (result.stop_string, result.stop_reason) == (stop if found else None, "stop")
    kept = len(result.tokens)
    assert result.tokens == tuple(fake_engine(session).answer[:kept])
    assert session.prefix_ids[: len(PROMPT) + kept] == (*PROMPT, *result.tokens)
    assert len(session.prefix_ids) == len(PROMPT) + kept + (not found)  # the stop token, where no string came first
    assert before.startswith(pieces(session, kept)) and (not found or len(pieces(session, kept + 1)) > len(before))
    assert bool(result.warnings) == (not before)


def test_every_border_of_canvases(session: Session) -> None:
    """Tokens on both sides of the border between the first two canvases are one stop string; all is as if never written."""
    answer = fake_engine(session).answer
    assert len(answer) > N + 2
    stop = pieces(session, N + 2)[len(pieces(session, N - 2)) :]
    assert TEXT.count(stop) == 1 and len(stop) > 2
    result = session.generate(PROMPT, stop=stop)
    assert result.tokens == tuple(answer[: N - 2]) and result.canvases == 2
    assert session.prefix_ids == (*PROMPT, *answer[: N - 2])
    going_on = session.generate([9, START], continue_=True)  # the prefix is in order: the toy checks every slot
    assert going_on.tokens == tuple(answer)


def test_the_earliest_of_several_counts_and_the_limit_comes_first(session: Session) -> None:
    assert session.generate(PROMPT, stop=["four", "three", "two t"]).stop_string == "two t"
    few = session.generate(PROMPT, stop="(why", max_new_tokens=5)
    assert (few.stop_reason, few.stop_string, len(few.tokens)) == ("length", None, 5)


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    def read(ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    stops = StopStrings(["END", "NOT YET"], read)
    for text, kept in (("abc", "abc"), ("abcE", "abc"), ("abcEN", "abc"), ("abcEx", "abcEx"), ("NOT YE", ""), ("NO", "")):
        assert stops.kept(text) == kept
    assert stops([ord(c) for c in "abEN"]) is None and stops.found is None
    assert stops([ord(c) for c in "abENDc"]) == 2 and (stops.found, stops.text) == ("END", "ab")


def test_stop_strings_need_text(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "b", tokenizer=None, chat=None))
    with pytest.raises(TokenizerError, match="has no tokenizer, so its answers have no text; leave stop out"):
        Session(bundle, FakeEngine(bundle, [200])).generate(PROMPT, stop="x")
    for wrong in ("", [""], [1], 3):
        with pytest.raises(UsageError, match="must be non-empty strings"):
            GenerateOptions(stop=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "why"), [([PAD] * 100, "gave only padding"), ([], "ended it at once")], ids=["pads", "stop"]
)
def test_an_empty_answer_says_why_and_may_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: list[int], why: str
) -> None:
    session = fake_session(tmp_path / "b", answer)
    empty = session.generate(PROMPT, max_new_tokens=8)
    assert empty.warnings == (f"the answer is empty: the model {why}",) and empty.count == 0

    def decode(engine: FakeEngine, feeds: Feeds) -> list[Array]:
        ids, rows = engine._rows(feeds)
        return [np.array([200 + len(ids)]), *rows]

    monkeypatch.setattr(FakeEngine, "_decode", decode)
    result = session.generate(PROMPT, max_new_tokens=8, fallback="autoregressive")
    assert result.tokens == tuple(200 + len(PROMPT) + i for i in range(8)) and result.loop == "decode"
    said = "only padding" if answer else "a stop token at once"
    assert result.warnings == (f"the canvas gave {said}; this answer is autoregressive",)
    assert session.prefix_ids == (*PROMPT, *result.tokens)
    assert result.steps == empty.steps + 8 and 0 <= result.timings.engine_s <= result.timings.total_s
    assert result.timings.load_s <= result.timings.total_s


def test_an_answer_does_not_fall_back(session: Session) -> None:
    assert session.generate(PROMPT, fallback="autoregressive").loop == "host"
    assert session.generate(PROMPT, stop="o", fallback="autoregressive").loop == "host"  # empty, because it was asked for
    for wrong, says in (
        ({"fallback": "x"}, "fallback 'x' is unknown"),
        ({"fallback": "autoregressive", "decoder": "autoregressive"}, "fallback needs"),
    ):
        with pytest.raises(UsageError, match=says):
            GenerateOptions(**wrong)  # type: ignore[arg-type]
