"""Lowers engines one after the other, or at the same time, with each but the first in its own process.

Lowering is Python on one core, so two engines at once take as long as the slower one. It knows nothing of whether there is
enough memory.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dgemma.core.errors import ExportError
from dgemma.core.manifest import GraphSpec
from dgemma.export.quiet import quiet
from dgemma.export.request import ExportRequest, Weights, open_weights
from dgemma.export.stages import Progress, Reached

Lowered = tuple[dict[str, GraphSpec], dict[str, Any]]
Lower = Callable[[str, ExportRequest, Weights, Path, Progress], Lowered]


def lower_all(
    lower: Lower,
    engines: Sequence[str],
    request: ExportRequest,
    weights: Weights,
    stage: Path,
    *,
    at_once: bool,
    progress: Progress,
) -> dict[str, Lowered]:
    """What `lower` gives for each engine; it has to be a function of a module, and so has what it raises.

    Args:
        weights: of the request, for the engines that are lowered in this process. The others open them again.
        at_once: engines at the same time.
        progress: told of all engines' stages, never by two threads together.
    Raises:
        ExportError: a process ended without a result. What lowering raises comes through, from other processes too.
    """
    if not at_once:
        done = dict[str, Lowered]()
        for engine in engines:
            done[engine] = lower(engine, request, weights, stage, progress)
            gc.collect()  # what lowering leaves behind in cycles is as large as the weights
        return done
    lock = threading.Lock()

    def say(reached: Reached) -> None:
        with lock:
            progress(reached)

    others = [_Other(lower, engine, request, weights.folder, stage, say) for engine in engines[1:]]
    try:
        found = {engines[0]: lower(engines[0], request, weights, stage, say)}
        return found | {other.engine: other.result() for other in others}
    finally:
        for other in others:
            other.stop()


class _Other:
    """An engine that is lowered in a process of its own. A new interpreter: torch's threads do not survive a fork."""

    def __init__(
        self, lower: Lower, engine: str, request: ExportRequest, weights: Path | None, stage: Path, progress: Progress
    ) -> None:
        self.engine = engine
        context = multiprocessing.get_context("spawn")
        self._receive, send = context.Pipe(duplex=False)
        request = replace(request)  # without the texts that it caches
        self._process = context.Process(target=_work, args=(send, lower, engine, request, weights, stage), daemon=True)
        self._process.start()
        send.close()
        self._got: object = None
        self._listener = threading.Thread(target=self._listen, args=(progress,), daemon=True)
        self._listener.start()

    def _listen(self, progress: Progress) -> None:
        try:
            while isinstance(got := self._receive.recv(), Reached):
                progress(got)
            self._got = got
        except (EOFError, OSError):  # the process has ended
            pass

    def result(self) -> Lowered:
        """Wait for it."""
        self._listener.join()
        self._process.join()
        if isinstance(self._got, BaseException):
            raise self._got
        if self._got is None:
            raise ExportError(
                f"{self.engine}: the process that lowered it ended with status {self._process.exitcode}; close other programs, "
                "or export one engine at a time (--engine)"
            )
        return self._got  # type: ignore[return-value]  # what `_work` sends last

    def stop(self) -> None:
        """End it, if it still runs, before its files are removed."""
        self._process.kill()
        self._process.join()
        self._listener.join()
        self._receive.close()


def _work(send: Connection, lower: Lower, engine: str, request: ExportRequest, weights: Path | None, stage: Path) -> None:
    """In the other process: lower, and send stages, then the result or what was raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told too, and ends this one
    try:
        with quiet():
            found: object = lower(engine, request, open_weights(request, weights), stage, send.send)
    except BrokenPipeError:
        sys.exit(1)  # the first process has gone
    except Exception as error:
        error.add_note(traceback.format_exc())
        found = error
    send.send(found)
