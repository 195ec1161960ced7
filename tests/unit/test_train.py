"""Optimizers: which parameters Muon moves, and by how much."""

from __future__ import annotations

import torch
from fake_bundle import MODEL_CONFIG
from torch import Tensor

from dgemma.model.denoiser import Denoiser
from dgemma.train.optimizers import Optimizers
from dgemma.train.options import Optimizer

RATE, STEPS = 0.02, 20


def orthogonalized(x: Tensor) -> Tensor:
    """Five quintic Newton–Schulz iterations on x, a matrix of at most as many rows as columns (Jordan et al., 2024)."""
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def moved(gradients: list[Tensor], *, nesterov: bool = True) -> Tensor:
    """The sum of all updates of one matrix by the paper's formula, in float64."""
    momentum, total = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])
    for g in gradients:
        momentum = 0.95 * momentum + g
        update = g + 0.95 * momentum if nesterov else momentum
        tall = g.shape[0] > g.shape[1]
        matrix = orthogonalized(update.mT).mT if tall else orthogonalized(update)
        total -= RATE * max(1.0, g.shape[0] / g.shape[1]) ** 0.5 * matrix
    return total


def test_muon_moves_the_matrices_of_the_layers_as_the_paper_says() -> None:
    """Over several steps, in float64 here."""
    torch.manual_seed(0)
    model = Denoiser(MODEL_CONFIG)
    muon, adam = (one for one, _ in Optimizers(dict(model.named_parameters()), Optimizer(muon_rate=RATE)).rated)
    of_muon, of_adam = muon.param_groups[0]["params"], adam.param_groups[0]["params"]
    assert all(p.ndim == 2 for p in of_muon)
    assert any(p is model.embed_tokens.weight for p in of_adam)
    assert len(of_muon) + len(of_adam) == len(list(model.parameters()))

    for tall in (True, False):
        p = next(p for p in of_muon if p.shape[0] != p.shape[1] and (p.shape[0] > p.shape[1]) == tall)
        start = p.detach().double()
        gradients = [torch.randn(p.shape) for _ in range(STEPS)]
        for g in gradients:
            p.grad = g
            muon.step()
        p.grad = None
        path = p.detach().double() - start
        exact, plain = (moved([g.double() for g in gradients], nesterov=nesterov) for nesterov in (True, False))
        assert (path - exact).norm() < 1e-3 * exact.norm()
        assert (path - plain).norm() > 0.1 * exact.norm()
