"""All denoising steps of one canvas as one program: at most T steps with the adaptive stop inside, one `while_loop`.

The same inputs and outputs as the graph `generate` that engines run; all randomness comes in as words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dgemma.core.config import ModelConfig
from dgemma.core.sampler import SamplerConfig
from dgemma.reference import denoiser, sampler
from dgemma.reference.weights import Weights


class Canvas(NamedTuple):
    """What one canvas's steps gave; rows of steps that did not run are zeros.

    committed int32 [N] (the argmax of the last step run), steps int32 [], argmaxes and canvases int32 [T, N],
    entropies float32 [T, N], accepts bool [T, N].
    """

    committed: Array
    steps: Array
    argmaxes: Array
    canvases: Array
    entropies: Array
    accepts: Array

    def followed_by(self, argmax: Array, canvas: Array, entropy: Array, accepted: Array) -> Canvas:
        """With one step more, all of it [N]."""
        i = self.steps
        return Canvas(
            argmax, i + 1, self.argmaxes.at[i].set(argmax), self.canvases.at[i].set(canvas),
            self.entropies.at[i].set(entropy), self.accepts.at[i].set(accepted),
        )  # fmt: skip


def temperatures(policy: SamplerConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [T], of the first step run to the last."""
    return np.array([policy.temperature(remaining) for remaining in range(policy.steps, 0, -1)], np.float32)


def generate(
    weights: Weights, config: ModelConfig, policy: SamplerConfig, canvas: Array, words: Array, adaptive: Array,
    prefix: denoiser.Prefix | None, length: Array, settle: float | None = None,
) -> Canvas:  # fmt: skip
    """Denoise one canvas.

    Args:
        canvas: int32 [N], the initial tokens.
        words: uint32 [T, 2, N].
        adaptive: bool scalar; False always runs all T steps.
        prefix, length: as in `denoiser.denoise`.
        settle: nats; see `active`.
    """
    if settle is not None:
        assert prefix is not None
        return active(weights, config, policy, canvas, words, adaptive, prefix, length, settle)
    steps, n = policy.steps, canvas.shape[0]
    schedule = jnp.asarray(temperatures(policy))
    record = Canvas(
        canvas, jnp.int32(0), jnp.zeros((steps, n), jnp.int32), jnp.zeros((steps, n), jnp.int32),
        jnp.zeros((steps, n), jnp.float32), jnp.zeros((steps, n), jnp.bool_),
    )  # fmt: skip
    soft = jnp.zeros((n, config.hidden_size), weights["embed"].dtype)
    state = (record, canvas, soft, jnp.int32(0), jnp.bool_(False))

    def unfinished(state: tuple[Canvas, Array, Array, Array, Array]) -> Array:
        record, *_, stopped = state
        return (record.steps < steps) & ~(stopped & adaptive)

    def body(state: tuple[Canvas, Array, Array, Array, Array]) -> tuple[Canvas, Array, Array, Array, Array]:
        record, current, soft, unchanged, _ = state
        i = record.steps
        logits, _ = denoiser.denoise(weights, config, current, soft, prefix, length)
        tempered = logits / schedule[i]
        done = sampler.step(tempered, words[i], policy.entropy_bound)
        same = (i > 0) & (done.argmax == record.committed).all()
        unchanged = jnp.where(same, unchanged + 1, 0)
        stopped = (unchanged >= policy.stability_threshold) & (done.mean_entropy < policy.confidence_threshold)
        record = record.followed_by(done.argmax, done.canvas, done.entropy, done.accepted)
        return record, done.canvas, denoiser.soft_embed(weights, config, tempered, policy.top_k), unchanged, stopped

    return lax.while_loop(unfinished, body, state)[0]


def active(
    weights: Weights, config: ModelConfig, policy: SamplerConfig, canvas: Array, words: Array, adaptive: Array,
    prefix: denoiser.Prefix, length: Array, settle: float,
) -> Canvas:  # fmt: skip
    """Denoise one canvas, every position until its entropy falls below `settle` nats.

    The rule of `runtime/loops.py:Loops.active`, without repair. A program has one shape: all positions are computed in every
    step, and those that have settled are seen with the keys and values that they settled with, and decide nothing any more.
    """
    steps, n = policy.steps, canvas.shape[0]
    schedule, positions = jnp.asarray(temperatures(policy)), jnp.arange(n, dtype=jnp.int32)
    ids, reals = jnp.zeros((steps, n), jnp.int32), jnp.zeros((steps, n), jnp.float32)
    record = Canvas(jnp.full(n, -1, jnp.int32), jnp.int32(0), ids, ids, reals, jnp.zeros((steps, n), jnp.bool_))
    soft = jnp.zeros((n, config.hidden_size), weights["embed"].dtype)
    nobody, entropy = jnp.zeros(n, jnp.bool_), jnp.zeros(n, jnp.float32)
    state = (record, canvas, soft, prefix, nobody, entropy, nobody, jnp.int32(0), jnp.bool_(False))

    def unfinished(state: Any) -> Array:
        return (state[0].steps < steps) & ~(state[-1] & adaptive)

    def body(state: Any) -> Any:
        record, current, soft, caches, settled, entropy, accepted, unchanged, _ = state
        i, running = record.steps, ~settled
        logits, new = denoiser.denoise_active(weights, config, current, positions, soft, caches, length, settled)
        tempered = logits / schedule[i]
        done = sampler.step(tempered, words[i], policy.entropy_bound, running)

        def place(cache: Array, rows: Array) -> Array:
            old = lax.dynamic_slice_in_dim(cache, length, n, 1)
            return lax.dynamic_update_slice_in_dim(cache, jnp.where(running[:, None, None], rows, old), length, 1)

        caches = jax.tree.map(place, caches, new)
        argmax = jnp.where(running, done.argmax, record.committed)
        entropy, accepted = jnp.where(running, done.entropy, entropy), jnp.where(running, done.accepted, accepted)
        settled |= running & (done.entropy < settle)
        following = jnp.where(settled, argmax, done.canvas)
        soft = jnp.where(running[:, None], denoiser.soft_embed(weights, config, tempered, policy.top_k), soft)
        unchanged = jnp.where((argmax == record.committed).all(), unchanged + 1, 0)
        mean = entropy.astype(jnp.float64).mean()
        confident = (unchanged >= policy.stability_threshold) & (mean < policy.confidence_threshold)
        record = record.followed_by(argmax, following, entropy, accepted)
        everywhere = settled.all()
        return record, following, soft, caches, settled & ~everywhere, entropy, accepted, unchanged, confident | everywhere

    return lax.while_loop(unfinished, body, state)[0]


def jitted(config: ModelConfig, policy: SamplerConfig, settle: float | None = None) -> Any:
    """`generate` of (weights, canvas, words, adaptive, prefix, length), compiled on the first call for each shape."""

    def run(weights: Weights, canvas: Array, words: Array, adaptive: Array, prefix: Any, length: Array) -> Canvas:
        return generate(weights, config, policy, canvas, words, adaptive, prefix, length, settle)

    return jax.jit(run)
