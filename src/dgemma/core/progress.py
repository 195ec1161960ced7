"""Long work tells on stderr how far it is: in place on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield the items: a bar on a terminal, a line each tenth elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=label, console=Console(stderr=True), transient=True)
        return
    tenth = max(1, -(-len(items) // 10))
    for i, item in enumerate(items, 1):
        yield item
        if i % tenth == 0 or i == len(items):
            print(f"{label}: {i}/{len(items)}", file=sys.stderr, flush=True)


def notes(lines: Iterable[str]) -> None:
    """Print what was left out or ignored to stderr, one line each; the command goes on."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr, flush=True)


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """What to call as each stage starts: a spinner on a terminal, a line with the time elsewhere."""
    start = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield lambda stage: status.update(f"{stage}  [dim]{time.monotonic() - start:.0f} s[/dim]")
    else:
        yield lambda stage: print(f"{time.monotonic() - start:6.1f} s  {stage}", file=sys.stderr, flush=True)
