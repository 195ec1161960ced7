"""Which experts a mixture's routers chose on one backend and not on another, and how close to a tie that was. numpy only.

The choices are computed again from the routers' scores. If two scores are equal, a backend may have taken either.
N rows, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgemma.verify.backend import Array

_NAMED = 3  # layers in a line


def chosen(scores: Array, count: int) -> Array:
    """Scores [N, E] → bool [N, E], `count` of them true in each row."""
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
    found = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(found, best, True, -1)
    return found


def changed_margins(reference: Array, other: Array, count: int) -> Array:
    """For each row whose experts differ: by how many nats the reference's lowest chosen score exceeds its highest other score
    (the logarithm of the ratio of their probabilities)."""
    if count >= reference.shape[1]:
        return np.empty(0)
    changed = (chosen(reference, count) != chosen(other, count)).any(-1)
    ordered = -np.sort(-reference[changed].astype(np.float64), axis=-1)
    margins: Array = ordered[:, count - 1] - ordered[:, count]
    return margins


@dataclass
class Routing:
    """What `changed_margins` gave for the rows of one layer, all steps together."""

    rows: int = 0
    margins: list[float] = field(default_factory=list)

    def add(self, reference: Array, other: Array, count: int) -> None:
        """Scores [N, E] of one step of both."""
        self.rows += len(reference)
        self.margins += changed_margins(reference, other, count).tolist()

    def figures(self) -> dict[str, Any]:
        """JSON types; margins are None where no row has other experts."""
        return {
            "rows": self.rows,
            "other": len(self.margins),
            "median_margin": float(np.median(self.margins)) if self.margins else None,
            "largest_margin": max(self.margins, default=None),
        }


def described(layers: dict[str, dict[str, Any]] | None) -> str:
    """The figures of all layers in one line, which names the layers with the most rows whose experts differ."""
    if not layers:
        return "not known, because its graphs do not return the routers' scores"
    rows, other = (sum(found[key] for found in layers.values()) for key in ("rows", "other"))
    if not other:
        return f"at none of {rows} positions, all layers together"
    worst = sorted(layers.items(), key=lambda item: -item[1]["other"])[:_NAMED]
    named = ", ".join(f"layer {layer} {found['other']}" for layer, found in worst if found["other"])
    largest = max(found["largest_margin"] for found in layers.values() if found["other"])
    return f"at {other} of {rows} positions, all layers together ({named}; margins up to {largest:.2g} nats)"
