"""All denoising steps of one canvas as one program: at most T steps with the adaptive stop inside, one `while_loop`.

The same inputs and outputs as the graph `generate` that engines run; all randomness comes in as words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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

    @classmethod
    def empty(cls, canvas: Array, steps: int) -> Canvas:
        """Before the first of at most `steps` steps; canvas int32 [N] is what is committed until then."""
        ids = jnp.zeros((steps, canvas.shape[0]), jnp.int32)
        return cls(canvas, jnp.int32(0), ids, ids, ids.astype(jnp.float32), ids.astype(jnp.bool_))

    def followed_by(self, argmax: Array, canvas: Array, entropy: Array, accepted: Array) -> Canvas:
        """With one step more, all of it [N]."""
        i = self.steps
        return Canvas(
            argmax,
            i + 1,
            self.argmaxes.at[i].set(argmax),
            self.canvases.at[i].set(canvas),
            self.entropies.at[i].set(entropy),
            self.accepts.at[i].set(accepted),
        )


def temperatures(policy: SamplerConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [T], of the first step run to the last."""
    return np.array([policy.temperature(remaining) for remaining in range(policy.steps, 0, -1)], np.float32)


def generate(
    weights: Weights,
    config: ModelConfig,
    policy: SamplerConfig,
    canvas: Array,
    words: Array,
    adaptive: Array,
    prefix: denoiser.Prefix | None,
    length: Array,
) -> Canvas:
    """Denoise one canvas.

    Args:
        canvas: int32 [N], the initial tokens.
        words: uint32 [T, 2, N].
        adaptive: bool scalar; False always runs all T steps.
        prefix, length: as in `denoiser.denoise`.
    """
    steps, n = policy.steps, canvas.shape[0]
    schedule = jnp.asarray(temperatures(policy))
    record = Canvas.empty(canvas, steps)
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
