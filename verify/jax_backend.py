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
from dgemma.core.trajectory import Trajectory
from dgemma.reference import denoiser, sampler, texts
from dgemma.reference.texts import Reference
from dgemma.verify.backend import Array, Backend, StepOut, Taps, routers_of

NAMES = {"bfloat16": "reference bfloat16", "float32": "reference float32"}


class JaxBackend(Backend):
    """A checkpoint in the reference, with a bundle's canvas and sampler."""

    def __init__(self, folder: Path, dtype: str, manifest: Manifest) -> None:
        loaded = Reference.load(folder, dtype)
        config = replace(loaded.config, canvas_length=manifest.canvas_length)
        super().__init__(NAMES[dtype], config, manifest.sampler)
        self.reference = Reference(loaded.weights, config, manifest.sampler)
        self.chunk = texts.CHUNK
        self.facts = {"jax": jax.__version__, "platform": jax.default_backend(), "dtype": dtype}
        self._slots = -(-(manifest.context + texts.CHUNK) // texts.BUCKET) * texts.BUCKET
        self._step = {taps: jax.jit(partial(_step, config, manifest.sampler, taps)) for taps in (False, True)}
        self._encode = jax.jit(partial(_tapped_encode, config))
        self.reset()

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        done = self.reference.generate(prompt_ids, seed=seed, max_new_tokens=max_new_tokens, slots=self._slots)
        return done.trajectory

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
        done, candidates, logits, next_soft, tensors, routers = self._step[taps](
            self.reference.weights,
            canvas.astype(np.int32),
            jnp.asarray(soft, dtype),
            words.astype(np.uint32),
            np.float32(temperature),
            self._prefix,
            np.int32(self._length),
        )
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
            taps={name: _array(x) for name, x in tensors.items()},
            routers={layer: _array(x) for layer, x in routers.items()},
        )


def _step(
    config: Any,
    policy: Any,
    taps: bool,
    weights: Any,
    canvas: Any,
    soft: Any,
    words: Any,
    temperature: Any,
    prefix: Any,
    length: Any,
) -> Any:
    logits, tensors = denoiser.denoise(weights, config, canvas, soft, prefix, length, taps=taps or config.is_moe)
    tempered = logits / temperature
    done = sampler.step(tempered, words, policy.entropy_bound)
    candidates, soft = (
        sampler.candidates(tempered, policy.candidates(config.vocab_size)),
        denoiser.soft_embed(weights, config, tempered, policy.top_k),
    )
    return done, candidates, logits, soft, tensors if taps else {}, routers_of(tensors)


def _tapped_encode(config: Any, weights: Any, tokens: Any, prefix: Any, length: Any) -> Any:
    return denoiser.encode(weights, config, tokens, prefix, length, taps=True)[2]


def _array(x: Any) -> Array:
    result: Array = np.asarray(x.astype(jnp.float32))
    return result
