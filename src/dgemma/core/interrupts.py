"""Ctrl-C while a program still imports: it ends at once, without a traceback.

Before `end_at_once` runs, Ctrl-C is Python's own: so it stands on what the interpreter has loaded by then.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what `signal` wraps in enumerations, which take a while to make
import os

INTERRUPTED = 130  # status of a program that Ctrl-C has ended


def end_at_once() -> None:
    """From now on Ctrl-C ends the process: where nothing has been done yet, there is nothing to clean up."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Ctrl-C raises KeyboardInterrupt again, which unwinds what has begun."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
