"""AsyncSession: results and events as Session gives them, cancellation by the task, one generation at a time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
from fake_bundle import fake_session

from dgemma import AsyncSession
from dgemma.core.errors import SessionBusy, SessionClosed, UsageError
from dgemma.runtime.result import Result, StepEvent, TextEvent

PROMPT = [2, 6]
LONG = [200] * 500


def opened(path: Path, answer: list[int]) -> AsyncSession:
    return AsyncSession(fake_session(path, answer))


def test_it_gives_what_a_session_gives(tmp_path: Path) -> None:
    answer = list(range(200, 220))
    wanted = fake_session(tmp_path / "a", answer).generate(PROMPT)

    async def main() -> None:
        threads = set[int]()
        async with opened(tmp_path / "b", answer) as session:
            result = await session.generate(PROMPT, on_step=lambda event: threads.add(threading.get_ident()))
            assert (result.tokens, result.text, result.steps) == (wanted.tokens, wanted.text, wanted.steps)
            events = [event async for event in session.stream(PROMPT, steps=True)]
            assert isinstance(events[-1], Result) and events[-1].tokens == wanted.tokens
            assert "".join(e.text for e in events if isinstance(e, TextEvent)) == wanted.text
            assert sum(isinstance(e, StepEvent) for e in events) == wanted.steps
            with pytest.raises(UsageError, match="max_new_tokens"):
                await session.generate(PROMPT, max_new_tokens=0)
        assert threads and threading.get_ident() not in threads
        with pytest.raises(SessionClosed):
            await opened_again(session)

    async def opened_again(session: AsyncSession) -> None:
        session.session.generate(PROMPT)

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_generation(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "b", LONG) as session:
            loop, begun, steps = asyncio.get_running_loop(), asyncio.Event(), list[int]()
            go_on = threading.Event()

            def on_step(event: StepEvent) -> None:
                steps.append(event.step)
                loop.call_soon_threadsafe(begun.set)
                go_on.wait(10)

            task = asyncio.create_task(session.generate(PROMPT, on_step=on_step))
            await begun.wait()
            with pytest.raises(SessionBusy):
                await session.generate(PROMPT)
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(steps) == 1, "no step after the cancel"
            assert (await session.generate(PROMPT, max_new_tokens=3)).tokens == (200,) * 3, "the old cancel is gone"

    asyncio.run(main())


def test_a_stream_that_is_left_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "b", LONG) as session:
            async with aclosing(session.stream(PROMPT, steps=True)) as events:
                async for _ in events:
                    break
            result = await session.generate(PROMPT, max_new_tokens=3)
            assert (result.tokens, result.stop_reason) == ((200,) * 3, "length")

            seen = 0

            async def read() -> None:
                nonlocal seen
                async for _ in session.stream(PROMPT, steps=True):
                    seen += 1
                    asyncio.get_running_loop().call_soon(task.cancel)  # while the next one is waited for

            task = asyncio.create_task(read())
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == 1
            assert (await session.generate(PROMPT, max_new_tokens=3)).stop_reason == "length"

    asyncio.run(main())
