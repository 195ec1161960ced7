"""Denoising one canvas: a call of `denoise` per step, or one call of the fused `generate`; both yield the same steps.
Or a call of `denoise_active` per step, for the active positions alone.

It knows nothing of text, stop tokens or of what comes before or after the canvas. N canvas, A active
positions, T steps, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dgemma.core.compute_policy import ActiveSet, AdaptiveStop, ComputePolicy
from dgemma.core.errors import EngineError
from dgemma.core.noise import step_words, token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import GREEDY, SamplerOptions
from dgemma.runtime import finite
from dgemma.runtime.engines.base import Array, Engine, Feeds, IndexOutOfBounds
from dgemma.runtime.given import Given
from dgemma.runtime.noise import canvas_noise
from dgemma.runtime.prefix import Prefix

DENOISE, ACTIVE, GENERATE = "denoise", "denoise_active", "generate"  # the graphs that a step or a canvas calls


class DenoisingStep(NamedTuple):
    """One denoising step as the engine returned it, but for what options change (`Loops._taken`); arrays are [N].

    `rows`: positions that went through the stack, `width`: positions that the canvas has so far.
    """

    rows: int
    width: int
    remaining: int
    temperature: np.float32
    canvas_in: Array
    argmax: Array
    entropy: Array
    accepted: Array
    canvas_out: Array


class Sampling(NamedTuple):
    """What a generation samples by: the bundle's sampler with its options, and the temperature of every step, [1] each."""

    sampler: SamplerConfig
    temperatures: Sequence[Array]


def accept(entropy: Array, bound: float) -> Array:
    """As `model/sampler.py:accept`: entropies [A] float32, bool [A]."""
    index = np.arange(len(entropy))
    mine, other = entropy[:, None], entropy[None]
    ahead = (other < mine) | ((other == mine) & (index[None] < index[:, None]))  # [A, A]
    accepted: Array = ahead.astype(np.float64) @ entropy.astype(np.float64) <= bound
    return accepted


