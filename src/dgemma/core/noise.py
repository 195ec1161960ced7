"""The noise contract: every random word comes from one 64-bit seed by threefry2x32, in JAX's partitionable layout.

numpy only, and nothing of models or engines. Any language can check itself against `tests/vectors/noise.json`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import Param, UsageError

Key = tuple[int, int]
U32 = npt.NDArray[np.uint32]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(key: Key, high: U32, low: U32) -> tuple[U32, U32]:
    """Threefry-2x32, 20 rounds (Salmon et al., SC 2011), on arrays of counters of any one shape."""
    ks = (np.uint32(key[0]), np.uint32(key[1]), np.uint32(key[0] ^ key[1] ^ 0x1BD11BDA))
    with np.errstate(over="ignore"):
        a, b = high + ks[0], low + ks[1]
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:
                a = a + b
                b = (b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))
                b = a ^ b
            a = a + ks[(group + 1) % 3]
            b = b + ks[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def key_from_seed(seed: int) -> Key:
    """key(seed) = [seed >> 32, seed & 0xffffffff]; raises UsageError outside 0 … 2⁶⁴−1."""
    if not 0 <= seed < 1 << 64:
        raise UsageError(Param("seed"), f" {seed} must be between 0 and 2^64-1")
    return seed >> 32, seed & 0xFFFFFFFF


def fold_in(key: Key, data: int) -> Key:
    """JAX's fold_in for data below 2³²: threefry2x32(key, (0, data))."""
    a, b = threefry2x32(key, np.zeros(1, np.uint32), np.array([data], np.uint32))
    return int(a[0]), int(b[0])


def words(key: Key, shape: tuple[int, ...]) -> U32:
    """32-bit words of the given shape; the word at flat row-major index n is a ^ b of counter (n >> 32, n & 0xffffffff)."""
    n = np.arange(int(np.prod(shape)), dtype=np.uint64)
    a, b = threefry2x32(key, (n >> np.uint64(32)).astype(np.uint32), n.astype(np.uint32))
    return (a ^ b).reshape(shape)


def canvas_words(seed: int, canvas: int, length: int) -> U32:
    """Stream 0 of canvas number `canvas` (from 0 in each generate call): words [N] of its initial tokens."""
    return words(fold_in(fold_in(key_from_seed(seed), canvas), 0), (length,))


def step_words(seed: int, canvas: int, step: int, length: int) -> U32:
    """Stream `step` (≥ 1, the step-th denoising step run): words [2, N]; row 0 samples, row 1 renoises."""
    if step < 1:
        raise UsageError(f"denoising streams are counted from 1, not {step}")
    return words(fold_in(fold_in(key_from_seed(seed), canvas), step), (2, length))


def token_from_word(word: U32, vocab_size: int) -> npt.NDArray[np.int64]:
    """Uniform token ids: (word · V) >> 32."""
    return ((word.astype(np.uint64) * np.uint64(vocab_size)) >> np.uint64(32)).astype(np.int64)


def uniform_from_word(word: U32) -> npt.NDArray[np.float32]:
    """Uniform floats in [0, 1): (word >> 8) · 2⁻²⁴, exact in float32."""
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
