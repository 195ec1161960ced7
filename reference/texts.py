"""Whole texts: the host loop around the reference, canvas by canvas, recorded as a trajectory.

It knows ids only; prompts come tokenized. Prefixes live in caches whose length is a multiple of `BUCKET`, so that few
shapes are compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.noise import key_from_seed
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder
from dgemma.model.hf_config import read_config
from dgemma.reference import denoiser
from dgemma.reference import weights as weight_files
from dgemma.reference.active import jitted
from dgemma.reference.generate import Canvas, temperatures
from dgemma.reference.noise import canvas_noise, token_from_word
from dgemma.reference.weights import DTYPES, Weights

BUCKET, CHUNK = 256, 64


@dataclass(frozen=True, kw_only=True)
class Text:
    """Committed tokens up to the first stop token, and every step on the way there."""

    tokens: tuple[int, ...]
    stop_reason: Literal["stop", "length"]
    steps: int
    canvases: int
    trajectory: Trajectory


class Reference:
    """A checkpoint, ready to generate.

    Args:
        weights: tree of `weights.load`, in float32 or bfloat16.
        config, policy: shape and sampler; `policy.steps` is T.
        compute: what a canvas leaves out (see `active.py`); None is the stock loop.
    """

    def __init__(
        self, weights: Weights, config: ModelConfig, policy: SamplerConfig, *, compute: ComputePolicy | None = None
    ) -> None:
        self.weights, self.config, self.policy, self.compute = weights, config, policy, compute
        self._generate = jitted(config, policy, compute)
        self._check = jax.jit(partial(denoiser.check, config=config))
        self._encode = jax.jit(partial(_extend, config=config), donate_argnums=2)

    @classmethod
    def load(cls, folder: Path | str, dtype: str = "float32", *, steps: int | None = None) -> Reference:
        """Read a checkpoint folder; `steps` replaces T. Raises CheckpointError, UsageError."""
        if dtype not in DTYPES:
            raise UsageError(f"dtype {dtype!r} is unknown; choose {' or '.join(DTYPES)}")
        config, policy = read_config(Path(folder))
        policy = policy if steps is None else replace(policy, steps=steps)
        return cls(weight_files.load(folder, config, dtype), config, policy)

    def empty(self, slots: int) -> denoiser.Prefix:
        """A prefix of `slots` free slots."""
        return empty_prefix(self.config, slots, self.weights["embed"].dtype)

    def extend(self, prefix: denoiser.Prefix, length: int, tokens: Sequence[int]) -> denoiser.Prefix:
        """Encode tokens into the slots from `length` on, in chunks; slots past them may hold rubbish."""
        for start in range(0, len(tokens), CHUNK):
            part = np.zeros(CHUNK, np.int32)
            part[: len(tokens[start : start + CHUNK])] = tokens[start : start + CHUNK]
            prefix = self._encode(self.weights, part, prefix, np.int32(length + start))
        return prefix

    def canvas(
        self, prefix: denoiser.Prefix, length: int, *, seed: int, index: int, adaptive: bool, begins: int | None = None
    ) -> tuple[npt.NDArray[np.int32], Canvas, int]:
        """Denoise canvas number `index`; returns its initial tokens [N], what `generate` gives, on the host, and how many
        positions the canvas has. `begins`: the id that it begins with, where that is known already."""
        high, low = key_from_seed(seed)
        initial, words = canvas_noise(
            jnp.array([high, low], jnp.uint32), jnp.uint32(index), self.policy.steps, self.config.canvas_length
        )
        first = token_from_word(initial, self.config.vocab_size)
        first = first if begins is None else first.at[0].set(begins)
        done, width = self._generate(self.weights, first, words, np.bool_(adaptive), prefix, np.int32(length))
        return np.asarray(first), jax.device_get(done), int(width)

    def greedy(self, ids: Sequence[int]) -> list[int]:
        """What greedy decoding says after each of `ids`, from one pass over all of them."""
        padded = np.zeros(-(-len(ids) // BUCKET) * BUCKET, np.int32)  # what follows changes nothing: the pass is causal
        padded[: len(ids)] = ids
        said, _ = self._check(self.weights, tokens=padded, prefix=self.empty(BUCKET), length=np.int32(0))
        return [int(i) for i in said[: len(ids)]]

    def generate(
        self, prompt_ids: Sequence[int], *, seed: int, max_new_tokens: int, adaptive: bool = True, slots: int = 0
    ) -> Text:
        """Generate a text.

        Args:
            prompt_ids: taken verbatim; may be empty.
            seed: 0 … 2⁶⁴−1.
            max_new_tokens: K; the stock loop denoises at most ceil(K / N) canvases.
            adaptive: False always runs all steps.
            slots: least length of the prefix's caches; texts with equal ones share their compiled functions.
        Raises:
            UsageError: ids outside the vocabulary, `max_new_tokens` below 1, a bad seed.
        """
        config, n = self.config, self.config.canvas_length
        if max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens=} must be at least 1")
        if outside := [i for i in prompt_ids if not 0 <= i < config.vocab_size]:
            raise UsageError(f"prompt id {outside[0]} is outside the vocabulary of {config.vocab_size}")
        recorder = TrajectoryRecorder(n)
        canvases = -(-max_new_tokens // n)
        prefix = self.empty(max(slots, -(-(len(prompt_ids) + canvases * n + max(n, CHUNK)) // BUCKET) * BUCKET))
        pending, length, index, committed = list(prompt_ids), 0, 0, list[int]()
        stops, speculate = set(config.eos_token_ids), self.compute is not None and self.compute.speculate
        while len(committed) < max_new_tokens and stops.isdisjoint(committed):
            prefix = self.extend(prefix, length, pending)
            length += len(pending)
            before = [*prompt_ids, *committed]
            begins = self.greedy(before)[-1] if speculate else None
            first, done, width = self.canvas(prefix, length, seed=seed, index=index, adaptive=adaptive, begins=begins)
            _record(recorder, self.policy, index, first, done)
            pending = done.committed[:width].tolist()
            if begins is not None:
                draft = [begins, *pending[1:]]
                said = self.greedy(before + draft)[len(before) - 1 :]
                pending = draft[: next((i for i, token in enumerate(draft) if token != said[i]), len(draft))]
            committed, index = committed + pending, index + 1
        tokens = committed[:max_new_tokens]
        stopped = not stops.isdisjoint(tokens)
        if stopped:
            tokens = tokens[: next(i for i, token in enumerate(tokens) if token in stops)]
        return Text(
            tokens=tuple(tokens),
            stop_reason="stop" if stopped else "length",
            steps=len(recorder.steps),
            canvases=index,
            trajectory=recorder.finish(prompt_ids, tokens),
        )


def empty_prefix(config: ModelConfig, slots: int, dtype: Any) -> denoiser.Prefix:
    """Zeros [layers, slots, K, d] for keys and values of both kinds of layers."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), prefix_shapes(config, slots, dtype))


