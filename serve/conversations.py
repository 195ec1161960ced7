"""Conversations that a server keeps: prefixes with their keys and values, for requests that begin alike.

It knows nothing of HTTP. One pool for all bundles, with one limit of memory; safe to use from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from dgemma.core.cost import prefix_bytes
from dgemma.runtime.session import Session

MOST_RESTING = 64
USELESS = -1  # when a prefix was used that no other request can go on from: the first to go


@dataclass(eq=False, kw_only=True)
class Conversation:
    """A session of its own, with `size` bytes for as many tokens as it has held; `used`: by the pool's clock."""

    model: str
    session: Session
    size: int
    used: int = 0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A conversation while a request has it; its prefix begins as the request's, and `kept` tokens of it count."""

    session: Session
    kept: int


class Pool:
    """Conversations at work and at rest. Bytes are those of filled positions, which is what the prefixes take of memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._clock = count()
        self._line: list[object] = []  # those that wait for room, in the order in which they came
        self._resting: list[Conversation] = []
        self._at_work: set[Conversation] = set()

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of conversations at work and at rest."""
        with self._changed:
            return sum(one.size for one in self._at_work), sum(one.size for one in self._resting)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self._at_work), len(self._resting)

    @contextmanager
    def lease(
        self, model: str, base: Session, ids: Sequence[int], tokens: int, cancelled: Callable[[], bool]
    ) -> Iterator[Lease | None]:
        """A conversation for a prompt and what follows it, `tokens` in all; None where it was cancelled before there was room.

        Args:
            base: of the model; others are made of it.
        """
        one = self._take(model, base, ids, prefix_bytes(base.manifest.model, tokens), cancelled)
        if one is None:
            yield None
            return
        try:
            kept = one.session.reusable(ids)
            one.session.rewind(kept)
            yield Lease(session=one.session, kept=kept)
        except BaseException:
            self._drop(one)
            raise
        self._rest(one)

    def wake(self) -> None:
        """Those that wait for room look whether they are cancelled."""
        with self._changed:
            self._changed.notify_all()

    def forget(self, model: str) -> None:
        """Close what rests of a model."""
        with self._changed:
            for one in [one for one in self._resting if one.model == model]:
                self._close(one)

    def _take(
        self, model: str, base: Session, ids: Sequence[int], need: int, cancelled: Callable[[], bool]
    ) -> Conversation | None:
        with self._changed:
            if not self._has_room(need, cancelled):
                return None
            found, kept = self._best(model, ids)
            if found is None:
                found = self._spare(model, need)
            if found is not None and (not kept or 2 * kept >= len(found.session.prefix_ids)):
                self._resting.remove(found)  # it goes on, little is lost of it, or nothing
                found.size = max(found.size, need)
            else:
                session = base.another() if found is None else found.session.another(kept)
                found = Conversation(model=model, session=session, size=need)
            self._at_work.add(found)
            self._make_room()
            return found

    def _has_room(self, need: int, cancelled: Callable[[], bool]) -> bool:
        """Wait in line for room beside those at work; alone, one may take more than the limit. False when cancelled."""
        place = object()
        self._line.append(place)
        try:
            while not cancelled():
                taken = sum(one.size for one in self._at_work)
                if self._line[0] is place and (not self._at_work or taken + need <= self._limit):
                    return True
                self._changed.wait()
            return False
        finally:
            self._line.remove(place)
            self._changed.notify_all()

    def _best(self, model: str, ids: Sequence[int]) -> tuple[Conversation | None, int]:
        """The one at rest of which most can be kept for `ids`, and how much; of several, the one used last."""
        best: tuple[Conversation | None, int] = (None, 0)
        for one in self._resting:
            if one.model == model and (kept := one.session.reusable(ids)) >= max(best[1], 1):
                best = (one, kept)
        return best

    def _spare(self, model: str, need: int) -> Conversation | None:
        """One at rest to take over, for its caches are in memory already: of no use to others, or the next to make room."""
        oldest = min(self._resting, key=lambda one: one.used, default=None)
        if oldest is None or oldest.model != model:
            return None
        taken = sum(one.size for one in self._at_work)
        full = taken + sum(one.size for one in self._resting) + need > self._limit or len(self._resting) >= MOST_RESTING
        fits = taken + max(oldest.size, need) <= self._limit or not self._at_work
        return oldest if fits and (full or oldest.used == USELESS) else None

    def _make_room(self) -> None:
        """Close those at rest that were used longest ago, until they take no more than those at work leave."""
        left = self._limit - sum(one.size for one in self._at_work)
        while self._resting and (sum(one.size for one in self._resting) > left or len(self._resting) > MOST_RESTING):
            self._close(min(self._resting, key=lambda one: one.used))

    def _rest(self, one: Conversation) -> None:
        with self._changed:
            self._at_work.discard(one)
            one.used = next(self._clock) if one.session.reusable() else USELESS
            self._resting.append(one)
            self._make_room()
            self._changed.notify_all()

    def _drop(self, one: Conversation) -> None:
        with self._changed:
            self._at_work.discard(one)
            one.session.close()
            self._changed.notify_all()

    def _close(self, one: Conversation) -> None:
        self._resting.remove(one)
        one.session.close()
