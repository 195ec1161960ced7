"""A denoising step under a generation's options, one position at a time: the naive twin of `runtime/steering.py`.

It has all logits, and takes of them what a graph puts out: every draw, and the likeliest ids.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import BANNED, GREEDY, SamplerOptions
from dgemma.model import sampler
from dgemma.model.sampler import SampledStep

Pairs = list[tuple[float, int]]  # log-probabilities and ids, falling, and of equal ones the lower id first


def steered(
    tempered: Tensor,
    words: Tensor,
    exported: SamplerConfig,
    options: SamplerOptions,
    temperature: float,
    bound: float,
    filler: int,
    ends: Collection[int] = (),
    least: int = 0,
) -> SampledStep:
    """One step of one canvas.

    Args:
        tempered, words: as `sampler.step` takes them, with B = 1.
        exported: the bundle's sampler.
        temperature, bound: of the step.
        filler: id where all candidates are banned.
        ends, least: ids that the first `least` positions must not have.
    """
    vocab, biases = tempered.shape[-1], dict(options.bias)
    done = sampler.step(tempered, words, bound)
    ids, log_probs = sampler.candidates(tempered, exported.candidates(vocab))
    argmax, accepted, drawn = done.argmax[0].tolist(), done.accepted[0].tolist(), done.drawn[0].tolist()
    uniforms = sampler.uniforms(words[0, 0]).tolist()
    for n in range(len(argmax)):
        bias = biases | dict.fromkeys(ends, BANNED) if n < least else biases
        stand_in = filler if bias.get(filler) != BANNED else next(i for i in range(vocab) if bias.get(i) != BANNED)
        pairs: Pairs = list(zip(log_probs[0, n].tolist(), ids[0, n].tolist(), strict=True))
        is_biased = any(i in bias for _, i in pairs)
        pairs = _falling(_tilted(pairs, bias, temperature) if is_biased else pairs)
        kept = _kept(pairs, options)
        if is_biased:
            argmax[n] = pairs[0][1] if kept else stand_in
            accepted[n] = accepted[n] and bool(kept)
        cuts = options.top_k is not None or options.top_p is not None or options.min_p is not None
        if kept and (cuts or is_biased or drawn[n] in bias):
            drawn[n] = _draw(kept, uniforms[n])
        if temperature == GREEDY:
            drawn[n] = argmax[n]
    noise = sampler.tokens(words[0, 1], vocab).tolist()
    canvas = [d if a else r for d, a, r in zip(drawn, accepted, noise, strict=True)]
    chosen, likeliest, taken, draws = (torch.tensor([values]) for values in (canvas, argmax, accepted, drawn))
    return SampledStep(chosen, likeliest, done.entropy, taken, draws)


def _falling(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def _tilted(pairs: Pairs, bias: dict[int, float], temperature: float) -> Pairs:
    lifted = [(value + bias.get(i, 0.0) / temperature, i) for value, i in pairs]
    most = max(value for value, _ in lifted)
    if most == BANNED:
        return lifted
    total = most + math.log(sum(math.exp(value - most) for value, _ in lifted))
    return [(value - total, i) for value, i in lifted]


def _kept(pairs: Pairs, options: SamplerOptions) -> Pairs:
    found, mass = list[tuple[float, int]](), 0.0
    for rank, (value, i) in enumerate(pairs):
        fits = value != BANNED and (options.top_k is None or rank < options.top_k)
        fits = fits and (options.top_p is None or mass < options.top_p)
        if fits and (options.min_p is None or value >= pairs[0][0] + math.log(options.min_p)):
            found.append((value, i))
        mass += math.exp(value)
    return found


def _draw(kept: Pairs, uniform: float) -> int:
    by_id = sorted((i, math.exp(value - kept[0][0])) for value, i in kept)
    target, running = uniform * sum(weight for _, weight in by_id), 0.0
    for i, weight in by_id:
        running += weight
        if running > target:
            return i
    return by_id[-1][0]
