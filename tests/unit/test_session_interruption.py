"""Cancels, exceptions of callbacks, misuse by threads, and arguments that cannot be."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import (
    BOS,
    CHUNK,
    END_OF_TURN,
    START,
    VOCAB,
    FakeEngine,
    N,
    fake_engine,
    fake_session,
    write_bundle,
)

from dgemma.core.errors import (
    DgemmaError,
    SessionBusy,
    SessionClosed,
    TokenizerError,
    UsageError,
)
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.result import StepEvent
from dgemma.runtime.session import Session

SHORT = list(range(200, 210))

LONG = list(range(200, 240))  # two canvases of 16 and half of a third

PROMPT = [BOS, 50, 51, START]

ANSWERED = [*PROMPT, *SHORT, END_OF_TURN]

both_loops = pytest.mark.parametrize("loop", ["host", "graph"])


@both_loops
@pytest.mark.parametrize("in_canvas", [0, 1])
def test_cancel_in_a_callback_drops_the_canvas(tmp_path: Path, loop: str, in_canvas: int) -> None:
    session = fake_session(tmp_path / "b", LONG)

    def cancel(event: StepEvent) -> None:
        if event.canvas_index == in_canvas and event.step == 2:
            session.cancel()

    result = session.generate(PROMPT, on_step=cancel, loop=loop, trace=True)
    kept = LONG[: in_canvas * N]
    assert (result.stop_reason, result.canvases, list(result.tokens)) == ("cancelled", in_canvas, kept)
    assert list(session.prefix_ids) == [*PROMPT, *kept]
    assert result.trajectory is not None and len(result.trajectory.step) == result.steps == 4 * in_canvas + 2
    assert list(session.generate(PROMPT, loop=loop).tokens) == LONG  # usable, and the old cancel is gone


@pytest.mark.parametrize("greedy", [False, True])
def test_cancel_while_a_long_prompt_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greedy: bool) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    prompt = [*[50] * 3 * CHUNK, START]
    encode = FakeEngine._encode
    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "_encode", lambda self, feeds: session.cancel() or encode(self, feeds))
        result = session.decode_greedy(prompt) if greedy else session.generate(prompt)
    assert (result.stop_reason, result.steps, result.tokens) == ("cancelled", 0, ())
    assert result.tokens_per_forward == 0.0
    assert fake_engine(session).encoded == [CHUNK] and list(session.prefix_ids) == prompt
    assert list(session.generate([START], continue_=True).tokens) == SHORT  # the rest is encoded now


def test_cancel_from_another_thread(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", [200] * 500)
    stepped = threading.Event()

    def cancel() -> None:
        stepped.wait(10)
        session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()

    def on_step(event: StepEvent) -> None:
        stepped.set()
        thread.join(10)

    result = session.generate(PROMPT, on_step=on_step)
    assert (result.stop_reason, result.steps) == ("cancelled", 1)


def test_a_cancel_before_a_generation_is_not_lost(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    session.cancel()
    result = session.generate(PROMPT)
    assert (result.stop_reason, result.steps, result.tokens) == ("cancelled", 0, ())
    assert list(session.generate(PROMPT).tokens) == SHORT, "it ends one generation"
    session.cancel()
    session.reset()
    assert list(session.generate(PROMPT).tokens) == SHORT, "a reset forgets it"


@both_loops
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_what_a_callback_raises_comes_out_and_the_session_stays_usable(tmp_path: Path, loop: str, error: BaseException) -> None:
    session = fake_session(tmp_path / "b", LONG)

    def fail(event: StepEvent) -> None:
        if event.canvas_index == 1:
            raise error

    with pytest.raises(type(error)):
        session.generate(PROMPT, on_step=fail, loop=loop)
    assert list(session.prefix_ids) == [*PROMPT, *LONG[:N]]
    session.rewind(len(PROMPT))
    assert list(session.generate([START], continue_=True, loop=loop).tokens) == LONG


def test_one_generation_at_a_time(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    refused: list[str] = []

    def again(event: StepEvent) -> None:
        for misuse in (lambda: session.generate(PROMPT), session.reset, session.close):
            with pytest.raises(SessionBusy) as error:
                misuse()
            refused.append(str(error.value))

    assert list(session.generate(PROMPT, on_step=again).tokens) == SHORT
    assert len(refused) == 3 * 4
    session.close()
    session.close()
    for misuse in (lambda: session.generate(PROMPT), session.reset, lambda: session.prefix_ids):
        with pytest.raises(SessionClosed, match="closed"):
            misuse()


def test_two_sessions_share_a_bundle(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    one, two = (Session(Bundle.open(path), FakeEngine(Bundle.open(path), SHORT)) for _ in range(2))
    nested: list[Any] = []
    result = one.generate(PROMPT, on_step=lambda event: nested.append(two.generate(PROMPT).tokens))
    assert set(nested) == {result.tokens}


@pytest.mark.parametrize(
    ("prompt", "options", "error", "says"),
    [
        ([], {}, UsageError, "empty"),
        ("", {}, UsageError, "empty"),
        ("", {"raw": True}, UsageError, "empty"),
        ([VOCAB], {}, UsageError, "617"),
        ([-1], {}, UsageError, "617"),
        ([True], {}, UsageError, "integer"),
        ([1.5], {}, UsageError, "integer"),
        ([1], {"max_new_tokens": 0}, UsageError, "max_new_tokens"),
        ([1], {"max_new_tokens": 2.0}, UsageError, "max_new_tokens"),
        ([1], {"seed": -1}, UsageError, "seed"),
        ([1], {"seed": 2**64}, UsageError, "seed"),
        ([1], {"seed": "x"}, UsageError, "seed"),
        ([1], {"loop": "spiral"}, UsageError, "host, graph"),
        ("\ud800", {}, TokenizerError, "Unicode"),
    ],
)
def test_bad_arguments(tmp_path: Path, prompt: Any, options: dict[str, Any], error: type[DgemmaError], says: str) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    session.generate(PROMPT)
    with pytest.raises(error, match=says) as caught:
        session.generate(prompt, **options)
    assert "\n" not in str(caught.value)
    assert list(session.prefix_ids) == ANSWERED
