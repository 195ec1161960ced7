"""Threads that are kept between requests. It knows nothing of what they do.

In a new thread, a generation of the tiny model takes a tenth longer: its stack and its heap are not in memory yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Workers:
    """As many threads as there was work at once; whoever became idle last is the next to work. Safe to use from any thread.

    They are daemons: a process ends without waiting for them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Work | None]] = []
        self._closed = False

    def run(self, work: Work) -> None:
        """Run `work` in a thread; it must not raise."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), name=self._name, daemon=True).start()
        inbox.put(work)

    def close(self) -> None:
        """End idle threads, and others once their work is done."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()

    def _serve(self, inbox: SimpleQueue[Work | None]) -> None:
        while (work := inbox.get()) is not None:
            work()
            with self._lock:
                if self._closed:
                    return
                self._idle.append(inbox)
