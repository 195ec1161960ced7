"""The head as ExecuTorch runs it against all logits at once, and the memory that it plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import delegated
import micro
import micro_bundle
import numpy as np
import pytest
import torch
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.export import graphs
from dgemma.export.executorch import head, linear
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.runtime.session import Session
from dgemma.verify.metrics import candidates_error

pytest.importorskip("executorch")
POLICY = replace(micro.POLICY, entropy_bound=30.0)  # accepts nearly all positions, so that nearly all draws show
CASES = [
    ("w8", 1030, "topk:7"),
    ("w8", 1024, "exact"),
    pytest.param("w8", 300, "topk:7", marks=pytest.mark.slow),
    pytest.param("fp32", 1030, "exact", marks=pytest.mark.slow),
    pytest.param("w4-all", 1030, "topk:3", marks=pytest.mark.slow),
    pytest.param("w4-all", 1024, "exact", marks=pytest.mark.slow),
    pytest.param("fp32", 1030, "topk:1", marks=pytest.mark.slow),
]


def rows(seed: int, scale: float = 1.0) -> Tensor:
    """Last hidden states [1, N, D]."""
    return torch.randn(1, micro.N, micro.CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed)) * scale


def naive(model: Denoiser, policy: SamplerConfig, *given: Tensor) -> tuple[Tensor, ...]:
    """With all logits."""
    return graphs.sample(model, policy, model.head(given[0]), *given[1:])


def worst(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """Largest error of entropies, soft embeddings and log-probabilities; infinite where a decision or draw differs."""
    if not all(torch.equal(a[i], b[i]) for i in (0, 1, 3, 5)):
        return float("inf")
    errors = [float((a[i] - b[i]).abs().max()) for i in (2, 4)]
    return max(*errors, float(candidates_error(*(t.numpy() for t in (*a[6:], *b[6:]))).max()))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "TILE", 256)
    monkeypatch.setattr(head, "TOGETHER", 2)


@pytest.mark.parametrize(("recipe", "vocab", "soft"), CASES)
def test_tiles_decide_as_all_logits_do(recipe: str, vocab: int, soft: str, tmp_path: Path) -> None:
    """Draws that differ must lie within rounding of a border between tokens; fewer rows than planned for decide the same."""
    model, policy = delegated.model(vocab, recipe), replace(POLICY, soft=soft)
    delegated.write(model, policy, tmp_path / "head.pte")
    run = delegated.load(tmp_path / "head.pte")
    for seed, scale in ((0, 1.0), (1, 0.05), (2, 8.0)):
        words, temperature = micro.noise(seed)[1][0], torch.tensor([0.7])
        given = rows(seed, scale), words, temperature
        with torch.no_grad():
            assert worst(run(*given), naive(model, policy, *given)) < 5e-3
            assert worst(run(*given), naive(model, policy, given[0], words.flip(0), temperature)) == float("inf")
            few = given[0][:, :5], words[:, :5].contiguous(), temperature
            assert worst(run(*few), naive(model, policy, *few)) < 5e-3


def test_a_draw_from_the_wrong_part_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In eager: both ends of a flat distribution, and a negative control: rows looked up that say nothing of the logits."""
    for vocab in (300, 1030):
        model, policy = delegated.model(vocab, "fp32"), replace(POLICY, entropy_bound=1e6)
        words = torch.zeros(2, micro.N, dtype=torch.int64)
        words[0, 1::2] = 2**32 - 1
        flat = torch.zeros(1, micro.N, micro.CONFIG.hidden_size)
        with torch.no_grad():
            canvas = head.sample(model, policy, flat, words, torch.tensor([0.5]))[0][0]
        assert canvas.tolist() == [0, vocab - 1] * (micro.N // 2)
    model = delegated.model(1030, "w8")
    given = rows(0, 0.3), micro.noise(0)[1][0], torch.tensor([0.7])
    with torch.no_grad():
        wanted = naive(model, POLICY, *given)
        assert worst(head.sample(model, POLICY, *given), wanted) < 5e-3
        monkeypatch.setattr(type(model.embed_tokens), "read", lambda self, x: -x)
        assert worst(head.sample(model, POLICY, *given), wanted) == float("inf"), "draws do not depend on logits"


def test_the_likeliest_ids(tmp_path: Path) -> None:
    model = delegated.model(1030, "w8")
    delegated.write(model, None, tmp_path / "head.pte")
    given = rows(0), torch.zeros(2, micro.N, dtype=torch.int64), torch.ones(1)
    found = delegated.load(tmp_path / "head.pte")(*given)[0]
    with torch.no_grad():
        logits = model.head(given[0])
    assert torch.equal(found, logits.argmax(-1))
    assert not torch.equal(found, logits[..., :512].argmax(-1)), "all are in the first tiles"


@pytest.mark.parametrize(
    ("soft", "strips"),
    [
        ("greedy", 3),
        pytest.param("exact", 1, marks=pytest.mark.slow),
        pytest.param("exact", 2, marks=pytest.mark.slow),
        pytest.param("exact", 3, marks=pytest.mark.slow),
        pytest.param("topk:1", 3, marks=pytest.mark.slow),
    ],
)
def test_memory_is_that_of_a_few_tiles(soft: str, strips: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Logits of twice the vocabulary take hardly more; without the wait for the strip before, they are all held."""
    monkeypatch.setattr(linear, "TILE", 512)
    policy = None if soft == "greedy" else replace(POLICY, soft=soft)
    path = tmp_path / "head.pte"
    one = 64 * 1024 * 4  # bytes of a strip's logits

    def planned(strips: int) -> int:
        return delegated.write(delegated.model(1024 * strips, "w8"), policy, path, 64)

    most = planned(2 * strips)
    assert most - planned(strips) < one
    assert most < 6 * one
    monkeypatch.setattr(head, "after", lambda rows, done: rows)
    assert planned(2 * strips) >= most + strips * one


@pytest.mark.slow
@pytest.mark.parametrize("soft", ["exact", "topk:7"])
def test_whole_graphs_of_several_tiles_agree_with_eager(soft: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both loops and eager PyTorch give one trajectory, and another seed gives another."""
    monkeypatch.setattr(linear, "TILE", 256)
    with quiet():
        path = export_bundle(micro_bundle.checkpoint(), tmp_path / "b.dgemma", engines=("executorch",), soft=soft)
    model = checkpoint.load(micro_bundle.checkpoint()).model
    policy = replace(micro.POLICY, soft=soft)
    with Session.load(path, threads=1) as session:
        for seed in range(3):
            wanted = generate(model, policy, micro.prompt(9), seed=seed, max_new_tokens=40).trajectory
            for loop in ("host", "graph"):
                session.reset()
                found = session.generate(micro.prompt(9), max_new_tokens=40, seed=seed, loop=loop, trace=True).trajectory
                for name in ("step", "argmax", "accepted", "canvas_out", "tokens"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
        session.reset()
        other = session.generate(micro.prompt(9), max_new_tokens=40, seed=9).tokens
        assert list(other) != list(wanted.tokens)
