"""Input and output of the process: streams that never fail because of their encoding, JSON for any encoding, plain text."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from dgemma.core.plural import counted

if TYPE_CHECKING:
    from dgemma.runtime.result import Result


def prepare_streams() -> None:
    """Open the null device for streams that are closed, in the order of their numbers, so that no file takes their place: stdin
    is at its end, writing to stdout fails, and stderr says nothing. Write what an encoding lacks as escapes; read UTF-8 from a
    pipe or a file, whatever the locale, without a byte order mark."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, flags), mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")


def print_json(values: object, **options: Any) -> None:
    """Print one JSON object; in ASCII alone where stdout is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
    print(json.dumps(values, ensure_ascii=encoding != "utf8", **options), flush=True)


def printable(text: str) -> str:
    """Text whose control characters are replaced."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def show(text: str) -> None:
    """Print an answer; on a terminal, without anything that a terminal would obey."""
    print(printable(text) if sys.stdout.isatty() else text, flush=True)


def answer(result: Result) -> str:
    """The text, and each tool call on a line of its own: the name, and the arguments as JSON."""
    called = calls(result)
    return "\n".join([*([result.text] if result.text or not called else []), *called])


def calls(result: Result) -> list[str]:
    """A line for each tool call."""
    return [f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}" for call in result.tool_calls]


def folded(thinking: str, width: int = 100) -> str:
    """Thoughts on one line: how they begin."""
    line = printable(" ".join(thinking.split()))
    return f"thought: {line if len(line) <= width else line[: width - 1] + '…'}"


def dim(text: str) -> str:
    """Text for stderr, dim on a terminal."""
    return f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text


def stats(result: Result) -> str:
    """One line of figures about a generation."""
    timings = result.timings
    busy = timings.prefill_s + timings.denoise_s + timings.commit_s
    return (
        f"[{result.engine}, {result.loop}] {counted(result.count, 'token')} in {counted(result.steps, 'step')}, "
        f"{result.tokens_per_forward:.1f} tokens/forward, {result.count / max(busy, 1e-9):.0f} tokens/s, "
        f"stop: {result.stop_reason}"
    )


def abandon(name: str) -> None:
    """Send the rest of a stream, stdout or stderr, whose reader has gone to the null device."""
    stream, null = getattr(sys, name), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError, AttributeError):  # not a stream of the process
        setattr(sys, name, io.StringIO())
    finally:
        os.close(null)
