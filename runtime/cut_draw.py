"""The draw among a position's likeliest ids: cut by rank, by total probability or by ratio, with a bias on ids.

docs/design/sampling.md has the formulae; `tests/vectors/cut_draw.json` test vectors. It knows nothing of steps or bundles.
A positions, K candidates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dgemma.core.noise import U32, uniform_from_word
from dgemma.runtime.engines.base import Array


class Candidates(NamedTuple):
    """The likeliest ids int64 [A, K] and their log-probabilities float32 [A, K], falling; equal ones in order of ids."""

    ids: Array
    log_probs: Array


class Cut(NamedTuple):
    """Which candidates are kept; None: no such rule."""

    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None


def ordered(ids: Array, log_probs: Array) -> Candidates:
    """In the order of `Candidates`."""
    order = np.lexsort((ids, -log_probs), axis=-1)
    return Candidates(np.take_along_axis(ids, order, -1), np.take_along_axis(log_probs, order, -1))


def tilted(candidates: Candidates, own: Array, temperature: float) -> tuple[Candidates, Array]:
    """With a bias on each one's logit, [A, K] float64, −inf for ids that are banned.

    Returns:
        the candidates, and [A] bool the positions that have one with a bias: their log-probabilities are those among the
        candidates, −inf for banned ones.
    """
    touched = (own != 0).any(-1)
    if not touched.any():
        return candidates, touched
    lifted = candidates.log_probs[touched].astype(np.float64) + own[touched] / temperature
    most = lifted.max(-1, keepdims=True)
    most = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):  # all are banned
        total = np.log(_running(np.exp(lifted - most))[:, -1:])
    total = np.where(np.isfinite(total), total, 0.0)
    log_probs = candidates.log_probs.copy()
    with np.errstate(over="ignore"):  # what float32 cannot hold is impossible
        log_probs[touched] = (lifted - most - total).astype(np.float32)
    return ordered(candidates.ids, log_probs), touched


def kept(log_probs: Array, cut: Cut) -> Array:
    """Which of the candidates a draw may take, [A, K] bool, from log-probabilities in their order."""
    found: Array = log_probs > -np.inf
    exact = log_probs.astype(np.float64)
    if cut.top_k is not None:
        found = found & (np.arange(log_probs.shape[-1]) < cut.top_k)
    if cut.top_p is not None:
        running = _running(np.exp(exact))
        before = np.concatenate([np.zeros_like(running[:, :1]), running[:, :-1]], -1)
        found = found & (before < cut.top_p)
    if cut.min_p is not None:
        found = found & (exact >= exact[:, :1] + math.log(cut.min_p))
    return found


def draw(candidates: Candidates, keeps: Array, words: U32) -> Array:
    """Ids [A], each of the kept candidates [A, K], by the words [A]; a position that keeps none takes its last id."""
    exact = np.where(keeps, candidates.log_probs, -np.inf).astype(np.float64)
    most = exact.max(-1, keepdims=True)
    weights = np.exp(exact - np.where(np.isfinite(most), most, 0.0)).astype(np.float32)
    by_id = np.argsort(candidates.ids, -1)
    running = _running(np.take_along_axis(weights, by_id, -1).astype(np.float64))
    target = uniform_from_word(words).astype(np.float64) * running[:, -1]
    at = (running <= target[:, None]).sum(-1).clip(max=running.shape[-1] - 1)
    chosen: Array = np.take_along_axis(np.take_along_axis(candidates.ids, by_id, -1), at[:, None], -1)[:, 0]
    return chosen


def _running(x: Array) -> Array:
    """Running sums one after the other, in float64."""
    found: Array = x.cumsum(-1)
    return found
