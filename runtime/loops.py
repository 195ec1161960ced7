"""Denoising one canvas: one call of `denoise` per step, or one call of the fused `generate`; both yield the same steps. Or one
call of `denoise_active` per step, for the active positions only.

It knows nothing of text, stop tokens or of what comes before or after the canvas. N canvas, A active
positions, T steps, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dgemma.core.compute_policy import ActiveSet, AdaptiveStop, ComputePolicy
from dgemma.core.errors import EngineError
from dgemma.core.noise import step_words, token_from_word
from dgemma.core.sampler import CANDIDATE_OUTPUTS, LOOP_INPUTS, SamplerConfig
from dgemma.core.sampler_options import SamplerOptions
from dgemma.runtime import finite
from dgemma.runtime.cut_draw import Candidates
from dgemma.runtime.engines.base import Array, Engine, Feeds, IndexOutOfBounds
from dgemma.runtime.given import Given
from dgemma.runtime.guide import Guide
from dgemma.runtime.noise import canvas_noise
from dgemma.runtime.prefix import Prefix
from dgemma.runtime.steering import AtStep, Steering
from dgemma.runtime.structure.structured import StructuredCanvas

DENOISE, ACTIVE, GENERATE = "denoise", "denoise_active", "generate"  # the graphs that a step or a canvas calls


class DenoisingStep(NamedTuple):
    """One denoising step as the engine returned it, but for what options change (`steering.py`); arrays are [N].

    `rows`: positions that went through the stack, `width`: positions that the canvas has so far, `candidates`: of each
    position's last run, where they are wanted, `bound`: on entropies, in nats; None: as exported.
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
    candidates: Candidates | None = None
    bound: float | None = None


class Sampling(NamedTuple):
    """What a generation samples by: the bundle's sampler with its options, what every step goes by, whether any of their bounds
    is not the bundle's, what the options make of a step, and how many tokens the answer must have on the canvas."""

    sampler: SamplerConfig
    steps: Sequence[AtStep]
    rebounds: bool
    steering: Steering
    least: int = 0


