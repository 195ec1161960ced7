"""One denoising step's sampler in JAX, after the sampling contract: tempered logits and words in, the next canvas out.

Where the contract says float64 this is float64: the CPU computes IEEE doubles, and XLA for TPU, which has none, pairs
of float32 (about 48 bits). Both are far finer than the float32 block sums that they add, in which engines differ anyway;
so is the order in which doubles are added. N canvas, V vocabulary, J blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from dgemma.reference.noise import token_from_word, uniform_from_word

BLOCK = 256


class ReferenceStep(NamedTuple):
    """What one step decides: ids int32 [N], entropy float32 nats [N], accepted bool [N], mean entropy float64 [].

    `drawn`: what every position draws, accepted or not.
    """

    canvas: Array
    argmax: Array
    entropy: Array
    accepted: Array
    mean_entropy: Array
    drawn: Array


def running_sums(x: Array) -> Array:
    """float32 [N, M] → float64 [N, M], over the last axis, in log M steps (libtpu takes minutes to compile a cumsum)."""
    return lax.associative_scan(jnp.add, x.astype(jnp.float64), axis=1)


def inverse_cdf(weights: Array, u: Array) -> Array:
    """Draw an id per row.

    Args:
        weights: float32 [N, V], exp(l − max).
        u: float32 [N] in [0, 1).
    Returns:
        int32 [N]: the first id whose running sum exceeds u · total, found by blocks of 256 ids as the contract says.
    """
    n, vocab = weights.shape
    blocks = -(-vocab // BLOCK)
    padded = jnp.pad(weights, ((0, 0), (0, blocks * BLOCK - vocab))).reshape(n, blocks, BLOCK)  # [N, J, 256]
    running = running_sums(padded.sum(-1))  # [N, J]
    target = u.astype(jnp.float64) * running[:, -1]
    block = jnp.argmax(running > target[:, None], axis=1).astype(jnp.int32)  # the first; u < 1, so there is one
    rows = jnp.arange(n, dtype=jnp.int32)
    before = jnp.where(block > 0, running[rows, jnp.maximum(block - 1, 0)], 0.0)
    inside = before[:, None] + running_sums(padded[rows, block])  # [N, 256]
    beyond = inside > target[:, None]
    last = jnp.minimum(BLOCK, vocab - block * BLOCK) - 1  # the block's last id that exists
    first = jnp.where(beyond.any(1), jnp.argmax(beyond, axis=1).astype(jnp.int32), last)
    return block * BLOCK + jnp.minimum(first, last)


def accept(entropy: Array, bound: float) -> Array:
    """Which of entropy [N] are accepted: those ahead (smaller, or equal at a lower index) sum to at most the bound."""
    index = jnp.arange(entropy.shape[0], dtype=jnp.int32)
    mine, other = entropy[:, None], entropy[None, :]
    ahead = (other < mine) | ((other == mine) & (index[None, :] < index[:, None]))  # [N, N]
    return jnp.where(ahead, other.astype(jnp.float64), 0.0).sum(1) <= bound


def step(tempered: Array, words: Array, bound: float, running: Array | None = None) -> ReferenceStep:
    """tempered float32 [N, V], logits over temperature; words uint32 [2, N]: row 0 samples, row 1 renoises.

    `running`, bool [N]: positions that take part; the others use up none of the bound, and what is said of them is nothing.
    """
    vocab = tempered.shape[-1]
    shifted = tempered - tempered.max(-1, keepdims=True)
    weights = jnp.exp(shifted)
    total = weights.sum(-1, keepdims=True)
    entropy = -((weights / total) * (shifted - jnp.log(total))).sum(-1)
    sampled = inverse_cdf(weights, uniform_from_word(words[0]))
    accepted = accept(entropy if running is None else jnp.where(running, entropy, jnp.inf), bound)
    canvas = jnp.where(accepted, sampled, token_from_word(words[1], vocab))
    argmax = lax.argmax(tempered, 1, jnp.int32)
    return ReferenceStep(canvas, argmax, entropy, accepted, entropy.astype(jnp.float64).mean(), sampled)


def candidates(tempered: Array, count: int) -> tuple[Array, Array]:
    """The `count` likeliest, falling, int32 [N, K], and their log-probabilities, float32 [N, K]; of equal ids the first."""
    best, ids = lax.top_k(tempered, count)
    maximum = best[:, :1]
    return ids.astype(jnp.int32), best - maximum - jnp.log(jnp.exp(tempered - maximum).sum(-1, keepdims=True))