class Loops:
    """The loops over one engine, with what does not change between canvases computed once."""

    def __init__(self, engine: Engine) -> None:
        manifest = engine.bundle.manifest
        self._engine, self._sampler = engine, manifest.sampler
        self._n, self._t, self._vocab = manifest.canvas_length, manifest.steps, manifest.model.vocab_size
        self._stops = manifest.model.eos_token_ids
        self.exported = self.sampling(SamplerOptions())
        self._no_soft = np.zeros((1, self._n, manifest.model.hidden_size), np.float32)

    def sampling(self, options: SamplerOptions) -> Sampling:
        """Raises UsageError."""
        temperatures = [np.array([t], np.float32) for t in options.temperatures(self._sampler)]
        return Sampling(options.applied(self._sampler), temperatures)

    def noise(self, seed: int, canvas: int) -> tuple[Array, Array]:
        """Initial canvas [1, N] and words [T, 2, N], both int64."""
        initial, words = canvas_noise(seed, canvas, self._t, self._n)
        return token_from_word(initial, self._vocab)[None], words.astype(np.int64)

    def host(
        self,
        prefix: Prefix,
        seed: int,
        canvas_index: int,
        adaptive: bool,
        sampling: Sampling | None = None,
        given: Given | None = None,
    ) -> Iterator[DenoisingStep]:
        """One `denoise` call per step; the adaptive stop is decided here.

        Args:
            sampling: None: as exported.
            given: what is known of the canvas.
        """
        sampling = sampling or self.exported
        canvas, words, first_step = self._begin(seed, canvas_index, len(sampling.temperatures), given)
        every = np.arange(self._n)
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft}
        stop, steps = AdaptiveStop(sampling.sampler, self._n), len(sampling.temperatures)
        for i, temperature in enumerate(sampling.temperatures[first_step:]):
            feeds["canvas"], feeds["words"], feeds["temperature"] = canvas, words[i], temperature
            out = finite.run(self._engine, DENOISE, feeds, f"step {i + 1} of canvas {canvas_index + 1}")
            argmax, entropy, accepted, after = self._taken(out, every, words[i], temperature, sampling, given)
            before, canvas, feeds["soft"], left = canvas[0], after[None], out["next_soft"], steps - first_step - i
            yield DenoisingStep(self._n, self._n, left, temperature[0], before, argmax, entropy, accepted, after)
            if stop(argmax, entropy) and adaptive:
                return

    def probe(self, prefix: Prefix, place: str) -> None:
        """One step on the prefix; raises EngineError when its output is NaN."""
        canvas, words = self.noise(0, 0)
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft, "canvas": canvas, "words": words[0]}
        finite.run(self._engine, DENOISE, {**feeds, "temperature": self.exported.temperatures[0]}, place)

    def active(
        self,
        prefix: Prefix,
        seed: int,
        canvas_index: int,
        adaptive: bool,
        sampling: Sampling,
        compute: ComputePolicy,
        first: int | None = None,
        given: Given | None = None,
    ) -> Iterator[DenoisingStep]:
        """One `denoise_active` call per step, of the positions that `core.compute_policy` lets run; the keys and values of the
        others stay as their last forward left them, in the slots behind the prefix.

        Positions that did not run are told of with what their last step gave, and zeros where there was none.

        Args:
            first: the id that the canvas begins with, where that is known already.
            given: what else is known of it.
        """
        steps, n = len(sampling.temperatures), self._n
        canvas, words, first_step = self._begin(seed, canvas_index, steps, given)
        if first is not None:
            canvas[0, 0] = first
        soft = self._no_soft.copy()
        ends = () if given is not None and given.length is not None else self._stops
        state = ActiveSet(n, compute, sampling.sampler, ends)
        feeds = self._prefixed(prefix, ACTIVE, behind=n)
        for i, temperature in enumerate(sampling.temperatures[first_step:]):
            rows, before = state.begin(), canvas[0].copy()
            feeds |= {"canvas": canvas[:, rows], "positions": rows[None], "soft": soft[:, rows], "temperature": temperature}
            feeds |= {"words": np.ascontiguousarray(words[i][:, rows]), "settled": state.committed[None]}
            out = finite.run(self._engine, ACTIVE, feeds, f"step {i + 1} of canvas {canvas_index + 1}")
            prefix.place(out, rows)
            argmax, entropy, accepted, after = self._taken(out, rows, words[i][:, rows], temperature, sampling, given)
            canvas[0, rows], soft[:, rows] = after, out["next_soft"]
            done = state.take(rows, argmax, entropy, accepted)
            canvas[0, state.committed] = state.argmax[state.committed]
            argmax, entropy, accepted = state.argmax.copy(), state.entropy.copy(), state.accepted.copy()
            left = steps - first_step - i
            after = canvas[0].copy()
            yield DenoisingStep(len(rows), state.width, left, temperature[0], before, argmax, entropy, accepted, after)
            if done and adaptive:
                return

    def graph(self, prefix: Prefix, seed: int, canvas_index: int, adaptive: bool) -> Iterator[DenoisingStep]:
        """One `generate` call per canvas; its steps are yielded after it has returned."""
        canvas, words = self.noise(seed, canvas_index)
        feeds = {**self._prefixed(prefix, GENERATE), "canvas": canvas, "words": words}
        feeds["adaptive"] = np.array([adaptive], np.bool_)
        try:
            out = self._engine.run(GENERATE, feeds)
        except IndexOutOfBounds as error:  # of NaN, as in `finite.run`; the host loop comes to the step in which it arose
            for _ in self.host(prefix, seed, canvas_index, adaptive):
                pass
            raise finite.not_a_number(self._engine, f"a step of canvas {canvas_index + 1}") from error
        steps = int(out["steps"][0])
        if not 1 <= steps <= self._t or not np.array_equal(out["committed"][0], out["argmaxes"][steps - 1]):
            raise EngineError(f"graph 'generate' ran {steps} of {self._t} steps and did not commit the last argmax canvas")
        before = canvas[0]
        for i in range(steps):
            finite.check(self._engine, out["entropies"][i], f"step {i + 1} of canvas {canvas_index + 1}")
            argmax, entropy, accepted, after = (out[name][i] for name in ("argmaxes", "entropies", "accepts", "canvases"))
            temperature, left = self.exported.temperatures[i][0], self._t - i
            yield DenoisingStep(self._n, self._n, left, temperature, before, argmax, entropy, accepted, after)
            before = after

    def _begin(self, seed: int, canvas_index: int, steps: int, given: Given | None) -> tuple[Array, Array, int]:
        """The first step's canvas [1, N], words [T, 2, N], and how many of the steps are left out."""
        canvas, words = self.noise(seed, canvas_index)
        if given is None:
            return canvas, words, 0
        of_draft = step_words(seed, canvas_index, self._t + 1, self._n)[0]  # the stream behind those of all steps
        return given.begin(canvas, of_draft), words, given.first_step(steps)

    def _taken(
        self,
        out: Mapping[str, Array],
        rows: Array,
        words: Array,
        temperature: Array,
        sampling: Sampling,
        given: Given | None,
    ) -> tuple[Array, ...]:
        """What a step of a temperature [1] gave for its rows [A] with their words [2, A]: argmax, entropy, accepted and next
        canvas [A], as temperature 0, a lower entropy bound and what is given of the canvas leave them."""
        argmax, entropy, accepted, canvas = (out[name][0] for name in ("argmax", "entropy", "accepted", "next_canvas"))
        if temperature[0] == np.float32(GREEDY):  # the graph's own draw hangs on the last bit of logits
            canvas = np.where(accepted, argmax, canvas)
        if sampling.sampler.entropy_bound < self._sampler.entropy_bound:
            accepted = accepted & accept(entropy, sampling.sampler.entropy_bound)
            canvas = np.where(accepted, canvas, token_from_word(words[1].astype(np.uint32), self._vocab))
        if given is not None:
            argmax, entropy, accepted, canvas = given.held(rows, argmax, entropy, accepted, canvas)
        return argmax, entropy, accepted, canvas

    def _prefixed(self, prefix: Prefix, graph: str, behind: int = 0) -> Feeds:
        """A graph's inputs that are the prefix's keys and values, with `behind` slots more, and how many of them count."""
        return {**prefix.feeds(graph, behind), "prefix_length": np.array([prefix.encoded], np.int64)}
