"""Where the rows of a step come from. What a step takes depends on seed, step and saved state alone, so that runs resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from dgemma.train.data import Row

GROUPS = 12  # steps whose rows are drawn together and dealt out by length


class Source(Protocol):
    """Rows for every step."""

    @property
    def size(self) -> int | None:
        """Different rows that there are; None where they are drawn anew."""

    def rows(self, step: int) -> list[Row]:
        """The rows of step 0, 1, …"""

    def learned(self, rows: Sequence[Row], exact: Sequence[bool | None]) -> dict[str, Any]:
        """Take note of which rows' canvases came out right, None where nothing tells; what the log is to say of it."""

    def state(self) -> dict[str, Any]:
        """What `restore` takes; plain values."""

    def restore(self, state: dict[str, Any]) -> None: ...


class Stateless:
    """The part of sources that learn nothing."""

    def learned(self, rows: Sequence[Row], exact: Sequence[bool | None]) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class Order:
    """Rows in an endless order, every row once before any comes again; what stands at a place depends on the seed alone."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._epoch, self._order = -1, list[int]()

    def take(self, start: int, count: int) -> list[Row]:
        """Places start … start+count−1 of the order."""
        return [self._at(place) for place in range(start, start + count)]

    def _at(self, place: int) -> Row:
        epoch, index = divmod(place, len(self._rows))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self._seed + 1) * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._rows), generator=generator).tolist()
        return self._rows[self._order[index]]


class Replayed(Stateless):
    """Data, and beside it a share of every batch from replay data where there is any; replayed rows come last."""

    def __init__(self, data: Sequence[Row], replay: Sequence[Row], batch: int, replay_share: float, seed: int) -> None:
        self.size = len(data)
        self.own = round(batch * (1 - replay_share)) if replay else batch
        self.others = batch - self.own
        self.data, self.replay = Order(data, seed), Order(replay, seed)

    def rows(self, step: int) -> list[Row]:
        return self.data.take(step * self.own, self.own) + (
            self.replay.take(step * self.others, self.others) if self.others else []
        )


def dealt(rows: Sequence[Row], batch: int, seed: int, round_: int) -> list[list[Row]]:
    """The rows of a dozen steps as batches of rows of similar lengths, so that little is padded; batches in random order."""
    ordered = sorted(rows, key=lambda row: len(row.prefix) + len(row.canvas))
    generator = torch.Generator().manual_seed((seed + 1) * 7_368_787 + round_)
    return [ordered[i * batch : (i + 1) * batch] for i in torch.randperm(GROUPS, generator=generator).tolist()]


class Grouped(Stateless):
    """Rows in random order, dealt out by length."""

    def __init__(self, rows: Sequence[Row], batch: int, seed: int) -> None:
        self.size = len(rows)
        self.batch, self.seed, self.order = batch, seed, Order(rows, seed)

    def rows(self, step: int) -> list[Row]:
        round_, index = divmod(step, GROUPS)
        count = self.batch * GROUPS
        return dealt(self.order.take(round_ * count, count), self.batch, self.seed, round_)[index]
