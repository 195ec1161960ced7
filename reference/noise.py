"""The noise contract in JAX: threefry2x32 words, bit for bit those of `core/noise.py`, in 32-bit integers only.

Written out instead of calling `jax.random`, so that it can be read against the contract and does not depend on the
configured generator. It knows nothing of models.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32, 20 rounds (Salmon et al., SC 2011): key uint32 [2], counters uint32 of any one shape."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    a, b = high + schedule[0], low + schedule[1]
    for group in range(5):
        for r in ROTATIONS[group % 2]:
            a = a + b
            b = a ^ (b << jnp.uint32(r) | b >> jnp.uint32(32 - r))
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def fold_in(key: Array, data: Array) -> Array:
    """Key uint32 [2] of a stream: threefry2x32(key, (0, data))."""
    return jnp.stack(threefry2x32(key, jnp.uint32(0), data))


def words(key: Array, count: int) -> Array:
    """uint32 [count]: the word at index n is a ^ b of counter (0, n); count is below 2³²."""
    counter = jnp.arange(count, dtype=jnp.uint32)
    a, b = threefry2x32(key, jnp.zeros_like(counter), counter)
    return a ^ b


@partial(jax.jit, static_argnames=("steps", "length"))
def canvas_noise(seed: Array, canvas: Array, steps: int, length: int) -> tuple[Array, Array]:
    """All randomness of one canvas.

    Args:
        seed: uint32 [2], the 64-bit seed's high and low half.
        canvas: uint32 scalar, counted from 0 in each generation.
        steps, length: T and N.
    Returns:
        words of the initial canvas, uint32 [N], and of the steps, uint32 [T, 2, N] (row 0 samples, row 1 renoises).
    """
    key = fold_in(seed, canvas)
    step_keys = jax.vmap(lambda i: fold_in(key, i))(jnp.arange(1, steps + 1, dtype=jnp.uint32))
    step_words = jax.vmap(lambda k: words(k, 2 * length))(step_keys)
    return words(fold_in(key, jnp.uint32(0)), length), step_words.reshape(steps, 2, length)


def token_from_word(word: Array, vocab_size: int) -> Array:
    """Uniform ids int32: (word · V) >> 32, the high half of a 32 × 32-bit product, from 16-bit halves."""
    high, low = word >> 16, word & 0xFFFF
    v_high, v_low = jnp.uint32(vocab_size >> 16), jnp.uint32(vocab_size & 0xFFFF)
    middle = high * v_low + (low * v_low >> 16)  # below 2³²: (2¹⁶−1)² + 2¹⁶−1
    carry = (middle & 0xFFFF) + low * v_high  # below 2³² likewise
    return (high * v_high + (middle >> 16) + (carry >> 16)).astype(jnp.int32)


def uniform_from_word(word: Array) -> Array:
    """float32 in [0, 1): (word >> 8) · 2⁻²⁴, exact."""
    return (word >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)
