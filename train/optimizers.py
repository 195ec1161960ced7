"""The optimizers of a run as one, and how weights begin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dgemma.model.denoiser import Denoiser
from dgemma.train.muon import Muon
from dgemma.train.options import Optimizer

_EMBEDDING, _SELF_CONDITIONING = "embed_tokens", "self_conditioning"


def initialize(model: Denoiser, generator: torch.Generator) -> None:
    """Normal weights scaled by fan-in; q and k gains start so that their product is 1/√d, else attention is too sharp."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim >= 2:
                p.normal_(0.0, 0.5 / math.sqrt(p.shape[-1]), generator=generator)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                p.fill_(p.shape[0] ** -0.25)
        model.embed_tokens.weight.normal_(0.0, 1.0 / math.sqrt(model.config.hidden_size), generator=generator)


class Optimizers:
    """AdamW, and with `muon` Muon for the matrices of the layers; no weight decay."""

    def __init__(self, trained: dict[str, nn.Parameter], policy: Optimizer) -> None:
        self.policy, self.parameters = policy, list(trained.values())
        matrices = [p for name, p in trained.items() if is_muons(name, p, policy)]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.rated: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            self.rated.append((Muon(matrices, lr=policy.muon_rate), policy.muon_rate))
        if rest:
            self.rated.append((torch.optim.AdamW(rest, lr=policy.rate, betas=(0.9, 0.98), weight_decay=0.0), policy.rate))

    def zero_grad(self) -> None:
        for optimizer, _ in self.rated:
            optimizer.zero_grad()

    def clip(self) -> float:
        """Clip all gradients together to norm 1; the norm before."""
        norm: Tensor = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        return float(norm)

    def step(self, factor: float) -> None:
        """Move the parameters, at so much of the highest rates."""
        for optimizer, rate in self.rated:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self.rated]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for (optimizer, _), state in zip(self.rated, states, strict=True):
            optimizer.load_state_dict(state)


def is_muons(name: str, p: Tensor, policy: Optimizer) -> bool:
    """Whether Muon moves a parameter: a matrix of a layer, and with that policy of the self-conditioning."""
    if policy.kind != "muon" or p.ndim != 2 or name.startswith(_EMBEDDING):
        return False
    return policy.self_conditioning == "muon" or not name.startswith(_SELF_CONDITIONING)
