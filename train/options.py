"""What a training run depends on, beside its data: frozen policies, validated. A default is defined here alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dgemma.core.errors import UsageError

MOST_SEED = 2**32 - 1
MOST_STEPS = 10**9


def _share(where: str, name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{where}{name} {value}: must be from 0 to 1")


def _positive(where: str, name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{where}{name} {value}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss; see docs/how-it-works/training.md.

    Args:
        diffusion_weight: of the denoiser's loss; 0 trains the causal model alone.
        next_token_weight: of the encoder's loss.
        first_step_share: of rows, which learn a first denoising step; the others a later one, on the model's own trajectory.
        pure_noise_share: of rows; the others draw their noise level.
        levels: how they draw it: uniformly, or as often as the loss at a level is high, with weights that undo the bias.
        widths: of narrow canvases, each as likely.
        narrow_share: of batches, which see only the first positions of their canvases.
        growing_share: of batches, whose step before had half the width.
        grow_until: share of the run over which the widest canvas doubles from 1 to N.
        prompt_dropout: share of rows that keep only the first id of their prompt.
        stop_weight, pad_weight: of positions of stop tokens and pads in the denoiser's loss, beside the 1 of others.
        balance_weight: of the load-balancing loss of mixtures' routers.
    """

    diffusion_weight: float = 1.0
    next_token_weight: float = 0.3
    first_step_share: float = 0.5
    pure_noise_share: float = 0.7
    levels: Literal["uniform", "learned"] = "uniform"
    widths: tuple[int, ...] = (4, 8, 16, 32)
    narrow_share: float = 0.0
    growing_share: float = 0.0
    grow_until: float = 0.0
    prompt_dropout: float = 0.0
    stop_weight: float = 1.0
    pad_weight: float = 1.0
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        for name in (
            "first_step_share", "pure_noise_share", "narrow_share", "growing_share", "grow_until", "prompt_dropout",
        ):  # fmt: skip
            _share("objective.", name, getattr(self, name))
        for name in ("diffusion_weight", "next_token_weight", "stop_weight", "pad_weight", "balance_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"objective.{name} {value}: must be 0 or more")
        if self.diffusion_weight == 0 and self.next_token_weight == 0:
            raise UsageError("objective.diffusion_weight and next_token_weight are both 0, so there is nothing to learn")
        if self.levels not in ("uniform", "learned"):
            raise UsageError(f"objective.levels {self.levels!r}: must be uniform or learned")
        if self.narrow_share and not (self.widths and all(width >= 1 for width in self.widths)):
            raise UsageError(f"objective.widths {list(self.widths)}: must name at least one width")

    @property
    def is_causal(self) -> bool:
        """Whether only the encoder is trained."""
        return self.diffusion_weight == 0


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW for all parameters, or Muon for the layers' matrices and AdamW for embedding, norms and experts.

    Args:
        rate: highest learning rate of AdamW.
        muon_rate: highest learning rate of Muon.
        self_conditioning: what moves its matrices, where `kind` is muon. Muon makes its signal many times as large as the
            embeddings that it is added to, and the norm after the sum then hides which ids a canvas holds.
        warmup_steps: over which rates rise from 0.
        decay_from: share of the run after which rates fall linearly to 0.
    """

    kind: Literal["adamw", "muon"] = "muon"
    rate: float = 3e-3
    muon_rate: float = 0.02
    self_conditioning: Literal["adamw", "muon"] = "muon"
    warmup_steps: int = 100
    decay_from: float = 0.4

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "muon"):
            raise UsageError(f"optimizer.kind {self.kind!r}: must be adamw or muon")
        if self.self_conditioning not in ("adamw", "muon"):
            raise UsageError(f"optimizer.self_conditioning {self.self_conditioning!r}: must be adamw or muon")
        for name in ("rate", "muon_rate"):
            _positive("optimizer.", name, getattr(self, name))
        if self.warmup_steps < 1:
            raise UsageError(f"optimizer.warmup_steps {self.warmup_steps}: must be at least 1")
        if not 0 <= self.decay_from < 1:
            raise UsageError(f"optimizer.decay_from {self.decay_from}: must be from 0 to below 1")

    def factor(self, step: int, done: float) -> float:
        """On the rates at step 0, 1, … with this share of the run done."""
        return min(1.0, (step + 1) / self.warmup_steps) * min(1.0, max(0.0, 1 - done) / (1 - self.decay_from))


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a run goes through its data; it ends after `steps` or `tokens`, one of which is given.

    Args:
        tokens: positions of prefixes and canvases that were trained on, pads included.
        evaluate_every: steps between two held-out losses.
        save_seconds: between two saved states.
        bfloat16: compute layers in bfloat16: fast with AVX512-BF16 or AMX, slow in emulation without them.
    """

    steps: int | None = None
    tokens: int | None = None
    evaluate_every: int = 50
    save_seconds: float = 60.0
    bfloat16: bool = False
    seed: int = 0

    def done(self, step: int, tokens: int) -> float:
        """Share of the run that is done."""
        return step / self.steps if self.steps is not None else tokens / (self.tokens or 1)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Options of `dgemma finetune`. Defaults are for a few hundred examples of one task and any width of model.

    Args:
        steps: of the optimizer; None takes three passes over the data, at least 900 steps.
        batch: canvases of a step.
        rate: highest learning rate; None takes 3.2e-5 · (2000 / hidden size), for LoRA 3.5e-4 · (2000 / hidden size)^0.78.
        lora: rank R of the adapter; None trains all weights.
        replay_share: of every batch, drawn from the replay data where there is any.
        replay_weight: of replayed rows in both losses, beside the 1 of others.
        held_out_share: of the conversations, which are not trained on.
        evaluate_every: steps between two held-out losses.
        save_seconds: between two saved states.
        seed: of order, noise and adapter.
    """

    steps: int | None = None
    batch: int = 8
    rate: float | None = None
    lora: int | None = None
    replay_share: float = 0.5
    replay_weight: float = 8.0
    held_out_share: float = 0.05
    evaluate_every: int = 50
    save_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("steps", 1, MOST_STEPS), ("batch", 2, 4096), ("lora", 1, 4096), ("seed", 0, MOST_SEED)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"--{name} {value}: must be from {least} to {most}")
        if self.rate is not None:
            _positive("--", "rate", self.rate)

    def steps_for(self, rows: int) -> int:
        """Steps over data of so many canvases."""
        return max(900, -(-3 * rows // self.batch)) if self.steps is None else self.steps

    def rate_for(self, hidden_size: int) -> float:
        """Adam's best rate falls with the width: for all weights as in Yang et al. (arXiv 2203.03466), for LoRA with the power
        that "LoRA Without Regret" (Schulman et al., 2025) fitted to Llamas. There, LoRA's rate is 5e-4 at a width of 2000, and
        that of all weights a tenth. tiny forgets less with lower ones and more steps."""
        if self.rate is not None:
            return self.rate
        narrower = 2000 / hidden_size
        return float(3.2e-5 * narrower if self.lora is None else 3.5e-4 * narrower**0.78)

    def optimizer(self, steps: int, hidden_size: int) -> Optimizer:
        """AdamW: warm-up over a twentieth of the steps, then linear to zero."""
        rate, warmup = self.rate_for(hidden_size), max(1, steps // 20)
        return Optimizer(kind="adamw", rate=rate, warmup_steps=warmup, decay_from=0.0)

    def course(self, steps: int) -> Course:
        return Course(steps=steps, evaluate_every=self.evaluate_every, save_seconds=self.save_seconds, seed=self.seed)
