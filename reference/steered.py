"""A step under a generation's options, and its schedules: the formulae of docs/design/sampling.md, written out once more.

Plain numpy on the host, one position at a time, from the logits of all ids. It shares no code with the runtime's draw and with
`model/steered.py`. N canvas, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import SamplerOptions

Array = npt.NDArray[Any]
ARGMAX_ALONE, COLDEST = 1e-20, 0.01  # the temperature that stands for 0, and below which one that was asked for is 0


class Decided(NamedTuple):
    """What a step decides: argmax and canvas int64 [N], accepted bool [N]."""

    argmax: Array
    accepted: Array
    canvas: Array


def schedule(options: SamplerOptions, policy: SamplerConfig) -> list[tuple[float, float]]:
    """Temperature and entropy bound of every step of a canvas, the first one first."""
    table = options.table
    steps = options.max_steps or policy.steps
    if table is not None:
        steps = len(table.temperature) or len(table.entropy_bound)
    found = []
    for i in range(steps):
        left = (steps - i) / steps
        if options.schedule == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        hot: Any = (policy.t_max, policy.t_min) if options.temperature is None else options.temperature
        wide: Any = (policy.entropy_bound,) * 2 if options.entropy_bound is None else options.entropy_bound
        temperature, bound = (b + (a - b) * left for a, b in (hot, wide))
        if table is not None and table.temperature:
            temperature = table.temperature[i]
        if table is not None and table.entropy_bound:
            bound = table.entropy_bound[i]
        found.append((ARGMAX_ALONE if temperature < COLDEST and options.given else temperature, bound))
    return found


def decide(
    tempered: Array,
    entropy: Array,
    drawn: Array,
    words: Array,
    options: SamplerOptions,
    temperature: float,
    bound: float,
    *,
    count: int,
    pad: int,
    ends: Collection[int] = (),
    least: int = 0,
) -> Decided:
    """One step.

    Args:
        tempered: float32 [N, V], logits over the temperature.
        entropy: float32 [N].
        drawn: ids [N] that the whole distribution gives.
        words: uint32 [2, N].
        count: how many candidates a position has.
        pad: id where all candidates are banned.
        ends, least: ids that the first `least` positions must not have.
    """
    n, vocab = tempered.shape
    argmax, chosen = tempered.argmax(-1).astype(np.int64), np.array(drawn, np.int64)
    accepted = np.array([_ahead(entropy, i) <= bound for i in range(n)])
    cuts = any(one is not None for one in (options.top_k, options.top_p, options.min_p))
    for i in range(n):
        bias = dict(options.bias) | (dict.fromkeys(ends, -math.inf) if i < least else {})
        if not (cuts or bias):
            continue
        pairs = _candidates(tempered[i], count)
        is_biased = any(one in bias for _, one in pairs)
        if is_biased:
            pairs = _tilted(pairs, bias, temperature)
            argmax[i] = pairs[0][1]
        kept = _kept(pairs, options)
        if not kept:
            argmax[i], accepted[i] = pad if bias.get(pad) != -math.inf else _unbanned(bias, vocab), False
        elif cuts or is_biased or int(chosen[i]) in bias:
            chosen[i] = _draw(kept, (int(words[0, i]) >> 8) / 2**24)
    if temperature == ARGMAX_ALONE:
        chosen = argmax
    noise = np.array([int(word) * vocab >> 32 for word in words[1]], np.int64)
    return Decided(argmax, accepted, np.where(accepted, chosen, noise))


def _ahead(entropy: Array, i: int) -> float:
    """Nats of the positions before the i-th in order of entropy."""
    return sum(float(x) for j, x in enumerate(entropy) if (x, j) < (entropy[i], i))


def _candidates(tempered: Array, count: int) -> list[tuple[np.float32, int]]:
    """(log-probability, id) of the likeliest ids, falling, and of equal ones the lower id first."""
    ids = np.argsort(-tempered, kind="stable")[:count]
    most = tempered[ids[0]]
    total = np.log(np.exp(tempered - most).sum(dtype=np.float32))
    return sorted(((tempered[one] - most - total, int(one)) for one in ids), key=_falling)


def _falling(pair: tuple[Any, int]) -> tuple[float, int]:
    return -float(pair[0]), pair[1]


def _tilted(pairs: list[tuple[np.float32, int]], bias: dict[int, float], temperature: float) -> list[tuple[np.float32, int]]:
    lifted = [(float(value) + bias.get(one, 0.0) / temperature, one) for value, one in pairs]
    most = max(value for value, _ in lifted)
    if most == -math.inf:
        return [(np.float32(value), one) for value, one in sorted(lifted, key=_falling)]
    total = math.log(sum(math.exp(value - most) for value, _ in lifted))
    with np.errstate(over="ignore"):
        return sorted(((np.float32(value - most - total), one) for value, one in lifted), key=_falling)


def _kept(pairs: list[tuple[np.float32, int]], options: SamplerOptions) -> list[tuple[float, int]]:
    found, before = [], 0.0
    for rank, (narrow, one) in enumerate(pairs):
        value = float(narrow)
        within = options.top_k is None or rank < options.top_k
        within = within and (options.top_p is None or before < options.top_p)
        within = within and (options.min_p is None or value >= float(pairs[0][0]) + math.log(options.min_p))
        if within and value > -math.inf:
            found.append((value, one))
        before += math.exp(value)
    return found


def _draw(kept: list[tuple[float, int]], uniform: float) -> int:
    most = max(value for value, _ in kept)
    weights = sorted((one, float(np.float32(math.exp(value - most)))) for value, one in kept)
    target, running = uniform * sum(weight for _, weight in weights), 0.0
    for one, weight in weights:
        running += weight
        if running > target:
            return one
    return weights[-1][0]


def _unbanned(bias: dict[int, float], vocab: int) -> int:
    return next(one for one in range(vocab) if bias.get(one) != -math.inf)