class Loops:
    """The loops over one engine, with what does not change between canvases computed once."""

    def __init__(self, engine: Engine) -> None:
        manifest = engine.bundle.manifest
        self._engine, self._sampler = engine, manifest.sampler
        self._n, self._t, self._vocab = manifest.canvas_length, manifest.steps, manifest.model.vocab_size
        self._stops, self._pad = manifest.model.eos_token_ids, manifest.model.pad_token_id
        self._made: tuple[object, Sampling] | None = None
        self.exported = self.sampling(SamplerOptions())
        self._no_soft = np.zeros((1, self._n, manifest.model.hidden_size), np.float32)

    def sampling(self, options: SamplerOptions, *, wanted: bool = False) -> Sampling:
        """`wanted`: whether steps are to have candidates. What was made last is kept: generations ask several times, many with
        the same options. Raises UsageError."""
        if self._made is None or self._made[0] != (options, wanted):
            self._made = (options, wanted), self._sampling(options, wanted)
        return self._made[1]

    def _sampling(self, options: SamplerOptions, wanted: bool) -> Sampling:
        values = zip(options.temperatures(self._sampler), options.bounds(self._sampler), strict=True)
        steps = [AtStep(np.array([temperature], np.float32), bound) for temperature, bound in values]
        ends = (*self._stops, self._pad)
        steering = Steering(options, self._sampler, self._vocab, self._pad, ends, wanted=wanted)
        rebounds = any(at.bound != self._sampler.entropy_bound for at in steps)
        return Sampling(options.applied(self._sampler), steps, rebounds, steering)

    def candidates(self, graph: str) -> int:
        """K, how many of the likeliest ids a step of that graph puts out; 0 where it does not."""
        outputs = {spec.name: spec.shape for spec in self._engine.bundle.graph(self._engine.name, graph).outputs}
        size = outputs["likeliest"][-1] if outputs.keys() >= set(CANDIDATE_OUTPUTS) else 0
        return size if isinstance(size, int) else 0

    def lacks(self) -> tuple[str, ...]:
        """Inputs of `generate` that an older bundle has not."""
        names = {spec.name for spec in self._engine.bundle.graph(self._engine.name, GENERATE).inputs}
        return tuple(name for name in LOOP_INPUTS if name not in names)

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
        structured: StructuredCanvas | None = None,
        guide: Guide | None = None,
    ) -> Iterator[DenoisingStep]:
        """One `denoise` call per step, two of `denoise_guided` where it is guided; the adaptive stop is decided here.

        Args:
            sampling: None: as exported.
            given: what is known of the canvas.
            structured: the language that it must be of.
            guide: what steps are pushed away from.
        """
        sampling = sampling or self.exported
        canvas, words, first_step = self._begin(seed, canvas_index, len(sampling.steps), given)
        every = np.arange(self._n)
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft}
        stop, steps = AdaptiveStop(sampling.sampler, self._n), len(sampling.steps)
        kept: Array | None = None  # what the step before accepted
        for i, at in enumerate(sampling.steps[first_step:]):
            feeds["canvas"], feeds["words"], feeds["temperature"] = canvas, words[i], at.temperature
            place, twice = f"step {i + 1} of canvas {canvas_index + 1}", guide is not None and guide.guides(i + 1)
            out = guide.run(feeds, kept, place) if guide and twice else finite.run(self._engine, DENOISE, feeds, place)
            argmax, entropy, accepted, after, best = sampling.steering.decide(out, every, words[i], at, given, sampling.least)
            if structured is not None:
                argmax, after = structured.held(every, out, accepted, after)
            kept = accepted
            before, canvas, feeds["soft"], left = canvas[0], after[None], out["next_soft"], steps - first_step - i
            told = before, argmax, entropy, accepted, after, best, at.bound if sampling.rebounds else None
            yield DenoisingStep(self._n * (1 + twice), self._n, left, at.temperature[0], *told)
            if stop(argmax, entropy) and adaptive:
                return

    def behind(self, prefix: Prefix, seed: int, begun: Sequence[int]) -> Candidates:
        """The candidates [1, K] at temperature 1 of the position behind ids that a first canvas begins with, the rest being its
        noise: one step."""
        canvas, words = self.noise(seed, 0)
        canvas[0, : len(begun)] = begun
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft, "canvas": canvas, "words": words[0]}
        out = finite.run(self._engine, DENOISE, {**feeds, "temperature": np.ones(1, np.float32)}, "a step for the choices")
        return Candidates(*(out[name][0, len(begun)][None] for name in ("likeliest", "log_probs")))

    def probe(self, prefix: Prefix, place: str) -> None:
        """One step on the prefix; raises EngineError when its output is NaN."""
        canvas, words = self.noise(0, 0)
        feeds = {**self._prefixed(prefix, DENOISE), "soft": self._no_soft, "canvas": canvas, "words": words[0]}
        finite.run(self._engine, DENOISE, {**feeds, "temperature": self.exported.steps[0].temperature}, place)

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
        structured: StructuredCanvas | None = None,
    ) -> Iterator[DenoisingStep]:
        """One `denoise_active` call per step, of the positions that `core.compute_policy` lets run; the keys and values of the
        others stay as their last forward left them, in the slots behind the prefix.

        Positions that did not run are told of with what their last step gave, and zeros where there was none.

        Args:
            first: the id that the canvas begins with, where that is known already.
            given: what else is known of it.
            structured: the language that it must be of.
        """
        steps, n = len(sampling.steps), self._n
        canvas, words, first_step = self._begin(seed, canvas_index, steps, given)
        if first is not None:
            canvas[0, 0] = first
        soft, candidates = self._no_soft.copy(), None
        ends = () if given is not None and given.length is not None else self._stops
        state = ActiveSet(n, compute, sampling.sampler, ends)
        feeds = self._prefixed(prefix, ACTIVE, behind=n)
        for i, at in enumerate(sampling.steps[first_step:]):
            rows, before = state.begin(), canvas[0].copy()
            feeds |= {"canvas": canvas[:, rows], "positions": rows[None], "soft": soft[:, rows], "temperature": at.temperature}
            feeds |= {"words": np.ascontiguousarray(words[i][:, rows]), "settled": state.committed[None]}
            out = finite.run(self._engine, ACTIVE, feeds, f"step {i + 1} of canvas {canvas_index + 1}")
            prefix.place(out, rows)
            decided = sampling.steering.decide(out, rows, words[i][:, rows], at, given, sampling.least)
            argmax, entropy, accepted, after, best = decided
            candidates = _placed(candidates, best, rows, n)
            if structured is not None:
                argmax, after = structured.held(rows, out, accepted, after)
            canvas[0, rows], soft[:, rows] = after, out["next_soft"]
            done = state.take(rows, argmax, entropy, accepted)
            canvas[0, state.committed] = state.argmax[state.committed]
            argmax, entropy, accepted = state.argmax.copy(), state.entropy.copy(), state.accepted.copy()
            left = steps - first_step - i
            after = canvas[0].copy()
            told = before, argmax, entropy, accepted, after, candidates, at.bound if sampling.rebounds else None
            yield DenoisingStep(len(rows), state.width, left, at.temperature[0], *told)
            if done and adaptive:
                return

    def graph(
        self, prefix: Prefix, seed: int, canvas_index: int, adaptive: bool, sampling: Sampling
    ) -> Iterator[DenoisingStep]:
        """One `generate` call per canvas; its steps are yielded after it has returned. A bundle without inputs for the sampling
        has its own built in."""
        canvas, words = self.noise(seed, canvas_index)
        feeds = {**self._prefixed(prefix, GENERATE), "canvas": canvas, "words": words}
        feeds["adaptive"] = np.array([adaptive], np.bool_)
        if not self.lacks():
            feeds |= self._sampled_by(sampling)
        try:
            out = self._engine.run(GENERATE, feeds)
        except IndexOutOfBounds as error:  # of NaN, as in `finite.run`; the host loop comes to the step in which it arose
            for _ in self.host(prefix, seed, canvas_index, adaptive, sampling):
                pass
            raise finite.not_a_number(self._engine, f"a step of canvas {canvas_index + 1}") from error
        steps = int(out["steps"][0])
        if not 1 <= steps <= len(sampling.steps) or not np.array_equal(out["committed"][0], out["argmaxes"][steps - 1]):
            raise EngineError(
                f"graph 'generate' ran {steps} of {len(sampling.steps)} steps and did not commit the last argmax canvas"
            )
        before = canvas[0]
        for i in range(steps):
            finite.check(self._engine, out["entropies"][i], f"step {i + 1} of canvas {canvas_index + 1}")
            argmax, entropy, accepted, after = (out[name][i] for name in ("argmaxes", "entropies", "accepts", "canvases"))
            at, left = sampling.steps[i], len(sampling.steps) - i
            told = before, argmax, entropy, accepted, after, None, at.bound if sampling.rebounds else None
            yield DenoisingStep(self._n, self._n, left, at.temperature[0], *told)
            before = after

    def _sampled_by(self, sampling: Sampling) -> Feeds:
        """`generate`'s inputs for the sampling; steps beyond the last have values that no step reads."""
        steps, rule, missing = len(sampling.steps), sampling.sampler, self._t - len(sampling.steps)
        temperatures = np.concatenate([at.temperature for at in sampling.steps])
        return {
            "temperatures": np.pad(temperatures, (0, missing), constant_values=1),
            "bounds": np.pad(np.array([at.bound for at in sampling.steps]), (0, missing)),
            "most_steps": np.array([steps], np.int64),
            "confidence": np.array([rule.confidence_threshold], np.float64),
            "stability": np.array([rule.stability_threshold], np.int64),
        }

    def _begin(self, seed: int, canvas_index: int, steps: int, given: Given | None) -> tuple[Array, Array, int]:
        """The first step's canvas [1, N], words [T, 2, N], and how many of the steps are left out."""
        canvas, words = self.noise(seed, canvas_index)
        if given is None:
            return canvas, words, 0
        of_draft = step_words(seed, canvas_index, self._t + 1, self._n)[0]  # the stream behind those of all steps
        return given.begin(canvas, of_draft), words, given.first_step(steps)

    def _prefixed(self, prefix: Prefix, graph: str, behind: int = 0) -> Feeds:
        """A graph's inputs that are the prefix's keys and values, with `behind` slots more, and how many of them count."""
        return {**prefix.feeds(graph, behind), "prefix_length": np.array([prefix.encoded], np.int64)}


def _placed(candidates: Candidates | None, new: Candidates | None, rows: Array, n: int) -> Candidates | None:
    """Candidates [N, K] with those of the rows [A] in their places."""
    if new is None:
        return None
    if candidates is None:
        size = new.ids.shape[-1]
        candidates = Candidates(np.zeros((n, size), np.int64), np.full((n, size), -np.inf, np.float32))
    ids, log_probs = candidates.ids.copy(), candidates.log_probs.copy()
    ids[rows], log_probs[rows] = new
    return Candidates(ids, log_probs)
