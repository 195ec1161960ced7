"""The committed vectors, their generator, the numpy noise and the PyTorch sampler say the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from program import load

from dgemma.core import noise
from dgemma.model import sampler

HERE = Path(__file__).parent
NOISE: dict[str, Any] = json.loads((HERE / "noise.json").read_text())
SAMPLING: dict[str, Any] = json.loads((HERE / "sampling.json").read_text())


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load(HERE / "make_vectors.py")


def u32(values: list[int]) -> noise.U32:
    return np.array(values, np.uint32)


def test_files_are_what_the_generator_writes(generator: ModuleType) -> None:
    for name, text in generator.files().items():
        assert (HERE / name).read_text() == text, f"{name}: run make_vectors.py"


def test_threefry() -> None:
    for case in NOISE["threefry"]:
        high, low = u32(case["counter"][:1]), u32(case["counter"][1:])
        assert [int(x[0]) for x in noise.threefry2x32(tuple(case["key"]), high, low)] == case["output"]


def test_streams() -> None:
    for case in NOISE["streams"]:
        seed, canvas, stream, n = int(case["seed"]), case["canvas"], case["stream"], case["shape"][-1]
        key = noise.fold_in(noise.fold_in(noise.key_from_seed(seed), canvas), stream)
        got = noise.canvas_words(seed, canvas, n) if stream == 0 else noise.step_words(seed, canvas, stream, n)
        assert list(key) == case["key"]
        assert list(got.shape) == case["shape"]
        assert got.ravel().tolist() == case["words"]


def test_tokens_and_uniforms() -> None:
    for case in NOISE["tokens"]:
        assert noise.token_from_word(u32([case["word"]]), case["vocab"]).tolist() == [case["token"]]
        assert sampler.tokens(torch.tensor([case["word"]]), case["vocab"]).tolist() == [case["token"]]
    for case in NOISE["uniforms"]:
        assert noise.uniform_from_word(u32([case["word"]])).tolist() == [case["uniform"]]
        assert sampler.uniforms(torch.tensor([case["word"]])).tolist() == [case["uniform"]]


def weights_of(case: dict[str, Any]) -> list[float]:
    if "weights" in case:
        return list(case["weights"])
    source = case["generated"]
    us = noise.uniform_from_word(noise.words(noise.key_from_seed(source["seed"]), (source["vocab"],)))
    out = us
    for _ in range(source["power"] - 1):
        out = out * us
    return [float(w) for w in out]


@pytest.mark.parametrize("case", SAMPLING["inverse_cdf"], ids=lambda c: f"{c['name']}-{c['word']}")
def test_inverse_cdf(case: dict[str, Any]) -> None:
    weights = torch.tensor(weights_of(case), dtype=torch.float32)[None, None]
    assert int(sampler.inverse_cdf(weights, sampler.uniforms(torch.tensor([[case["word"]]])))) == case["token"]


@pytest.mark.parametrize("case", SAMPLING["accept"], ids=lambda c: c["name"])
def test_accept(case: dict[str, Any]) -> None:
    entropy = torch.tensor(case["entropy"], dtype=torch.float32)
    assert sampler.accept(entropy, case["bound"]).tolist() == case["accepted"]


def test_entropy_and_step() -> None:
    words = torch.zeros(1, 2, 1, dtype=torch.int64)
    for case in SAMPLING["entropy"]:
        step = sampler.step(torch.tensor([[case["logits"]]], dtype=torch.float32), words, 0.1)
        assert abs(float(step.entropy) - case["entropy"]) <= case["tolerance"]
    for case in SAMPLING["step"]:
        step = sampler.step(torch.tensor([case["tempered"]]), torch.tensor([case["words"]]), case["bound"])
        for name in ("canvas", "argmax", "accepted"):
            assert getattr(step, name)[0].tolist() == case[name]
        assert np.abs(step.entropy[0].numpy() - case["entropy"]).max() <= case["tolerance"]


def test_vectors_can_fail() -> None:
    """Control: plausible mistakes in a port do not pass them."""
    cases = SAMPLING["inverse_cdf"]

    def naive(case: dict[str, Any], side: str) -> int:
        running = np.cumsum(np.array(weights_of(case), np.float32), dtype=np.float32)
        target = np.float32((case["word"] >> 8) * 2.0**-24) * running[-1]
        return min(int(np.searchsorted(running, target, side="left" if side == "left" else "right")), len(running) - 1)

    assert any(naive(c, "left") != c["token"] for c in cases)  # ≥ for >
    assert any(naive(c, "right") != c["token"] for c in cases)  # one float32 running sum for blocks
    inclusive = [(torch.tensor(c["entropy"]).sort().values.cumsum(0) <= c["bound"]).sum() for c in SAMPLING["accept"]]
    assert any(int(k) != sum(c["accepted"]) for k, c in zip(inclusive, SAMPLING["accept"], strict=True))
    assert any((c["word"] & 0x7FFFFFFF) * c["vocab"] >> 32 != c["token"] for c in NOISE["tokens"])  # a signed word
