"""Text files that options name."""

from __future__ import annotations

from pathlib import Path

from dgemma.core.errors import UsageError


def read_text(option: str, path: Path) -> str:
    """The text of an option's file; raises UsageError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        if str(path).lstrip().startswith(("{", "[")):
            raise UsageError(f"{option} takes a file, not JSON itself; write it into a file and name that") from None
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror or error}); name a text file") from None
    except ValueError:
        raise UsageError(f"{option} {path}: is not UTF-8 text; convert it first") from None
