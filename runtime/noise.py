"""All random words of one canvas at once: the same words as `core.noise`, computed in place for every step together.

Making them step by step would take the host loop too long when a step takes only a few milliseconds.
"""

from __future__ import annotations

import numpy as np

from dgemma.core.noise import U32, key_from_seed

_ROTATIONS = tuple(
    tuple((np.array(r, np.uint32), np.array(32 - r, np.uint32)) for r in g) for g in ((13, 15, 26, 6), (17, 29, 16, 24))
)
_ROUNDS = tuple(np.array(i + 1, np.uint32) for i in range(5))
_PARITY = np.array(0x1BD11BDA, np.uint32)


def canvas_noise(seed: int, canvas: int, steps: int, length: int) -> tuple[U32, U32]:
    """(initial [N], per step [T, 2, N]): `canvas_words` and `step_words` of steps 1…T of this canvas."""
    seed_key = np.array(key_from_seed(seed), np.uint32)[:, None, None]
    canvas_key = _threefry((seed_key[0], seed_key[1]), np.zeros((1, 1), np.uint32), np.full((1, 1), canvas, np.uint32))
    streams = np.arange(steps + 1, dtype=np.uint32)[:, None]
    keys = _threefry(canvas_key, np.zeros_like(streams), streams)  # [T+1, 1] each
    counters = np.tile(np.arange(2 * length, dtype=np.uint32), (steps + 1, 1))
    high, low = _threefry(keys, np.zeros_like(counters), counters)
    high ^= low  # [T+1, 2N]
    return high[0, :length], high[1:].reshape(steps, 2, length)


def _threefry(key: tuple[U32, U32], a: U32, b: U32) -> tuple[U32, U32]:
    """`core.noise.threefry2x32` that overwrites its counters; key parts broadcast against them."""
    ks = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    spare = np.empty_like(b)
    a += ks[0]
    b += ks[1]
    for group in range(5):
        for left, right in _ROTATIONS[group % 2]:
            a += b
            np.right_shift(b, right, out=spare)
            b <<= left
            b |= spare
            b ^= a
        a += ks[(group + 1) % 3]
        b += ks[(group + 2) % 3]
        b += _ROUNDS[group]
    return a, b
