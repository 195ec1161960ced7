"""One peer: what it needs, the process that it runs in, and what that process measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dgemma.core.errors import EngineError

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Seconds of single calls in one process, warm-up left out; an empty list where a peer has no such call.

    Args:
        version: of the program.
        step_s: denoising steps of the canvas after the prefix.
        token_s: autoregressive tokens after the prefix.
        prefill_s: causal passes over as many tokens as a canvas has, after the prefix.
        compile_s: what the first call took beyond the others, where it compiles.
    """

    version: str
    step_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    compile_s: float | None = None

    def to_line(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_output(cls, text: str) -> Sample:
        """From the last line that a process of this package printed; raises EngineError."""
        try:
            return cls(**json.loads(text.strip().splitlines()[-1]))
        except (ValueError, TypeError, IndexError):
            raise EngineError("its last line of output is not the expected JSON; run it alone to see why") from None


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program in one setting.

    Args:
        name: `program/setting`, as `--peers` picks it.
        weights: number format of its weights.
        bits: per weight, as stored.
        need: bytes of memory, about.
        measure: runs a process; raises EngineError with the reason when it fails.
        missing: why it cannot run here, or None.
        note: what a reader must know of its figures.
    """

    name: str
    weights: str
    bits: float | None
    need: int
    measure: Callable[[], Sample]
    missing: str | None = None
    note: str = ""


def call(command: Sequence[str | Path], threads: int, limit_s: float, extra: dict[str, str] | None = None) -> tuple[str, str]:
    """stdout and stderr of a process that may use `threads` threads and `limit_s` seconds; its children end with it.

    Raises:
        EngineError: it cannot be started, takes too long, or exits with another status than 0 (the reason is its last line).
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **(extra or {})}
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"{Path(words[0]).name} cannot be started ({error.strerror})") from None
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise EngineError(f"it took more than {limit_s:.0f} s and was ended; give --limit SECONDS to wait longer") from None
    finally:
        if process.poll() is None:
            _end(process)
    if process.returncode:
        lines = [line.strip() for line in (err or out).splitlines() if line.strip()] or ["it printed nothing"]
        raise EngineError(f"exit status {process.returncode}: {lines[-1].removeprefix('error: ')[:300]}")
    return out, err


def _end(process: subprocess.Popen[str]) -> None:
    """The process and, where the system has groups of processes, all that it started (compilers)."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def module(name: str, *words: str | Path) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", f"{__package__}.{name}", *map(str, words)]
