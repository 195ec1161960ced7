"""A session for asyncio: generations run in their own thread, and cancelling a task cancels its generation.

It knows nothing of generating: a `Session` does that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from dgemma.core.errors import SessionBusy
from dgemma.core.generate_options import GenerateKeywords, GenerateOptions
from dgemma.core.messages import Message
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.session import Session

T = TypeVar("T")
Event = TextEvent | StepEvent | Result


class AsyncSession:
    """A session whose methods are awaited. Use `AsyncSession.load`. One generation at a time, as with `Session`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dgemma-async")
        self._busy = False

    @classmethod
    async def load(cls, path: str | os.PathLike[str], *, engine: str | None = None, threads: int | None = None) -> Self:
        """As `Session.load`, whose arguments and errors it has."""
        return cls(await asyncio.to_thread(partial(Session.load, path, engine=engine, threads=threads)))

    async def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        messages: Sequence[Message | Mapping[str, Any]] | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        on_text: Callable[[TextEvent], None] | None = None,
        **keywords: Unpack[GenerateKeywords],
    ) -> Result:
        """As `Session.generate`. Callbacks are called in the session's thread. Where the task is cancelled, the generation ends
        before its next step, and the prefix holds what was committed."""
        call = partial(self.session.generate, prompt, options, messages=messages, on_step=on_step, on_text=on_text, **keywords)
        async with self._alone():
            return await self._run(call)

    async def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        options: GenerateOptions | None = None,
        *,
        messages: Sequence[Message | Mapping[str, Any]] | None = None,
        steps: bool = False,
        **keywords: Unpack[GenerateKeywords],
    ) -> AsyncIterator[Event]:
        """As `Session.stream`. The generation waits while an event is dealt with. It is cancelled with the task, and where the
        iteration is left early and closed (`contextlib.aclosing`)."""
        async with self._alone():
            events = self.session.stream(prompt, options, messages=messages, steps=steps, **keywords)
            try:
                while (event := await self._run(partial(next, events, None))) is not None:
                    yield event
            finally:
                close: Callable[[], None] = getattr(events, "close", lambda: None)
                await asyncio.shield(self._started(close))

    def cancel(self) -> None:
        """As `Session.cancel`."""
        self.session.cancel()

    async def close(self) -> None:
        """As `Session.close`, once the generation that runs has ended. Raises SessionBusy."""
        if self._busy:
            raise SessionBusy("the session is generating; await it or cancel it, then close")
        await self._started(self.session.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._busy:
            raise SessionBusy("the session is generating; await it, cancel it, or load a second session")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def _run(self, call: Callable[[], T]) -> T:
        """In the thread; where the task is cancelled meanwhile, so is the generation, whose end is waited for."""
        future = asyncio.ensure_future(self._started(call))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.session.cancel()
            while not future.done():  # a second cancel does not leave the thread behind
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            future.exception()
            raise

    def _started(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call)
