"""How far one denoising step of an artifact is from the same step of the float model.

numpy, in float64. A NaN anywhere makes the figure NaN, and NaN passes no threshold. N canvas, V vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

CEILING_DB = 300.0  # SQNR of arrays that are equal, for JSON has no infinity
_ROWS = 16  # rows of logits in float64 at a time: 32 MB at a vocabulary of 262,144


def _log_softmax(logits: Array) -> Doubles:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    result: Doubles = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def kl_divergence(reference: Array, other: Array) -> Doubles:
    """KL(reference ‖ other) in nats per position: logits [N, V] → [N]; a sum that rounds below 0 is 0.

    Raises:
        ValueError: shapes differ.
    """
    _same_shape(reference, other)
    result = np.empty(len(reference))
    for start in range(0, len(reference), _ROWS):
        rows = slice(start, start + _ROWS)
        log_p, log_q = _log_softmax(reference[rows]), _log_softmax(other[rows])
        result[rows] = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    return np.maximum(result, 0.0)  # keeps NaN


def jaccard(a: Array, b: Array) -> float:
    """Size of the intersection over size of the union of two sets given as masks [N]; 1 when both are empty."""
    _same_shape(a, b)
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


class Noise:
    """Signal-to-quantization-noise ratio over any number of arrays: 10 · log10(Σ reference² / Σ error²) in dB."""

    def __init__(self) -> None:
        self.signal = self.error = 0.0

    def add(self, reference: Array, other: Array) -> None:
        """Arrays of one shape; raises ValueError when they are not."""
        _same_shape(reference, other)
        x = reference.astype(np.float64)
        self.signal += float(np.square(x).sum())
        self.error += float(np.square(x - other).sum())

    @property
    def db(self) -> float:
        """At most `CEILING_DB`, which equal arrays have; NaN once a value was not finite."""
        if not np.isfinite(self.signal) or not np.isfinite(self.error):
            return float("nan")
        if self.error == 0.0:
            return CEILING_DB
        if self.signal == 0.0:
            return -CEILING_DB
        return float(min(max(10.0 * np.log10(self.signal / self.error), -CEILING_DB), CEILING_DB))


def sqnr(reference: Array, other: Array) -> float:
    """SQNR in dB of one array, see `Noise`."""
    noise = Noise()
    noise.add(reference, other)
    return noise.db


def relative_error(reference: Array, other: Array) -> float:
    """Root of Σ error² over root of Σ reference²: 0 for equal arrays, infinite where the reference alone is zero."""
    _same_shape(reference, other)
    x = reference.astype(np.float64)
    signal, error = float(np.square(x).sum()), float(np.square(x - other).sum())
    if error == 0.0:
        return 0.0
    return float(np.sqrt(error / signal)) if signal else float("inf")


def range_error(reference: Array, other: Array) -> float:
    """Largest error over the range of the reference's values."""
    _same_shape(reference, other)
    error = float(np.abs(reference.astype(np.float64) - other).max())
    if error == 0.0:
        return 0.0
    extent = float(reference.max()) - float(reference.min())
    return error / extent if extent else float("inf")


def candidates_error(ids: Array, log_probs: Array, other_ids: Array, other: Array) -> Doubles:
    """Largest error of a log-probability among the likeliest ids, by position: ids and log-probabilities, falling, [N, K] →
    [N] nats.

    An id that the other does not have counts with the least that it gives, so that ids which are nearly as likely may take
    each other's places.
    """
    _same_shape(ids, other_ids)
    same = ids[..., :, None] == other_ids[..., None, :]  # [N, K, K]
    x, least = other.astype(np.float64), other[..., -1:].astype(np.float64)
    found = np.where(same.any(-1), np.where(same, x[..., None, :], -np.inf).max(-1), np.minimum(least, log_probs))
    result: Doubles = np.abs(found - log_probs).max(-1)
    return result


def spread(values: Array) -> dict[str, float | None]:
    """Mean, 99 % quantile and maximum; None, which is how JSON says NaN, when a value is not finite or there is none."""
    if not values.size or not np.isfinite(values).all():
        return {"mean": None, "p99": None, "max": None}
    x = values.astype(np.float64)
    return {"mean": float(x.mean()), "p99": float(np.quantile(x, 0.99)), "max": float(x.max())}


def finite(value: float) -> float | None:
    """The value, or None for what JSON cannot say."""
    return float(value) if np.isfinite(value) else None


def _same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"arrays to compare have shapes {a.shape} and {b.shape}")
