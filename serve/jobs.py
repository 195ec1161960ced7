"""A request's generations: in a thread, taking turns with those of other requests; what they tell comes back to the loop.

It knows nothing of HTTP, or of the form in which clients are told.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dgemma.core.errors import DgemmaError
from dgemma.core.generate_options import GenerateOptions
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.session import Session
from dgemma.serve.conversations import Pool
from dgemma.serve.errors import ApiError, from_error, overloaded
from dgemma.serve.frames import Frames
from dgemma.serve.metrics import Metrics
from dgemma.serve.models import Model, log
from dgemma.serve.workers import Workers

FRAMES_AHEAD = 64  # frames that wait for a client; it misses what comes while there are so many


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One generation of a request: its number among the request's answers, the whole prompt's ids, and how."""

    index: int
    ids: tuple[int, ...]
    options: GenerateOptions


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is new of an answer's text or thoughts."""

    index: int
    event: TextEvent


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A denoising step, for pages that draw it."""

    index: int
    canvas: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Done:
    """An answer is whole.

    Args:
        kept: tokens of the prompt that were not encoded again.
        thoughts: tokens of the answer that are thoughts.
    """

    index: int
    ask: Ask
    result: Result
    kept: int
    thoughts: int


@dataclass(frozen=True, kw_only=True)
class StillThere:
    """Nothing has happened for a while, and it goes on."""


Event = Piece | Frame | Done | StillThere
Asks = Callable[[Callable[[], bool]], list[Ask]]  # what a request asks for; told how to see that nobody waits any more


class _Cancelled(Exception):
    """Raised in a callback, where a cancel came before the generation could hear of it."""


class Job:
    """One request's generations, one after another. Make them with `Jobs.start`."""

    def __init__(self, model: Model, asks: Asks, frames: bool, on_end: Callable[[Job], None]) -> None:
        self.model, self._asks, self._frames, self._on_end = model, asks, frames, on_end
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._cancelled, self._why = threading.Event(), ApiError(499, "the client has gone", code="cancelled")
        self._session: Session | None = None
        self._frames_ahead, self._missed = 0, 0
        self.ended = asyncio.Event()

    def cancel(self, why: ApiError | None = None) -> None:
        """End it before the next step; whoever listens is told why."""
        if not self._cancelled.is_set():
            self._why = why or self._why
            self._cancelled.set()
        if (session := self._session) is not None:
            session.cancel()

    async def events(self, keep_alive_s: float, names: Mapping[str, str]) -> AsyncIterator[Event]:
        """What happens, until the last answer is whole. Raises ApiError, with fields of the request as `names` calls them."""
        while True:
            try:
                async with asyncio.timeout(keep_alive_s) if self._told.empty() else nullcontext():
                    event = await self._told.get()
            except TimeoutError:
                yield StillThere()
                continue
            if event is None:
                return
            if isinstance(event, BaseException):
                raise from_error(event, names)
            if isinstance(event, Frame):
                self._frames_ahead -= 1
            yield event

    def more(self) -> bool:
        """Whether the next event, or the end of all, is there already."""
        return self.ended.is_set() or not self._told.empty()

    def work(self, pool: Pool, metrics: Metrics) -> None:
        """Everything, in a thread."""
        done: list[Done] = []  # the last is told together with the end
        end: BaseException | None = None
        begun = False
        try:
            asks = self._asks(self._cancelled.is_set)
            begun = True
            for ask in asks:
                if done:
                    self._tell(done.pop())
                done.append(self._answer(ask, pool, metrics))
        except _Cancelled:
            end = self._why
        except ApiError as error:
            end = error
        except BaseException as error:
            expected = isinstance(error, DgemmaError | MemoryError)
            if begun or not expected:  # else it is the request that is wrong
                log.error("a generation of %s failed: %s", self.model.name, error, exc_info=None if expected else error)
            end = error
        self._tell(*done, end, last=True)

    def _answer(self, ask: Ask, pool: Pool, metrics: Metrics) -> Done:
        # With the negative prompt's prefix, which is gone when the answer is whole.
        prompts = [len(ask.ids), *([] if (guidance := ask.options.guidance) is None else [len(guidance.negative or ())])]
        tokens = sum(min(n + int(ask.options.max_new_tokens), self.model.manifest.context) for n in prompts if n)
        arrived = time.perf_counter()
        with pool.lease(self.model.name, self.model.loaded, ask.ids, tokens, self._cancelled.is_set) as lease:
            if lease is None:
                raise _Cancelled
            frames = Frames(self.model.loaded)

            def show(event: StepEvent) -> None:
                self._show(ask.index, frames.frame(event))

            def on_text(event: TextEvent) -> None:
                nonlocal arrived
                if arrived:
                    metrics.first_text.labels(self.model.name).observe(time.perf_counter() - arrived)
                    arrived = 0.0
                self._check()
                self._tell(Piece(index=ask.index, event=event))

            self._session = lease.session
            try:
                self._check()
                options = replace(
                    ask.options, continue_=True, raw=True, system=None, think=False, tools=()
                )  # all of which is in the ids already
                on_step = show if self._frames else None
                result = lease.session.generate(ask.ids[lease.kept :], options, on_step=on_step, on_text=on_text)
            finally:
                self._session = None
            metrics.generated(self.model.name, ask.options.decoder, result, len(ask.ids), lease.kept)
            if result.stop_reason == "cancelled":
                raise _Cancelled
            thoughts = _thoughts(lease.session, ask.ids, result)
            return Done(index=ask.index, ask=ask, result=result, kept=lease.kept, thoughts=thoughts)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _show(self, index: int, canvas: dict[str, Any]) -> None:
        """Frames are optional: a client that is slow to take them misses some, and is told how many."""
        if self._frames_ahead >= FRAMES_AHEAD:
            self._missed += 1
            return
        self._frames_ahead += 1
        canvas["missed"], self._missed = self._missed, 0
        self._tell(Frame(index=index, canvas=canvas))

    def _tell(self, *events: Event | BaseException | None, last: bool = False) -> None:
        """Events, and whether they are the last, in one call of the loop: each costs two changes of threads."""
        try:
            self._loop.call_soon_threadsafe(self._hear, events, last)
        except RuntimeError:  # the loop has ended before its threads
            self._cancelled.set()

    def _hear(self, events: Sequence[Event | BaseException | None], last: bool) -> None:
        for event in events:
            self._told.put_nowait(event)
        if last:
            self._on_end(self)
            self.ended.set()


