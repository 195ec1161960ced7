"""Noise and sampler of the JAX reference against the committed vectors, and against numpy over wide ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dgemma.core import noise as contract
from dgemma.reference import noise, sampler

pytestmark = pytest.mark.usefixtures("unoptimized_jax")
# Compiled whole: dozens of small programs take longer.
STEP = jax.jit(sampler.step, static_argnums=2)
INVERSE_CDF = jax.jit(sampler.inverse_cdf)
THREEFRY = jax.jit(noise.threefry2x32)
FOLD_IN = jax.jit(noise.fold_in)
WORDS = jax.jit(noise.words, static_argnums=1)
CANVAS_NOISE = jax.jit(noise.canvas_noise, static_argnums=(2, 3))
VECTORS = Path(__file__).parent.parent / "vectors"
NOISE: dict[str, Any] = json.loads((VECTORS / "noise.json").read_text())
SAMPLING: dict[str, Any] = json.loads((VECTORS / "sampling.json").read_text())


def u32(values: Any) -> jax.Array:
    return jnp.array(values, jnp.uint32)


def weights_of(case: dict[str, Any]) -> np.ndarray[Any, Any]:
    if "weights" in case:
        return np.array(case["weights"], np.float32)
    source = case["generated"]
    us = contract.uniform_from_word(contract.words(contract.key_from_seed(source["seed"]), (source["vocab"],)))
    out = us
    for _ in range(source["power"] - 1):
        out = out * us
    return out


def test_threefry_vectors() -> None:
    for case in NOISE["threefry"]:
        a, b = THREEFRY(u32(case["key"]), u32(case["counter"][0]), u32(case["counter"][1]))
        assert [int(a), int(b)] == case["output"]


def test_stream_vectors() -> None:
    for case in NOISE["streams"]:
        seed = u32(contract.key_from_seed(int(case["seed"])))
        key = FOLD_IN(FOLD_IN(seed, u32(case["canvas"])), u32(case["stream"]))
        assert key.tolist() == case["key"]
        assert WORDS(key, len(case["words"])).tolist() == case["words"]


@pytest.mark.parametrize(("seed", "canvas"), [(0, 0), (2**64 - 1, 3), (0x123456789ABCDEF0, 70_000)])
def test_a_canvas_has_the_words_of_the_contract(seed: int, canvas: int) -> None:
    steps, n = 5, 33
    first, words = CANVAS_NOISE(u32(contract.key_from_seed(seed)), u32(canvas), steps, n)
    assert first.dtype == words.dtype == jnp.uint32
    np.testing.assert_array_equal(first, contract.canvas_words(seed, canvas, n))
    np.testing.assert_array_equal(words, [contract.step_words(seed, canvas, i, n) for i in range(1, steps + 1)])
    other, _ = CANVAS_NOISE(u32(contract.key_from_seed(seed)), u32(canvas + 1), steps, n)
    assert (other != first).mean() > 0.9  # control: another canvas has other words


def test_words_are_those_of_jax_itself() -> None:
    """The contract's layout is the one that `jax.random.bits` has."""
    key = jax.random.key(2**40 + 7 & 0xFFFFFFFF, impl="threefry2x32")
    np.testing.assert_array_equal(jax.random.bits(key, (70,), jnp.uint32), WORDS(jax.random.key_data(key), 70))


@pytest.mark.parametrize("vocab", [1, 300, 65_535, 65_536, 262_144, 2**31 - 1])
def test_tokens_are_exact(vocab: int) -> None:
    """The product's high half from 16-bit halves, against 64-bit integers."""
    edges = np.array([0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFF], np.uint32)
    words = np.concatenate([edges, contract.words((1, 2), (2000,))])
    np.testing.assert_array_equal(noise.token_from_word(jnp.asarray(words), vocab), contract.token_from_word(words, vocab))


def test_token_and_uniform_vectors() -> None:
    for case in NOISE["tokens"]:
        assert int(noise.token_from_word(u32(case["word"]), case["vocab"])) == case["token"]
    for case in NOISE["uniforms"]:
        assert float(noise.uniform_from_word(u32(case["word"]))) == case["uniform"]


@pytest.mark.parametrize("case", SAMPLING["inverse_cdf"], ids=lambda c: f"{c['name']}-{c['word']}")
def test_inverse_cdf_vectors(case: dict[str, Any]) -> None:
    u = noise.uniform_from_word(u32([case["word"]]))
    assert INVERSE_CDF(jnp.asarray(weights_of(case))[None], u).tolist() == [case["token"]]


@pytest.mark.parametrize("case", SAMPLING["accept"], ids=lambda c: c["name"])
def test_accept_vectors(case: dict[str, Any]) -> None:
    assert sampler.accept(jnp.array(case["entropy"], jnp.float32), case["bound"]).tolist() == case["accepted"]


def test_entropy_and_step_vectors() -> None:
    for case in SAMPLING["entropy"]:
        done = STEP(jnp.array([case["logits"]], jnp.float32), u32([[0], [0]]), 0.1)
        assert abs(float(done.entropy[0]) - case["entropy"]) <= case["tolerance"]
    for case in SAMPLING["step"]:
        done = STEP(jnp.array(case["tempered"], jnp.float32), u32(case["words"]), case["bound"])
        for name in ("canvas", "argmax", "accepted"):
            assert getattr(done, name).tolist() == case[name]
        assert np.abs(done.entropy - np.array(case["entropy"])).max() <= case["tolerance"]
        assert done.mean_entropy.dtype == jnp.float64
        taken = np.array(case["accepted"])
        assert taken.any() and (np.asarray(done.drawn) == case["canvas"])[taken].all()


def test_candidates_are_the_likeliest_of_the_whole_softmax() -> None:
    tempered = np.array(SAMPLING["step"][0]["tempered"], np.float32)
    ids, log_probs = sampler.candidates(jnp.asarray(tempered), 7)
    exact = tempered.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(-1, keepdims=True))
    order = np.argsort(-tempered, -1, kind="stable")[:, :7]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(log_probs, np.take_along_axis(exact, order, -1), atol=1e-5)
    among = np.take_along_axis(exact, order, -1)
    assert np.abs(among - np.log(np.exp(among).sum(-1, keepdims=True)) - log_probs).max() > 1e-3  # not those among the seven


def test_sums_are_doubles() -> None:
    """float32 running sums over many ids pick other tokens; the sampler's do not."""
    rng = np.random.default_rng(0)
    weights = rng.random((64, 20_000), np.float32) ** 4
    u = (rng.integers(0, 1 << 24, 64) * 2.0**-24).astype(np.float32)
    sums = np.add.reduceat(weights, np.arange(0, 20_000, 256), axis=1, dtype=np.float32).astype(np.float64).cumsum(1)
    naive = (weights.cumsum(1, dtype=np.float32) <= (u * weights.sum(1))[:, None]).sum(1)
    got = INVERSE_CDF(weights, u)
    np.testing.assert_array_equal(got // 256, (sums <= (u * sums[:, -1])[:, None]).sum(1))
    assert (naive != got).any()
    assert sampler.running_sums(jnp.asarray(weights)).dtype == jnp.float64
