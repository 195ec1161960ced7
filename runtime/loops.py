"""Denoising one canvas: a call of `denoise` per step, or one call of the fused `generate`; both yield the same steps.
Or a call of `denoise_active` per step, for the active positions alone.

It knows nothing of text, stop tokens or of what comes before or after the canvas. N canvas, A active
positions, T steps, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dgemma.core.compute_policy import ActiveSet, AdaptiveStop, ComputePolicy
from dgemma.core.errors import EngineError
from dgemma.core.noise import token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import SamplerOptions
from dgemma.runtime import finite
from dgemma.runtime.engines.base import Array, Engine, Feeds, IndexOutOfBounds
from dgemma.runtime.noise import canvas_noise
from dgemma.runtime.prefix import Prefix

DENOISE, ACTIVE, GENERATE = "denoise", "denoise_active", "generate"  # the graphs that a step or a canvas calls


class DenoisingStep(NamedTuple):
    """One denoising step as the engine returned it; arrays are [N]. `rows`: positions that went through the stack, `width`:
    positions that the canvas has so far."""

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
        self, prefix: Prefix, seed: int, canvas_index: int, adaptive: bool, sampling: Sampling | None = None
    ) -> Iterator[DenoisingStep]:
        """One `denoise` call per step; the adaptive stop is decided here. `sampling` None: as exported."""
        sampling = sampling or self.exported
        canvas, words = self.noise(seed, canvas_index)
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft}
        stop, steps = AdaptiveStop(sampling.sampler, self._n), len(sampling.temperatures)
        for i, temperature in enumerate(sampling.temperatures):
            feeds["canvas"], feeds["words"], feeds["temperature"] = canvas, words[i], temperature
            out = finite.run(self._engine, DENOISE, feeds, f"step {i + 1} of canvas {canvas_index + 1}")
            argmax, entropy, before = out["argmax"][0], out["entropy"][0], canvas[0]
            canvas, feeds["soft"] = out["next_canvas"], out["next_soft"]
            accepted, left = out["accepted"][0], steps - i
            yield DenoisingStep(self._n, self._n, left, temperature[0], before, argmax, entropy, accepted, canvas[0])
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
    ) -> Iterator[DenoisingStep]:
        """One `denoise_active` call per step, of the positions that `core.compute_policy` lets run; the keys and values of the
        others stay as their last forward left them, in the slots behind the prefix.

        Positions that did not run are told of with what their last step gave, and zeros where there was none.

        Args:
            first: the id that the canvas begins with, where that is known already.
        """
        (canvas, words), n = self.noise(seed, canvas_index), self._n
        if first is not None:
            canvas[0, 0] = first
        soft = self._no_soft.copy()
        state = ActiveSet(n, compute, sampling.sampler, self._stops)
        feeds = self._prefixed(prefix, ACTIVE, behind=n)
        for i, temperature in enumerate(sampling.temperatures):
            rows, before = state.begin(), canvas[0].copy()
            feeds |= {"canvas": canvas[:, rows], "positions": rows[None], "soft": soft[:, rows], "temperature": temperature}
            feeds |= {"words": np.ascontiguousarray(words[i][:, rows]), "settled": state.committed[None]}
            out = finite.run(self._engine, ACTIVE, feeds, f"step {i + 1} of canvas {canvas_index + 1}")
            prefix.place(out, rows)
            canvas[:, rows], soft[:, rows] = out["next_canvas"], out["next_soft"]
            done = state.take(rows, out["argmax"][0], out["entropy"][0], out["accepted"][0])
            canvas[0, state.committed] = state.argmax[state.committed]
            argmax, entropy, accepted = state.argmax.copy(), state.entropy.copy(), state.accepted.copy()
            left = len(sampling.temperatures) - i
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

    def _prefixed(self, prefix: Prefix, graph: str, behind: int = 0) -> Feeds:
        """A graph's inputs that are the prefix's keys and values, with `behind` slots more, and how many of them count."""
        return {**prefix.feeds(graph, behind), "prefix_length": np.array([prefix.encoded], np.int64)}
