"""The noise contract against known answers of Random123 and of JAX, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.core import noise
from dgemma.core.errors import UsageError

SEEDS = st.integers(0, 2**64 - 1)

# Random123 1.14, tests/kat_vectors: threefry2x32, 20 rounds (counter, key, output).
RANDOM123 = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]

# jax 0.10.2, jax_threefry_partitionable on: bits(fold_in(fold_in(wrap_key_data([seed >> 32, seed & 0xffffffff]), canvas),
# stream), shape, uint32).
JAX = [
    (0, 0, 0, [1214273199, 3384852239, 1707608394, 3966931780]),
    (0, 0, 1, [[447923887, 1477415817, 562929823, 3479484537], [834989922, 2729544688, 3549811233, 1938376765]]),
    (42, 3, 2, [[3996877306, 684792479, 1809365193], [824246554, 3820525387, 747683263]]),
    (2**32 + 7, 1, 0, [4026710620, 3243710288, 804359987, 1903759171, 3030341591]),
    (2**63 + 5, 70000, 9, [[4184738435, 3749692848], [4200206529, 1073412794]]),
]


def u32(*values: int) -> noise.U32:
    return np.array(values, np.uint32)


@pytest.mark.parametrize(("counter", "key", "output"), RANDOM123)
def test_threefry_gives_the_known_answers(counter: tuple[int, int], key: tuple[int, int], output: tuple[int, int]) -> None:
    a, b = noise.threefry2x32(key, u32(counter[0]), u32(counter[1]))
    assert (int(a[0]), int(b[0])) == output
    swapped = noise.threefry2x32(key[::-1], u32(counter[0] ^ 1), u32(counter[1]))
    assert (int(swapped[0][0]), int(swapped[1][0])) != output


@pytest.mark.parametrize(("seed", "canvas", "stream", "expected"), JAX)
def test_streams_are_those_of_jax(seed: int, canvas: int, stream: int, expected: list[int]) -> None:
    want = np.array(expected, np.uint32)
    n = want.shape[-1]
    got = noise.canvas_words(seed, canvas, n) if stream == 0 else noise.step_words(seed, canvas, stream, n)
    assert got.dtype == np.uint32
    assert np.array_equal(got, want)


def test_words_beyond_32_bits_of_counter_use_the_high_word() -> None:
    a, b = noise.threefry2x32((1, 2), u32(1, 0), u32(0, 0))
    assert a[0] != a[1]
    assert b[0] != b[1]


@given(SEEDS, st.integers(0, 1000), st.integers(1, 64), st.integers(1, 300))
def test_row_major_layout_and_prefixes(seed: int, canvas: int, step: int, n: int) -> None:
    """A longer canvas starts with the words of a shorter one, and [2, N] is the flat stream cut in two."""
    words = noise.canvas_words(seed, canvas, n)
    assert np.array_equal(words, noise.canvas_words(seed, canvas, n + 7)[:n])
    key = noise.fold_in(noise.fold_in(noise.key_from_seed(seed), canvas), step)
    assert np.array_equal(noise.step_words(seed, canvas, step, n).ravel(), noise.words(key, (2 * n,)))


@given(SEEDS, st.integers(0, 100), st.integers(1, 48))
def test_streams_differ(seed: int, canvas: int, step: int) -> None:
    """Other seed, canvas, step or row: other words (8 of them agree by chance once in 2²⁵⁶)."""
    words = noise.step_words(seed, canvas, step, 8)
    others = (
        noise.step_words(seed ^ 1, canvas, step, 8),
        noise.step_words(seed ^ 1 << 32, canvas, step, 8),
        noise.step_words(seed, canvas + 1, step, 8),
        noise.step_words(seed, canvas, step + 1, 8),
        words[::-1],
    )
    assert not any(np.array_equal(words[0], other[0]) for other in others)
    assert not np.array_equal(noise.canvas_words(seed, canvas, 8), words[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**31 - 1))
def test_tokens_and_uniforms_are_exact(word: int, vocab: int) -> None:
    assert noise.token_from_word(u32(word), vocab).tolist() == [word * vocab >> 32]
    uniform = noise.uniform_from_word(u32(word))
    assert uniform.dtype == np.float32
    assert float(uniform[0]) == (word >> 8) / 2**24 < 1


def test_words_are_uniform() -> None:
    """Chi-square of 65,536 tokens in 64 cells, four standard deviations wide; a stuck bit fails it."""
    tokens = noise.token_from_word(noise.canvas_words(1, 0, 65_536), 64)

    def chi_square(ids: np.ndarray) -> float:
        return float(((np.bincount(ids, minlength=64) - 1024.0) ** 2 / 1024.0).sum())

    limit = 63 + 4 * (2 * 63) ** 0.5
    assert chi_square(tokens) < limit
    assert chi_square(tokens | 1) > limit


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match=str(seed)):
        noise.key_from_seed(seed)


def test_step_streams_start_at_one() -> None:
    with pytest.raises(UsageError, match="from 1"):
        noise.step_words(0, 0, 0, 4)
