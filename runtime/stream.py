"""Events of a generation as an iterator: the generation runs in a thread, and waits for the consumer.

It knows nothing of what an event is, or of what makes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

Tell = Callable[[object], None]


class _Left(Exception):
    """Whoever iterated has stopped."""


def iterate(run: Callable[[Tell], object], cancel: Callable[[], None], forget: Callable[[], None]) -> Iterator[object]:
    """What `run` tells of, one at a time, and then what it returns; what it raises is raised here.

    `run` waits at each event until the next one is asked for, so that arrays in it are not overwritten meanwhile. An iteration
    that is left early cancels it, and waits until it has ended; `forget` then takes back a cancel that came too late.
    """
    events: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()
    asked, left = threading.Semaphore(0), threading.Event()
    ended = object()

    def tell(event: object) -> None:
        events.put((event, None))
        asked.acquire()
        if left.is_set():
            raise _Left

    def work() -> None:
        try:
            events.put((run(tell), None))
            events.put((ended, None))
        except _Left:
            pass
        except BaseException as error:  # for whoever iterates
            events.put((ended, error))

    worker = threading.Thread(target=work, name="dgemma-stream", daemon=True)
    worker.start()
    over = False
    try:
        while True:
            event, error = events.get()
            over = error is not None or event is ended
            if error is not None:
                raise error
            if over:
                return
            yield event
            asked.release()
    finally:
        left.set()
        if not over and worker.is_alive():  # else what is running by now is somebody else's
            cancel()
            asked.release()
            worker.join()
            forget()
