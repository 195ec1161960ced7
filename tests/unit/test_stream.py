"""Committed text in pieces, events as an iterator, and which decoder is chosen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_bundle import BOS, END_OF_TURN, START, FakeEngine, N, fake_session

from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.runtime import decoder_choice
from dgemma.runtime.answer import Answer
from dgemma.runtime.committed_text import CommittedText
from dgemma.runtime.decoder_choice import DecoderChoice
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.session import Session
from dgemma.runtime.stream import iterate

PROMPT = [BOS, 50, 51, START]
LONG = list(range(200, 240))  # two canvases of 16 and half of a third


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return fake_session(tmp_path / "b", LONG)


@pytest.mark.parametrize("options", [{}, {"loop": "graph"}, {"decoder": "autoregressive"}, {"max_new_tokens": 20}], ids=str)
def test_the_pieces_are_the_text(session: Session, options: dict[str, object]) -> None:
    events: list[TextEvent] = []
    given = GenerateOptions(**options)  # type: ignore[arg-type]
    result = session.generate(PROMPT, given, on_text=events.append)
    assert "".join(event.text for event in events) == result.text != ""
    assert events[-1].tokens == result.tokens
    counts = [len(event.tokens) for event in events]
    assert counts == sorted(counts)
    if given.decoder == "autoregressive":
        assert result.loop == "decode" and len(events) > N
        assert result.tokens == tuple(LONG)
    else:
        assert counts == [n for n in (N, 2 * N, len(LONG)) if n <= given.max_new_tokens] + [20] * (given.max_new_tokens == 20)
    assert session.generate(PROMPT, given).tokens == result.tokens


def test_a_character_comes_once_all_of_its_bytes_are_there() -> None:
    """A reader of bytes: what is not whole yet decodes to replacement characters."""

    def read(ids: object) -> Answer:
        return Answer(text=bytes(ids).decode(errors="replace"))  # type: ignore[call-overload]

    whole = "a→b€".encode()
    written = CommittedText(read, trims=False)
    pieces = [event.text for n in range(1, len(whole) + 1) if (event := written.more(whole[:n]))]
    assert pieces == ["a", "→", "b", "€"]
    assert written.rest(whole, read(whole)) is None
    cut = CommittedText(read, trims=False)
    assert cut.more(whole[:2]) == TextEvent(text="a", thinking="", tokens=tuple(whole[:2]))
    rest = cut.rest(whole[:2], read(whole[:2]))
    assert rest is not None and rest.text == "\N{REPLACEMENT CHARACTER}"  # the answer ends inside a character


def test_white_space_at_the_ends_is_left_out_where_there_are_channels() -> None:
    texts = {1: "\n a", 2: "\n a ", 3: "\n a b \n"}
    for trims, wanted in ((True, ["a", " b"]), (False, ["\n a", " ", "b \n"])):
        written = CommittedText(lambda ids: Answer(text=texts[len(ids)]), trims=trims)
        events = [event for n in (1, 2, 3) if (event := written.more([0] * n))]
        assert [event.text for event in events] == wanted


def test_a_thought_comes_once_it_has_ended() -> None:
    answers = [
        Answer(text="", thinking="thou", thinks=True),
        Answer(text="", thinking="well"),
        Answer(text="x", thinking="well\nso", thinks=True),
        Answer(text="xy", thinking="well\nso it is"),
    ]
    written = CommittedText(lambda ids: answers[len(ids) - 1], trims=True)
    found = [(event.text, event.thinking) for n in range(1, 5) if (event := written.more([0] * n))]
    assert found == [("", "well"), ("x", ""), ("y", "\nso it is")]


def test_a_stream_gives_steps_texts_and_the_result(session: Session) -> None:
    wanted = session.generate(PROMPT)
    kinds = []
    for event in session.stream(PROMPT, steps=True):
        kinds.append(type(event))
        last = event
    assert kinds.count(StepEvent) == wanted.steps and kinds.count(TextEvent) == 3 and kinds[-1] is Result
    assert isinstance(last, Result) and last.tokens == wanted.tokens
    assert [type(event) for event in session.stream(PROMPT)] == [TextEvent, TextEvent, TextEvent, Result]


def test_a_stream_that_is_left_early_ends_the_generation(session: Session) -> None:
    before = threading.active_count()
    for event in session.stream(PROMPT, steps=True):
        assert isinstance(event, StepEvent)
        break
    assert threading.active_count() == before
    assert list(session.generate(PROMPT).tokens) == LONG  # it is free again


def test_a_stream_whose_end_was_not_asked_for_cancels_nothing_of_later(session: Session) -> None:
    events = session.stream(PROMPT)
    while not isinstance(next(events), Result):
        pass
    time.sleep(0.1)  # the thread ends

    def leave(event: StepEvent) -> None:
        if event.step == 2:
            events.close()  # type: ignore[attr-defined]

    assert session.generate(PROMPT, on_step=leave).stop_reason == "stop"


def test_a_stream_raises_what_the_generation_raises(session: Session) -> None:
    with pytest.raises(PromptTooLong):
        list(session.stream([BOS] * 500))
    with pytest.raises(UsageError, match="not both"):
        session.stream(PROMPT, GenerateOptions(), seed=1)
    assert list(session.generate(PROMPT).tokens) == LONG


def test_whoever_is_told_is_waited_for() -> None:
    log: list[str] = []

    def run(tell: object) -> str:
        for name in "ab":
            log.append(f"makes {name}")
            tell(name)  # type: ignore[operator]
        return "end"

    events: Iterator[object] = iterate(run, lambda: None, lambda: None)
    assert next(events) == "a"
    time.sleep(0.05)
    assert log == ["makes a"]
    assert list(events) == ["b", "end"]


def test_decoders_that_are_unknown_or_need_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="decoder 'x' is unknown; choose one of diffusion, autoregressive"):
        GenerateOptions(decoder="x")
    with pytest.raises(UsageError, match="trace need"):
        GenerateOptions(decoder="autoregressive", trace=True)
    with pytest.raises(UsageError, match="early_commit"):
        GenerateOptions.of(decoder="autoregressive", early_commit=0.1)


def test_a_conversation_goes_on_autoregressively(session: Session) -> None:
    session.generate(PROMPT, decoder="autoregressive")
    held = session.prefix_ids
    assert list(held) == [*PROMPT, *LONG, END_OF_TURN]
    session.generate([50, START], decoder="autoregressive", continue_=True)
    assert session.prefix_ids[: len(held)] == held


@pytest.mark.parametrize(("step_s", "token_s", "wanted"), [(0.1, 0.01, "autoregressive"), (0.01, 0.1, "diffusion")])
def test_the_quicker_decoder_is_chosen(
    session: Session, monkeypatch: pytest.MonkeyPatch, step_s: float, token_s: float, wanted: str
) -> None:
    seconds = iter([step_s, token_s])
    monkeypatch.setattr(decoder_choice, "_seconds", lambda call: next(seconds))
    choice = session.choose_decoder(40)
    assert choice == DecoderChoice(tokens=40, steps=6.0, diffusion_s=3 * 6 * step_s, autoregressive_s=40 * token_s)
    assert choice.decoder == wanted and str(choice).startswith(f"decoder {wanted}: for 40 tokens, about ")


def test_steps_are_those_of_the_golden_trajectories(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_choice, "_seconds", lambda call: 1.0)
    monkeypatch.setattr(decoder_choice, "GOLDEN", "tokenizer.model")  # a file that the manifest lists
    monkeypatch.setattr(
        decoder_choice.np, "load", lambda _: _Golden(artifact_0_canvas_index=[0, 0, 1, 1], artifact_1_canvas_index=[0, 0, 0])
    )
    assert session.choose_decoder(1).steps == pytest.approx(7 / 3)


class _Golden(dict[str, "np.ndarray"]):  # type: ignore[type-arg]
    @property
    def files(self) -> list[str]:
        return list(self)

    def __enter__(self) -> _Golden:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_choosing_measures_calls_of_this_engine(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "c", LONG)
    engine = session._engine
    assert isinstance(engine, FakeEngine)
    choice = session.choose_decoder(8)
    assert choice.diffusion_s > 0 and choice.autoregressive_s > 0
    assert list(session.generate(PROMPT).tokens) == LONG and session.prefix_ids[0] == BOS
