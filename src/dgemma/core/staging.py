"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgemma.core.errors import DgemmaError


@contextmanager
def staging(out: Path, error: type[DgemmaError], verb: str) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name in the end, or vanishes.

    Args:
        verb: what to do again once the disk has room, for the message.
    Raises:
        error: the disk is full, or the folder cannot be written.
    """
    stage = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield stage
        stage.chmod(0o755)
        stage.rename(out)
    except OSError as reason:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error(f"{out}: the disk is full; free space and {verb} again") from None
        raise error(f"{out}: cannot be written ({reason.strerror or reason}); check its folder's permissions") from None
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