def prefix_shapes(config: ModelConfig, slots: int, dtype: Any) -> Any:
    """Shapes of a prefix of `slots`; kinds without layers are left out."""
    heads = {"sliding": (config.num_kv_heads, config.head_dim), "full": (config.global_num_kv_heads, config.global_head_dim)}
    shapes: dict[str, Any] = {}
    for kind, (kv_heads, dim) in heads.items():
        if count := len(weight_files.layers_of(config, kind)):
            shapes[kind] = (jax.ShapeDtypeStruct((count, slots, kv_heads, dim), dtype),) * 2
    return shapes


def _extend(weights: Weights, tokens: Array, prefix: Any, length: Array, *, config: ModelConfig) -> Any:
    """The prefix with keys and values of tokens [C] written from slot `length` on."""
    _, new, _ = denoiser.encode(weights, config, tokens, prefix, length)

    def write(cache: Array, rows: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(cache, rows, length, axis=1)

    return jax.tree.map(write, prefix, new)


def _record(recorder: TrajectoryRecorder, policy: SamplerConfig, index: int, first: Any, done: Canvas) -> None:
    schedule = temperatures(policy)
    for i in range(int(done.steps)):
        before = first if i == 0 else done.canvases[i - 1]
        recorder.add(
            index,
            policy.steps - i,
            float(schedule[i]),
            before,
            done.argmaxes[i],
            done.entropies[i],
            done.accepts[i],
            done.canvases[i],
        )
