"""Work before a generation that may take long, such as compiling a structure: in a thread of its own, until nobody waits.

It knows nothing of HTTP, or of what is prepared.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from dgemma.serve.errors import ApiError, overloaded

T = TypeVar("T")
AT_ONCE = 4


class Preparing:
    """Few work at a time; those whose clients have left, or have no time left, end soon or do not begin."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self._waiting = set[asyncio.Future[None]]()

    async def run(self, work: Callable[[Callable[[], bool]], T], until: float, late: ApiError) -> T:
        """What `work` returns, which gets a function that says whether to give up.

        Args:
            until: when it is too late, by the loop's clock.
        Raises:
            ApiError: `late`, or the server stops; and what the work raises.
        """
        left, stopped = threading.Event(), asyncio.get_running_loop().create_future()
        self._waiting.add(stopped)
        task = asyncio.create_task(self._work(work, left))
        try:
            async with asyncio.timeout_at(until):
                await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done() and not task.done():
                raise overloaded("the server is about to stop; try again later", 10)
            return await task
        except TimeoutError:
            raise late from None
        finally:
            left.set()
            task.cancel()
            self._waiting.discard(stopped)

    def stop(self) -> None:
        """Whoever waits is told to come again."""
        for one in self._waiting:
            if not one.done():
                one.set_result(None)

    async def _work(self, work: Callable[[Callable[[], bool]], T], left: threading.Event) -> T:
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()

        def end(made: T | None, error: BaseException | None) -> None:
            self._room.release()
            if found.done():
                return
            if error is None:
                found.set_result(made)  # type: ignore[arg-type]  # which it then is
            else:
                found.set_exception(error)

        def thread() -> None:
            made, wrong = None, None
            try:
                made = work(left.is_set)
            except Exception as error:
                wrong = error
            with suppress(RuntimeError):  # the loop has ended before its threads
                loop.call_soon_threadsafe(end, made, wrong)

        threading.Thread(target=thread, name="dgemma-compile", daemon=True).start()
        return await found
