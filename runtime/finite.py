"""Detects outputs that are not numbers, by their values and not by what an engine reports."""

from __future__ import annotations

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.runtime.engines.base import Array, Engine, Feeds, IndexOutOfBounds


def check(engine: Engine, values: Array, place: str) -> None:
    """Raises EngineError when a value is NaN; `place` says where, such as `step 3 of canvas 1`."""
    if np.isnan(values).any():
        raise not_a_number(engine, place)


def run(engine: Engine, graph: str, feeds: Feeds, place: str) -> Feeds:
    """A step of denoising on ids that lie in the vocabulary. An index that leaves its bounds was then made by the draw, whose
    sums reach every share of their total unless they are NaN. Raises EngineError."""
    try:
        out = engine.run(graph, feeds)
    except IndexOutOfBounds as error:
        raise not_a_number(engine, place) from error
    if "entropy" in out:
        check(engine, out["entropy"], place)
    return out


def not_a_number(engine: Engine, place: str) -> EngineError:
    return EngineError(
        f"{engine.name} {engine.version}: the model's output is not a number (NaN) in {place}; a weight is damaged or a value "
        "overflows: check the bundle with `dgemma verify`, or export it again with another recipe"
    )
