"""What a fine-tuning run depends on, beside its data: one frozen policy, validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dgemma.core.errors import UsageError

MOST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Defaults are for a few hundred examples of one task and any width of model.

    Args:
        steps: of the optimizer; None takes three passes over the data, at least 400 steps.
        batch: canvases of a step.
        rate: highest learning rate; None takes 0.06 / hidden size, ten times that for LoRA.
        lora: rank R of the adapter; None trains all weights.
        replay_share: of every batch, drawn from the replay data where there is any.
        held_out_share: of the conversations, which are not trained on.
        evaluate_every: steps between two held-out losses.
        save_seconds: between two saved states.
        first_step_share: of rows, which learn a first denoising step; the others a later one, on the model's own trajectory.
        pure_noise_share: of first-step rows; the others draw their noise level uniformly.
        next_token_weight: of the encoder's loss beside the denoiser's.
        seed: of order, noise and adapter.
    """

    steps: int | None = None
    batch: int = 16
    rate: float | None = None
    lora: int | None = None
    replay_share: float = 0.5
    held_out_share: float = 0.05
    evaluate_every: int = 50
    save_seconds: float = 60.0
    first_step_share: float = 0.5
    pure_noise_share: float = 0.7
    next_token_weight: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("steps", 1, 10**9), ("batch", 2, 4096), ("lora", 1, 4096), ("seed", 0, MOST_SEED)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"--{name} {value}: must be from {least} to {most}")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise UsageError(f"--rate {self.rate}: must be above 0")

    def steps_for(self, rows: int) -> int:
        """Steps over data of so many canvases."""
        return max(400, -(-3 * rows // self.batch)) if self.steps is None else self.steps

    def rate_for(self, hidden_size: int) -> float:
        """The best rate of Adam falls with the width (Yang et al., arXiv 2203.03466); that of LoRA is about ten times the one
        of whole weights (Schulman et al., "LoRA Without Regret", 2025)."""
        return (0.06 / hidden_size * (1 if self.lora is None else 10)) if self.rate is None else self.rate

    def factor(self, step: int, steps: int) -> float:
        """On the rate at step 0, 1, …: warm-up over a twentieth of the steps, then linear to zero."""
        return min(1.0, (step + 1) / max(1, steps // 20)) * (1 - step / steps)