def _thoughts(session: Session, prompt: Sequence[int], result: Result) -> int:
    if session.reader is None or not result.thinking:
        return 0
    return session.reader.kinds(result.tokens, inside=session.reader.opens_inside(prompt)).count("thought")


class Jobs:
    """All requests at work; not more than so many, and none once the server stops."""

    def __init__(self, pool: Pool, metrics: Metrics, most: int) -> None:
        self._pool, self._metrics, self._most = pool, metrics, most
        self._running: set[Job] = set()
        self._workers = Workers("dgemma-job")
        self.stopping = False
        self._seconds = 1.0  # of a request, lately

    def __len__(self) -> int:
        return len(self._running)

    def admit(self) -> None:
        """Whether there is room for one more. Raises ApiError 429 or 503."""
        if self.stopping:
            self._metrics.rejected.labels("stopping").inc()
            raise overloaded("the server is about to stop; try again later", 10)
        if len(self._running) >= self._most:
            self._metrics.rejected.labels("full").inc()
            wait = max(1, min(60, round(self._seconds * len(self._running) / 4)))
            raise ApiError(
                429, f"{self._most} requests are waiting already; try again later", code="queue_full", retry_after=wait
            )

    def start(self, model: Model, asks: Asks, frames: bool) -> Job:
        """Raises ApiError as `admit` does."""
        self.admit()
        started = time.monotonic()

        def ended(job: Job) -> None:
            self._running.discard(job)
            self._seconds += (time.monotonic() - started - self._seconds) / 8

        job = Job(model, asks, frames, ended)
        self._running.add(job)
        self._workers.run(partial(job.work, self._pool, self._metrics))
        return job

    def cancel(self, job: Job, why: ApiError | None = None) -> None:
        """End a job, wherever it waits."""
        job.cancel(why)
        self._pool.wake()

    async def stop(self, grace_s: float) -> None:
        """Take no more; wait for those that run, and cancel what has not ended in time."""
        self.stopping = True
        running = [asyncio.create_task(job.ended.wait()) for job in self._running]
        if running:
            await asyncio.wait(running, timeout=grace_s)
        for job in list(self._running):
            self.cancel(job, overloaded("the server was stopped before the answer was complete; try again later", 10))
        if running:
            await asyncio.wait(running, timeout=10)
        self._workers.close()
