"""The JAX reference as a backend, in float32 or in bfloat16 as on TPU. Needs `dgemma[reference]`.

Prefixes have room for a whole context from the start, so that each function is compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dgemma.core.manifest import Manifest
from dgemma.core.noise import key_from_seed
from dgemma.core.sampler_options import SamplerOptions
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder
from dgemma.reference import denoiser, guided, sampler, steered, texts
from dgemma.reference.noise import canvas_noise, token_from_word
from dgemma.reference.texts import Reference
from dgemma.verify.backend import Array, Backend, StepOut, Taps, routers_of
from dgemma.verify.steer import Steer

Held = tuple[denoiser.Prefix, np.int32 | int]  # a prefix, and how many of its slots are filled
NAMES = {"bfloat16": "reference bfloat16", "float32": "reference float32"}


class JaxBackend(Backend):
    """A checkpoint in the reference, with a bundle's canvas and sampler."""

    def __init__(self, folder: Path, dtype: str, manifest: Manifest) -> None:
        loaded = Reference.load(folder, dtype)
        config = replace(loaded.config, canvas_length=manifest.canvas_length)
        super().__init__(NAMES[dtype], config, manifest.sampler)
        self.steers = dtype == "float32"
        self.reference = Reference(loaded.weights, config, manifest.sampler)
        self.chunk = texts.CHUNK
        self.facts = {"jax": jax.__version__, "platform": jax.default_backend(), "dtype": dtype}
        self._slots = -(-(manifest.context + texts.CHUNK) // texts.BUCKET) * texts.BUCKET
        self._denoise = {taps: jax.jit(partial(_denoise, config, taps)) for taps in (False, True)}
        self._sampled = jax.jit(partial(_sampled, config, manifest.sampler))
        self._encode = jax.jit(partial(_tapped_encode, config))
        self._guided = jax.jit(partial(guided.denoise, config=config))
        self.reset()

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        done = self.reference.generate(prompt_ids, seed=seed, max_new_tokens=max_new_tokens, slots=self._slots)
        return done.trajectory

    def steered(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, steer: Steer) -> Trajectory:
        config, options = self.config, steer.biased
        n, stops = config.canvas_length, set(config.eos_token_ids)
        recorder, pending, committed = TrajectoryRecorder(n), list(prompt_ids), list[int]()
        self.reset()
        other: Held | None = None
        if steer.negative:
            other = self._extended((self.reference.empty(self._slots), 0), steer.negative)
        while len(committed) < max_new_tokens and stops.isdisjoint(committed):
            self.extend(pending)
            if other is not None and committed:
                other = self._extended(other, pending)
            pending = self._steered_canvas(recorder, seed, committed, options, steer, other)
            committed += pending
        tokens = committed[:max_new_tokens]
        end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
        return recorder.finish(prompt_ids, tokens[:end])

    def _steered_canvas(
        self,
        recorder: TrajectoryRecorder,
        seed: int,
        committed: Sequence[int],
        options: SamplerOptions,
        steer: Steer,
        other: Held | None,
    ) -> list[int]:
        """The steps of one canvas by `reference/steered.py`; what it commits. `other`: the prefix of a negative prompt."""
        config, policy, n = self.config, self.sampler, self.config.canvas_length
        index, least = len(committed) // n, steer.min_tokens - len(committed)
        key = jnp.array(key_from_seed(seed), jnp.uint32)
        initial, noise = canvas_noise(key, jnp.uint32(index), policy.steps, n)
        canvas = np.asarray(token_from_word(initial, config.vocab_size), np.int64)
        soft, words = np.zeros((n, config.hidden_size), np.float32), np.asarray(noise)
        steps, last, same = steered.schedule(options, policy), list[int](), 0
        accepted: Array | None = None
        rebounds = any(bound != policy.entropy_bound for _, bound in steps)
        stability = policy.stability_threshold if options.stability is None else options.stability
        confidence = policy.confidence_threshold if options.confidence is None else options.confidence
        for i, (temperature, bound) in enumerate(steps):
            out = self._steered_step(i + 1, canvas, soft, words[i], np.float32(temperature), accepted, steer, other)
            assert out.logits is not None and out.drawn is not None
            tempered = out.logits / np.float32(temperature)
            given = {"count": policy.candidates(config.vocab_size), "pad": config.pad_token_id, "least": least}
            ends = (*config.eos_token_ids, config.pad_token_id)
            exact = temperature if temperature == steered.ARGMAX_ALONE else float(np.float32(temperature))
            done = steered.decide(tempered, out.entropy, out.drawn, words[i], options, exact, bound, ends=ends, **given)
            told = {"entropy_bound": bound} if rebounds else {}
            left = len(steps) - i
            recorder.add(index, left, temperature, canvas, done.argmax, out.entropy, done.accepted, done.canvas, **told)
            before, last = last, done.argmax.tolist()
            same = same + 1 if last == before else 0
            if same >= stability and float(out.entropy.astype(np.float64).mean()) < confidence:
                break
            canvas, soft, accepted = done.canvas, out.soft, done.accepted
        return last

    def _steered_step(
        self,
        number: int,
        canvas: Array,
        soft: Array,
        words: Array,
        temperature: np.float32,
        accepted: Array | None,
        steer: Steer,
        other: Held | None,
    ) -> StepOut:
        """Step `number`, from 1; `accepted`, bool [N], by the one before; guided, where it is."""
        guidance = steer.guidance
        if guidance is None or not guidance.guides(number) or (other is None and accepted is None):
            return self.step(canvas, soft, words, temperature)
        known = soft if other is not None or accepted is None else np.where(accepted[:, None], soft, np.float32(0))
        own: Held = self._prefix, np.int32(self._length)
        passes, scale = ((soft, *own), (known, *(other or own))), np.float32(guidance.scale)
        logits = self._guided(self.reference.weights, canvas=canvas.astype(np.int32), passes=passes, scale=scale)
        return self._decided(logits, words, temperature)

    def _extended(self, held: Held, ids: Sequence[int]) -> Held:
        """A prefix and its length with more ids; the given one is used up."""
        prefix, length = held
        return self.reference.extend(prefix, int(length), list(ids)), np.int32(length + len(ids))

    def reset(self) -> None:
        self._prefix = self.reference.empty(self._slots)
        self._length = 0

    def extend(self, ids: Sequence[int], *, taps: bool = False) -> Taps:
        found: dict[str, Array] = {}
        if taps:
            padded = np.zeros(texts.CHUNK, np.int32)
            padded[: len(ids)] = ids
            tensors = self._encode(self.reference.weights, padded, self._prefix, np.int32(self._length))
            found = {name: _array(x)[: len(ids)] for name, x in tensors.items()}
        self._prefix = self.reference.extend(self._prefix, self._length, list(ids))
        self._length += len(ids)
        return found

    def prefix(self, start: int) -> list[tuple[Array, Array]]:
        seen = {"sliding": 0, "full": 0}
        pairs = []
        for layer in range(self.config.num_layers):
            kind = "full" if self.config.is_full(layer) else "sliding"
            keys, values = (_array(x[seen[kind], start : self._length]) for x in self._prefix[kind])
            pairs.append((keys, values))
            seen[kind] += 1
        return pairs

    def step(self, canvas: Array, soft: Array, words: Array, temperature: np.float32, *, taps: bool = False) -> StepOut:
        dtype = self.reference.weights["embed"].dtype
        logits, tensors, routers = self._denoise[taps](
            self.reference.weights,
            canvas.astype(np.int32),
            jnp.asarray(soft, dtype),
            self._prefix,
            np.int32(self._length),
        )
        found = {name: _array(x) for name, x in tensors.items()}
        shown = {layer: _array(x) for layer, x in routers.items()}
        return replace(self._decided(logits, words, temperature), taps=found, routers=shown)

    def _decided(self, logits: jax.Array, words: Array, temperature: np.float32) -> StepOut:
        """What a step makes of logits [N, V]."""
        # Between two programs, so that it is rounded: inside one, XLA fuses the quotient into what reads it, unrounded, and at
        # temperature 1e-20 the likeliest id would not be 0 below itself.
        tempered = logits / np.float32(temperature)
        done, candidates, next_soft = self._sampled(self.reference.weights, tempered, words.astype(np.uint32))
        return StepOut(
            argmax=np.asarray(done.argmax, np.int64),
            entropy=np.asarray(done.entropy),
            accepted=np.asarray(done.accepted),
            canvas=np.asarray(done.canvas, np.int64),
            soft=_array(next_soft),
            logits=np.asarray(logits),
            drawn=np.asarray(done.drawn, np.int64),
            likeliest=np.asarray(candidates[0], np.int64),
            log_probs=np.asarray(candidates[1]),
        )


def _denoise(config: Any, taps: bool, weights: Any, canvas: Any, soft: Any, prefix: Any, length: Any) -> Any:
    logits, tensors = denoiser.denoise(weights, config, canvas, soft, prefix, length, taps=taps or config.is_moe)
    return logits, tensors if taps else {}, routers_of(tensors)


def _sampled(config: Any, policy: Any, weights: Any, tempered: Any, words: Any) -> Any:
    done = sampler.step(tempered, words, policy.entropy_bound)
    candidates = sampler.candidates(tempered, policy.candidates(config.vocab_size))
    return done, candidates, denoiser.soft_embed(weights, config, tempered, policy.top_k)


def _tapped_encode(config: Any, weights: Any, tokens: Any, prefix: Any, length: Any) -> Any:
    return denoiser.encode(weights, config, tokens, prefix, length, taps=True)[2]


def _array(x: Any) -> Array:
    result: Array = np.asarray(x.astype(jnp.float32))
    return result
