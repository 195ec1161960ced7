"""How long a structure may take to compile, and whether anybody still waits for it.

It knows nothing of what is compiled: the work asks at every stage, and raises what it is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dgemma.core.errors import Cancelled

SECONDS = 60.0  # for one structure, on a busy machine too
POLL_S = 0.05  # how often somebody who waits for another process or thread asks


class Late(Exception):
    """The time is up."""


class Patience:
    """From now on.

    Args:
        cancelled: whether nobody waits any more; may be asked from any thread.
        seconds: until it is too late; None: SECONDS.
    """

    def __init__(self, cancelled: Callable[[], bool] = lambda: False, seconds: float | None = None) -> None:
        self.cancelled = cancelled
        self._until = time.monotonic() + (SECONDS if seconds is None else seconds)

    def check(self) -> None:
        """Raises Cancelled, Late."""
        if self.cancelled():
            raise Cancelled("cancelled while the structure was compiled")
        if time.monotonic() > self._until:
            raise Late
