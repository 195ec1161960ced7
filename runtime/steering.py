"""How the options of a generation change one step's outputs: acceptance, the draw, the likeliest ids.

Whatever they do not change stays exactly as the graph gave it. A positions, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dgemma.core.noise import token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import BANNED, GREEDY, SamplerOptions
from dgemma.runtime import cut_draw
from dgemma.runtime.cut_draw import Candidates, Cut
from dgemma.runtime.engines.base import Array
from dgemma.runtime.engines.host_sampler import accept
from dgemma.runtime.given import Given


class AtStep(NamedTuple):
    """What a step goes by: temperature [1] float32, entropy bound in nats."""

    temperature: Array
    bound: float


class Decision(NamedTuple):
    """Of one step: argmax int64, entropy float32, accepted bool and next canvas int64, all [A]; candidates where the step gives
    them and they are wanted."""

    argmax: Array
    entropy: Array
    accepted: Array
    canvas: Array
    candidates: Candidates | None


class Steering:
    """Of one generation.

    Args:
        exported: the bundle's sampler.
        vocab: V.
        filler: id of padding, which stands where all candidates are banned; the first id that is not, where it is banned.
        ends: ids that positions before the least length must not have.
        wanted: whether candidates are wanted for their own sake.
    """

    def __init__(
        self,
        options: SamplerOptions,
        exported: SamplerConfig,
        vocab: int,
        filler: int,
        ends: Sequence[int] = (),
        *,
        wanted: bool,
    ) -> None:
        self._vocab, self._exported = vocab, exported.entropy_bound
        cut = Cut(options.top_k, options.top_p, options.min_p)
        self._cut, self._cuts = cut, cut != Cut()
        self._wanted, self._biases = wanted, bool(options.bias)
        self._bias, self._early_bias = np.zeros(vocab), np.zeros(vocab)
        for i, bias in options.bias:
            self._bias[i] = self._early_bias[i] = bias
        self._early_bias[list(ends)] = BANNED
        self._filler, self._early_filler = _filler(self._bias, filler), _filler(self._early_bias, filler)

    def decide(
        self, out: Mapping[str, Array], rows: Array, words: Array, at: AtStep, given: Given | None, least: int = 0
    ) -> Decision:
        """What a step gave for its rows [A] with their words [2, A]; the answer has `least` tokens on this canvas, or more."""
        early = rows < least
        steers = self._cuts or self._biases or bool(early.any())
        argmax, entropy, accepted, canvas = (out[name][0] for name in ("argmax", "entropy", "accepted", "next_canvas"))
        candidates: Candidates | None = None
        if self._wanted or steers:
            candidates = cut_draw.ordered(out["likeliest"][0], out["log_probs"][0])
        is_wider, accepted_before = at.bound > self._exported, accepted
        drawn = out["drawn"][0] if is_wider or candidates is not None else canvas
        if at.bound != self._exported:
            accepted = accept(entropy, at.bound)
            accepted = accepted if is_wider else accepted & accepted_before
        if candidates is not None and steers:
            candidates, argmax, accepted, drawn = self._steered(
                candidates, argmax, accepted, drawn, words[0], at.temperature, early
            )
        if at.temperature[0] == np.float32(GREEDY):  # the graph's own draw hangs on the last bit of logits
            drawn = argmax
        canvas = np.where(accepted, drawn, self._renoised(accepted, accepted_before, canvas, words[1]))
        if given is not None:
            argmax, entropy, accepted, canvas = given.held(rows, argmax, entropy, accepted, canvas)
            candidates = None if candidates is None else _pinned(candidates, given.pinned[rows], argmax)
        return Decision(argmax, entropy, accepted, canvas, candidates)

    def _renoised(self, accepted: Array, before: Array, canvas: Array, words: Array) -> Array:
        """The canvas of positions that are not accepted: the graph's, but where the graph accepted them."""
        if not (before & ~accepted).any():
            return canvas
        return np.where(before, token_from_word(words.astype(np.uint32), self._vocab), canvas)

    def _steered(
        self,
        candidates: Candidates,
        argmax: Array,
        accepted: Array,
        drawn: Array,
        words: Array,
        temperature: Array,
        early: Array,
    ) -> tuple[Candidates, Array, Array, Array]:
        """Candidates with their bias, argmax, accepted and draws [A], cut to what is kept of them."""
        redrawn = np.full(len(argmax), self._cuts)
        if self._biases or early.any():
            own = np.where(early[:, None], self._early_bias[candidates.ids], self._bias[candidates.ids])
            candidates, touched = cut_draw.tilted(candidates, own, float(temperature[0]))
            redrawn = redrawn | touched | (np.where(early, self._early_bias[drawn], self._bias[drawn]) != 0)
            argmax = np.where(touched, candidates.ids[:, 0], argmax)
        keeps = cut_draw.kept(candidates.log_probs, self._cut)
        chosen = cut_draw.draw(candidates, keeps, words.astype(np.uint32))
        drawn = np.where(redrawn, chosen, drawn)
        if not (nothing := ~keeps.any(-1)).any():
            return candidates, argmax, accepted, drawn
        filler = np.where(early, self._early_filler, self._filler)
        return candidates, np.where(nothing, filler, argmax), accepted & ~nothing, drawn


def _filler(bias: Array, filler: int) -> int:
    """The id itself, or the first that is not banned."""
    return filler if bias[filler] != BANNED else int(np.argmax(bias != BANNED))


def _pinned(candidates: Candidates, pinned: Array, argmax: Array) -> Candidates:
    """With what is given certain, [A]."""
    ids, log_probs = candidates.ids.copy(), candidates.log_probs.copy()
    log_probs[pinned] = -np.inf
    ids[pinned, 0], log_probs[pinned, 0] = argmax[pinned], 0.0
    return Candidates(ids, log_probs)
