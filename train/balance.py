"""The load-balancing loss of mixtures of experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.model.denoiser import Router


class Balance:
    """Load-balancing loss of all routers of a model since the last call (Switch Transformer, arXiv 2101.03961, eq. 4).

    It is 1 where all experts are chosen equally often, and the number of experts over the number chosen where a few take all.
    """

    def __init__(self, model: nn.Module) -> None:
        self.losses: list[Tensor] = []
        routers = [module for module in model.modules() if isinstance(module, Router)]
        self.hooks = [router.register_forward_hook(self._record) for router in routers]

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()

    def _record(self, router: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        if not torch.is_grad_enabled():
            return
        assert isinstance(router, Router)
        probabilities = router.scores(inputs[0]).float().softmax(-1)
        ids = output[1]
        share = torch.bincount(ids.flatten(), minlength=probabilities.shape[-1]).float() / ids.numel()
        self.losses.append(probabilities.shape[-1] * (share * probabilities.flatten(0, -2).mean(0)).sum())

    def take(self) -> Tensor:
        """The mean over the forward passes and routers since the last call; zero where there were none."""
        mean = torch.stack(self.losses).mean() if self.losses else torch.zeros(())
        self.losses.clear()
        return mean
