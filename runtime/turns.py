"""Takes turns between generations that share an engine: one computes at a time, a canvas each.

It knows nothing of engines and canvases: a generation asks for a turn, and says where it can wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

OLDEST_EVERY = 4  # of so many turns that are passed on, one goes to whoever has waited longest


@dataclass(eq=False, kw_only=True)
class Place:
    """One generation among those that share.

    Args:
        cancelled: whether it has been; asked by `wake`, too.
        taken: turns that it has had so far.
        behind: turns that others had while it waited for its first one, the one that was on when it came included.
        waited_s: seconds that it waited for turns.
    """

    cancelled: Callable[[], bool]
    taken: int = 0
    behind: int = 0
    waited_s: float = 0.0
    arrived: int = 0
    called: threading.Event = field(default_factory=threading.Event)


class Turns:
    """Turns of generations. The next one is for whoever has had the fewest, so that a short answer does not wait behind long
    ones; and now and then for whoever has waited longest, so that no long one waits for ever. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clock, self._passed = count(), 0
        self._now: Place | None = None
        self._waiting: list[Place] = []

    @property
    def waiting(self) -> int:
        """How many generations wait for a turn."""
        return len(self._waiting)

    def enter(self, place: Place) -> None:
        """Wait for a first turn, or until cancelled; ended by `leave`."""
        self._wait(place)

    def pass_on(self, place: Place) -> None:
        """Let others compute, and wait for the next turn; at once where nobody waits, or where it is cancelled."""
        if self._waiting and self._now is place and not place.cancelled():
            self._wait(place)

    def leave(self, place: Place) -> None:
        """Give the turn up for good."""
        with self._lock:
            if self._now is place:
                self._call_next()
            elif place in self._waiting:
                self._waiting.remove(place)

    def wake(self) -> None:
        """Look again at who is cancelled."""
        with self._lock:
            for place in [one for one in self._waiting if one.cancelled()]:
                self._waiting.remove(place)
                place.called.set()

    def _wait(self, place: Place) -> None:
        place.called.clear()
        clock = time.perf_counter()
        with self._lock:
            place.arrived = next(self._clock)
            if not place.taken:
                place.behind = int(self._now is not None)
            self._waiting.append(place)
            if self._now is None or self._now is place:
                self._call_next()
        if place.cancelled():  # since before it stood in the row, where `wake` looks
            self.wake()
        place.called.wait()
        place.waited_s += time.perf_counter() - clock

    def _call_next(self) -> None:
        self._now = None
        if not self._waiting:
            return
        self._passed += 1
        if self._passed % OLDEST_EVERY:
            chosen = min(self._waiting, key=lambda one: (one.taken, one.arrived))
        else:
            chosen = min(self._waiting, key=lambda one: one.arrived)
        self._waiting.remove(chosen)
        chosen.taken += 1
        for other in self._waiting:
            other.behind += not other.taken
        self._now = chosen
        chosen.called.set()
