"""The machine's C++ compiler, if it has one."""

from __future__ import annotations

import os
import shutil


def names() -> tuple[str, ...]:
    """What it may be called: only what CXX says, if that is set."""
    chosen = os.environ.get("CXX")
    return (chosen,) if chosen else ("c++", "g++", "clang++")


def find() -> str | None:
    """Path of the first that is there."""
    return next(filter(None, map(shutil.which, names())), None)
