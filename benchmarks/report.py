"""How a benchmark speaks: tables and progress on a terminal, plain lines in a pipe, JSON written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from dgemma.core.errors import DgemmaError, UsageError

T = TypeVar("T")


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table to stdout; the first column is text, the others are aligned as numbers."""
    rows = [list(row) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        rich = Table(title=title, box=None, pad_edge=False)
        for i, name in enumerate(header):
            widest = max((len(row[i]) for row in rows), default=0)  # a narrow terminal wraps headers, not figures
            rich.add_column(name, justify="left" if i == 0 else "right", min_width=max(widest, *map(len, name.split())))
        for row in rows:
            rich.add_row(*row)
        Console().print(rich)
        return
    widths = [max(len(row[i]) for row in [list(header), *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [list(header), *rows]:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())


def check_out(path: Path | None, option: str = "--out") -> None:
    """Raise UsageError when the result could not be written later: before hours of work, not after them."""
    if path is None:
        return
    folder = path.absolute().parent
    if not path.name or path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file")
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: its folder does not exist; make it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: is not a regular file; choose another place")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path}: its folder cannot be written; choose another place")


def write_whole(path: Path, content: bytes, option: str = "--out") -> None:
    """Write to a neighbour, then rename; raises UsageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written ({error.strerror}); choose another place") from None
    finally:
        with suppress(OSError):  # a folder that takes no new files holds none of ours
            temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """As JSON, by `write_whole`."""
    write_whole(path, (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit status 2 and one line on stderr for what a user can put right; 130 after Ctrl-C."""
    try:
        yield
    except DgemmaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def main(run: Callable[[], int]) -> None:
    """Run a benchmark's entry point and exit with its status."""
    with one_line_errors():
        raise SystemExit(run())
