"""Generations that share an engine take turns, a canvas each, and give what they would give alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_bundle import BOS, CONTEXT, START, N, fake_engine, fake_session

from dgemma.core.errors import PromptTooLong, SessionClosed, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.runtime.generator import DECODE_TURN
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session
from dgemma.runtime.turns import OLDEST_EVERY, Place, Turns

LONG = list(range(200, 270))  # five canvases, the last one begun
PROMPT, OTHER = [BOS, 50, 51, START], [BOS, 50, 51, START, 200, 201]


def never() -> bool:
    return False


class Row:
    """Threads that enter in a given order; `log` says who computed when."""

    def __init__(self) -> None:
        self.turns, self.log, self.threads = Turns(), list[str](), list[threading.Thread]()

    def start(self, name: str, turns: int, then: Callable[[], None] = lambda: None) -> None:
        """Begin a generation of so many turns, and wait until it stands in the row."""
        before = self.turns.waiting

        def work() -> None:
            place = Place(cancelled=never)
            self.turns.enter(place)
            for _ in range(turns):
                self.log.append(name)
                then()
                self.turns.pass_on(place)
            self.turns.leave(place)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        while self.turns.waiting == before:
            pass

    def end(self, first: Place) -> list[str]:
        self.turns.leave(first)
        for thread in self.threads:  # grows meanwhile
            thread.join(10)
        return self.log


def row() -> tuple[Row, Place]:
    """With a turn that is taken, so that others stand behind it."""
    made, first = Row(), Place(cancelled=never)
    made.turns.enter(first)
    return made, first


def test_a_short_one_goes_ahead_of_a_long_one_that_has_had_its_turn() -> None:
    made, first = row()
    made.start("long", 3)
    made.start("short", 1)
    assert made.end(first)[:2] == ["long", "short"]
    assert made.log.count("long") == 3


def test_a_long_one_is_not_passed_over_for_ever() -> None:
    """Short ones keep coming, each before the one before has ended: by the fewest turns alone, the long one would be last."""
    made, first = row()
    coming = 5 * OLDEST_EVERY

    def one_more() -> None:
        if coming > made.log.count("short"):
            made.start("short", 1, one_more)

    made.start("long", 3)
    made.start("short", 1, one_more)
    log = made.end(first)
    turns = [index for index, name in enumerate(log) if name == "long"]
    assert len(turns) == 3 and turns[-1] <= 3 * OLDEST_EVERY < len(log)


def test_who_is_cancelled_does_not_wait() -> None:
    turns, stop = Turns(), threading.Event()
    first, second = Place(cancelled=never), Place(cancelled=stop.is_set)
    turns.enter(first)
    waits = threading.Thread(target=turns.enter, args=[second])
    waits.start()
    while not turns.waiting:
        pass
    stop.set()
    turns.wake()
    waits.join(5)
    assert not waits.is_alive() and turns.waiting == 0 and second.taken == 0
    turns.leave(second)
    turns.enter(Place(cancelled=stop.is_set))  # cancelled before it came: at once
    turns.leave(first)


def together(*work: Callable[[], Result]) -> list[Result]:
    """Results of generations in threads of their own."""
    found: dict[int, Result] = {}
    threads = [
        threading.Thread(target=lambda i=i, run=run: found.__setitem__(i, run()))  # type: ignore[misc]
        for i, run in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[i] for i in range(len(work))]


@pytest.mark.parametrize("decoder", ["diffusion", "autoregressive"])
def test_two_conversations_share_an_engine_and_take_turns(tmp_path: Path, decoder: str) -> None:
    options = GenerateOptions(decoder=decoder)
    with fake_session(tmp_path / "alone", LONG) as alone:
        expected = [alone.generate(ids, options).tokens for ids in (PROMPT, OTHER)]
    assert expected[0] == tuple(LONG)
    with fake_session(tmp_path / "b", LONG) as one, one.another() as two:
        assert fake_engine(one) is fake_engine(two) and one.tokenizer is two.tokenizer
        started = threading.Event()
        order: list[int] = []

        def run(session: Session, ids: list[int], number: int) -> Result:
            def tell(event: object) -> None:
                if not started.is_set():  # so that the other one stands in the row from the first border on
                    started.set()
                    while session._turns.waiting == 0:
                        pass
                order.append(number)

            return session.generate(ids, options, on_text=tell)

        def later() -> Result:
            started.wait(10)
            return run(two, OTHER, 2)

        results = together(lambda: run(one, PROMPT, 1), later)
        assert [result.tokens for result in results] == expected
        assert two.prefix_ids[: len(OTHER)] == tuple(OTHER) and one.prefix_ids[: len(PROMPT)] == tuple(PROMPT)
        ends = [index for index, number in enumerate(order) if number == 1]
        assert any(number == 2 for number in order[: ends[-1]]), "the second one waited until the first had ended"
        assert all(result.timings.engine_s <= result.timings.total_s for result in results)


def test_a_turn_is_a_canvas_or_as_many_forwards(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", LONG) as session:
        passed: list[int] = []
        session._turns.pass_on = lambda place: passed.append(place.taken)  # type: ignore[method-assign]
        session.generate(PROMPT)
        assert len(passed) == len(LONG) // N
        session.generate(PROMPT, decoder="autoregressive")
        assert len(passed) == len(LONG) // N + len(LONG) // DECODE_TURN


def test_a_cancel_reaches_one_that_waits_for_its_turn(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", LONG) as one, one.another() as two:
        place = Place(cancelled=never)
        one._turns.enter(place)
        found: list[Result] = []
        thread = threading.Thread(target=lambda: found.append(two.generate(PROMPT)))
        thread.start()
        while not one._turns.waiting:
            pass
        two.cancel()
        thread.join(10)
        one._turns.leave(place)
        assert found[0].stop_reason == "cancelled" and found[0].steps == 0
        assert fake_engine(one).encoded == []
        assert one.generate(PROMPT).tokens == tuple(LONG)


def test_a_copy_of_a_beginning_is_not_encoded_again(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", LONG) as one:
        whole = one.generate(OTHER).tokens
        calls = fake_engine(one).encoded
        before = sum(calls)
        with one.another(keep=len(OTHER) - 1) as two:
            assert two.prefix_ids == tuple(OTHER[:-1])
            result = two.generate(OTHER[-1:], continue_=True)
            assert result.tokens == whole and result.prefill_position_forwards == 1
            assert one.prefix_ids[: len(OTHER)] == tuple(OTHER)
        assert sum(calls) == before + 1 + len(whole) // N * N  # of two's own canvases, all but the last


def test_waiting_is_told_of(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", LONG) as one, one.another() as two:
        place = Place(cancelled=never)
        one._turns.enter(place)
        alone = Place(cancelled=never)
        threading.Timer(0.05, one._turns.leave, [place]).start()
        result = two.generate(PROMPT)
        assert result.behind == 1 and 0.02 < result.timings.waited_s < result.timings.total_s
        one._turns.enter(alone)
        one._turns.leave(alone)
        assert (alone.behind, alone.taken) == (0, 1)
        assert one.generate(PROMPT).behind == 0


def test_the_engine_is_freed_with_the_last_session(tmp_path: Path) -> None:
    one = fake_session(tmp_path / "b", LONG)
    two = one.another()
    one.close()
    with pytest.raises(SessionClosed, match="closed"):
        one.another()
    assert two.generate(PROMPT).tokens == tuple(LONG)
    assert fake_engine(two)._signatures
    two.close()
    assert not fake_engine(two)._signatures


def test_ids_of_a_prompt_are_checked_before_any_work(tmp_path: Path) -> None:
    with fake_session(tmp_path / "b", LONG) as session:
        assert session.prompt_ids(PROMPT) == tuple(PROMPT)
        with pytest.raises(PromptTooLong, match="leaves no room for 16 more"):
            session.prompt_ids([50] * (CONTEXT - N + 1))
        long = session.prompt_ids([50] * (CONTEXT - N + 1), GenerateOptions(decoder="autoregressive"))
        assert len(long) == CONTEXT - N + 1
        with pytest.raises(UsageError, match="start_width"):
            session.prompt_ids(PROMPT, GenerateOptions.of(start_width=N + 1))
        assert session.prefix_ids == () and fake_engine(session).calls == []
