"""float32 parity of the JAX denoiser with transformers' DiffusionGemma and with goldens of the official JAX code.

Tolerances as for the PyTorch model: 1e-4 of the logit range, keys, values and hidden states within 1e-4 (2e-5 and 2e-4 for
goldens). Every control changes one thing and must fail by ten times the tolerance or more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints as hf
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
import torch

from dgemma.core.config import ModelConfig
from dgemma.model.hf_config import read_config
from dgemma.reference import denoiser, weights
from dgemma.reference.texts import empty_prefix

pytestmark = pytest.mark.usefixtures("unoptimized_jax")
TOLERANCE, ENCODE, LOGITS = 1e-4, 2e-5, 2e-4
SLOTS, CHUNK, BLOCKS, T_MAX = 80, 32, 3, 0.8
Arrays = dict[str, npt.NDArray[Any]]


@cache
def programs(config: ModelConfig) -> tuple[Any, Any, Any]:
    """Jitted encode, denoise and soft embedding of a shape, shared by the tests that use it."""

    def encode(w: Any, ids: Any, prefix: Any, length: Any) -> Any:
        hidden, new, _ = denoiser.encode(w, config, ids, prefix, length)
        return hidden, jax.tree.map(lambda c, n: jax.lax.dynamic_update_slice_in_dim(c, n, length, 1), prefix, new)

    def denoise(w: Any, ids: Any, soft: Any, prefix: Any, length: Any) -> Any:
        return denoiser.denoise(w, config, ids, soft, prefix, length)[0]

    return jax.jit(encode), jax.jit(denoise), jax.jit(lambda w, t: denoiser.soft_embed(w, config, t))


class Ours:
    """A checkpoint's weights with a prefix that grows in a cache of `SLOTS`, filled with rubbish at first."""

    def __init__(self, folder: Path) -> None:
        self.config, _ = read_config(folder)
        self.weights = weights.load(folder, self.config)
        self.prefix = jax.tree.map(lambda x: x + 9.0, empty_prefix(self.config, SLOTS, jnp.float32))
        self.length = 0
        self.denoise_config = self.config

    def encode(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        padded = np.zeros(CHUNK, np.int32)
        padded[: len(ids)] = ids
        hidden, self.prefix = programs(self.config)[0](self.weights, padded, self.prefix, np.int32(self.length))
        self.length += len(ids)
        return np.asarray(hidden)[: len(ids)]

    def denoise(self, ids: npt.NDArray[Any], soft: Any) -> npt.NDArray[Any]:
        run = programs(self.denoise_config)[1]
        return np.asarray(run(self.weights, ids.astype(np.int32), soft, self.prefix, np.int32(self.length)))

    def soft(self, tempered: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(programs(self.config)[2](self.weights, tempered))

    def cached(self) -> Arrays:
        """Keys and values [S, K, d] per layer, the filled slots."""
        out, seen = {}, {"sliding": 0, "full": 0}
        for i in range(self.config.num_layers):
            kind = "full" if self.config.is_full(i) else "sliding"
            for name, stack in zip(("key", "value"), self.prefix[kind], strict=True):
                out[f"{name}.{i}"] = np.asarray(stack[seen[kind], : self.length])
            seen[kind] += 1
        return out


def tokens(seed: int, n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(3, hf.VOCAB - 10, n)


def expected(model: Any, prompt: npt.NDArray[np.int64]) -> Arrays:
    """transformers: encode of the prompt, two denoising steps of each of BLOCKS canvases, a commit in between."""
    cache, out = hf.hf_cache(model), {}
    ids, start = torch.from_numpy(prompt)[None], 0
    for block in range(BLOCKS):
        positions = torch.arange(start, start + ids.shape[1])[None]
        hidden = model.model.encoder(input_ids=ids, past_key_values=cache, position_ids=positions).last_hidden_state
        out[f"hidden{block}"] = hidden[0].numpy()
        for i, layer in enumerate(cache.layers):
            for name, stack in (("key", layer.keys), ("value", layer.values)):
                out[f"{name}{block}.{i}"] = stack[0].transpose(0, 1).numpy()
        start += ids.shape[1]
        signal = None
        for step in range(2):
            logits = model(
                decoder_input_ids=torch.from_numpy(tokens(100 + 10 * block + step, hf.CANVAS))[None],
                past_key_values=cache,
                self_conditioning_logits=signal,
                decoder_position_ids=torch.arange(start, start + hf.CANVAS)[None],
            ).logits
            out[f"logits{block}.{step}"], signal = logits[0].numpy(), logits / T_MAX
        ids = torch.from_numpy(tokens(200 + block, hf.CANVAS))[None]
    return out


def actual(ours: Ours, prompt: npt.NDArray[np.int64], *, conditioned: bool = True) -> Arrays:
    """The same of the JAX denoiser."""
    out: Arrays = {}
    ids = prompt
    for block in range(BLOCKS):
        out[f"hidden{block}"] = ours.encode(ids)
        out |= {name.replace(".", f"{block}."): a for name, a in ours.cached().items()}
        soft = np.zeros((hf.CANVAS, ours.config.hidden_size), np.float32)
        for step in range(2):
            logits = ours.denoise(tokens(100 + 10 * block + step, hf.CANVAS), soft)
            out[f"logits{block}.{step}"] = logits
            soft = ours.soft(logits / np.float32(T_MAX)) if conditioned else soft
        ids = tokens(200 + block, hf.CANVAS)
    return out


def error(want: Arrays, got: Arrays) -> dict[str, float]:
    """Worst error per kind of output; of logits as a share of their range. NaN comes out as infinity."""
    worst: dict[str, float] = {}
    assert want.keys() == got.keys()
    for name, reference in want.items():
        value = got[name]
        if name.startswith(("key", "value")):
            value = value[-len(reference) :]  # the oracle's sliding layers keep the last W−1 tokens
        assert value.shape == reference.shape
        scale = float(np.ptp(reference)) if name.startswith("logits") else 1.0
        difference = float(np.abs(value - reference).max()) / scale
        kind = name.rstrip("0123456789.")
        worst[kind] = max(worst.get(kind, 0.0), difference if difference == difference else float("inf"))
    return worst


@pytest.mark.parametrize("length", [1, hf.WINDOW - 1, hf.WINDOW, 21])
def test_encode_and_denoise_agree_with_transformers(pair: tuple[Path, Any], length: int) -> None:
    worst = error(expected(pair[1], tokens(1, length)), actual(Ours(pair[0]), tokens(1, length)))
    assert set(worst) == {"hidden", "key", "value", "logits"}
    assert max(worst.values()) <= TOLERANCE, worst


def swap(ours: Ours, kind: str, a: str, b: str) -> None:
    stacks = ours.weights[kind]
    stacks[a], stacks[b] = stacks[b], stacks[a]


DAMAGE: dict[str, Callable[[Ours], Any]] = {
    "one swapped norm": lambda o: swap(o, "sliding", "input_norm", "post_attention_norm"),
    "q and k norm": lambda o: swap(o, "full", "q_norm", "k_norm"),
    "gate and up": lambda o: swap(o, "sliding", "gate_proj", "up_proj"),
    "scalars of both modes": lambda o: swap(o, "sliding", "encode_scalar", "denoise_scalar"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_weights_fail(pair: tuple[Path, Any], what: str) -> None:
    ours = Ours(pair[0])
    DAMAGE[what](ours)
    worst = error(expected(pair[1], tokens(1, 21)), actual(ours, tokens(1, 21)))
    assert worst["logits"] > 10 * TOLERANCE, worst


ROPES = [{"sliding_rope_theta": 1e6}, {"full_rope_theta": 1e4}, {"full_partial_rotary_factor": 1.0}]
# A change is a program to compile; experts have no part in it.
KINDS = ["dense", pytest.param("moe", marks=pytest.mark.slow)]


@pytest.mark.parametrize("pair", KINDS, indirect=True)
@pytest.mark.parametrize("change", ROPES)
def test_another_rope_fails(pair: tuple[Path, Any], change: dict[str, float]) -> None:
    ours = Ours(pair[0])
    ours.config = ours.denoise_config = dataclasses.replace(ours.config, **change)  # type: ignore[arg-type]
    worst = error(expected(pair[1], tokens(1, 21)), actual(ours, tokens(1, 21)))
    assert worst["logits"] > 10 * TOLERANCE, worst


@pytest.mark.parametrize("pair", KINDS, indirect=True)
@pytest.mark.parametrize("change", [1, -1])
def test_another_window_fails(pair: tuple[Path, Any], change: int) -> None:
    """W for W−1 in denoising, with a prefix that was encoded rightly."""
    ours = Ours(pair[0])
    ours.denoise_config = dataclasses.replace(ours.config, sliding_window=hf.WINDOW + change)
    worst = error(expected(pair[1], tokens(1, 21)), actual(ours, tokens(1, 21)))
    assert max(worst["hidden"], worst["key"], worst["value"]) <= TOLERANCE < worst["logits"] / 10, worst


def test_without_self_conditioning_it_fails(pair: tuple[Path, Any]) -> None:
    worst = error(expected(pair[1], tokens(1, 21)), actual(Ours(pair[0]), tokens(1, 21), conditioned=False))
    assert worst["logits"] > 10 * TOLERANCE, worst


@pytest.fixture(params=[(m, p) for m in ("dense-a", "moe-a") for p in ("short", "long")], ids="-".join)
def golden(request: pytest.FixtureRequest, repo_root: Path) -> tuple[Ours, Arrays]:
    folder = repo_root / "tests" / "golden" / request.param[0]
    return Ours(folder), dict(np.load(folder / f"{request.param[1]}.npz"))


def against_golden(ours: Ours, golden: Arrays) -> tuple[dict[str, float], Arrays]:
    """Errors against the arrays of this project's semantics, and our logits by name; fed signals are the golden ones."""
    errors = {"enc_hidden": float(np.abs(ours.encode(golden["prompt_ids"]) - golden["enc_hidden"]).max())}
    for name, array in ours.cached().items():
        kind, layer = name.split(".")
        errors[name] = float(np.abs(array - golden[f"enc_{kind[0]}_{layer}"]).max())
    zeros = np.zeros((ours.config.canvas_length, ours.config.hidden_size), np.float32)
    logits = {"logits1": ours.denoise(golden["canvas1_ids"], zeros)}
    soft = ours.soft(golden["logits1_hf"] / np.float32(0.8))
    errors["sc_emb"] = float(np.abs(soft - golden["sc_emb_hf"]).max())
    logits["logits2"] = ours.denoise(golden["canvas2_ids"], golden["sc_emb_hf"])
    ours.encode(golden["commit_ids"])
    logits["block2_logits1"] = ours.denoise(golden["canvas3_ids"], zeros)
    return errors | {name: float(np.abs(a - golden[f"{name}_hf"]).max()) for name, a in logits.items()}, logits


def test_goldens_agree(golden: tuple[Ours, Arrays]) -> None:
    errors, logits = against_golden(*golden)
    assert len(errors) == 1 + 2 * golden[0].config.num_layers + 1 + 3
    bad = {name: e for name, e in errors.items() if not e <= (LOGITS if "logits" in name else ENCODE)}
    assert not bad, bad
    other = [f"{name}_{version}" for name in ("logits1", "logits2") for version in ("release", "head")]
    apart = [float(np.abs(logits[key.rpartition("_")[0]] - golden[1][key]).max()) for key in other if key in golden[1]]
    assert len(apart) >= 2  # control: masks of other versions of the official code
    assert min(apart) > 100 * LOGITS


def test_taps_name_every_tensor(repo_root: Path) -> None:
    """Taps are what the plain run computes, complete, and in the order of layers."""
    ours = Ours(repo_root / "tests" / "golden" / "moe-a")
    config, eps = ours.config, ours.config.rms_norm_eps
    ours.encode(tokens(1, 9) % config.vocab_size)
    canvas = (tokens(2, 16) % config.vocab_size).astype(np.int32)
    soft = np.ones((16, config.hidden_size), np.float32)

    @jax.jit
    def denoise(w: Any, prefix: Any, length: Any) -> Any:
        return denoiser.denoise(w, config, canvas, soft, prefix, length, taps=True)

    @jax.jit
    def encode(w: Any) -> Any:
        return denoiser.encode(w, config, canvas, None, jnp.int32(0), taps=True)

    logits, taps = jax.device_get(denoise(ours.weights, ours.prefix, np.int32(ours.length)))
    layers = {f"layers.{i}.{name}" for i in range(config.num_layers) for name in denoiser.layer_taps(config)}
    assert set(taps) == layers | {"embedded", "conditioned", "hidden", "logits"}
    np.testing.assert_array_equal(logits, taps["logits"])
    np.testing.assert_allclose(logits, ours.denoise(canvas, soft), atol=LOGITS)

    def normed(name: str, scale: Any) -> npt.NDArray[Any]:
        x = taps[name]
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * np.asarray(scale))

    np.testing.assert_allclose(normed("layers.5.out", ours.weights["norm"]), taps["hidden"], atol=2e-6)
    np.testing.assert_allclose(
        normed("layers.2.out", ours.weights["sliding"]["input_norm"][3]), taps["layers.3.attention_in"], atol=2e-6
    )
    assert taps["layers.5.k"].shape == (16, config.global_num_kv_heads, config.global_head_dim)
    _, new, encoded = jax.device_get(encode(ours.weights))
    assert set(encoded) == layers | {"embedded", "hidden"}
    np.testing.assert_array_equal(new["sliding"][0][4], encoded["layers.4.k"])
    np.testing.assert_array_equal(new["full"][1][0], encoded["layers.5.v"])


def test_bfloat16_rounds_what_has_a_name(repo_root: Path) -> None:
    """bf16 stays near float32 and is not equal to it; the compiler's excess precision has no part in it."""
    folder = repo_root / "tests" / "golden" / "dense-a"
    config, _ = read_config(folder)
    canvas = (tokens(2, 16) % config.vocab_size).astype(np.int32)

    def logits(dtype: str, excess: bool) -> npt.NDArray[Any]:
        w = weights.load(folder, config, dtype)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(w)} == {dtype}
        soft = jnp.zeros((16, config.hidden_size), w["embed"].dtype)
        run = jax.jit(lambda w, s: denoiser.denoise(w, config, canvas, s, None, jnp.int32(0), taps=True))
        out, taps = run.lower(w, soft).compile({"xla_allow_excess_precision": excess})(w, soft)
        assert out.dtype == jnp.float32
        assert all(tap.dtype == dtype for name, tap in taps.items() if name != "logits")
        return np.asarray(out)

    wide, narrow = logits("float32", True), logits("bfloat16", True)
    assert 1e-3 < np.abs(wide - narrow).mean() < 0.2
    np.testing.assert_array_equal(narrow, logits("bfloat16", False))
