"""How a causal model is made a denoiser: its weights in both modes, canvases that grow, the causal loss kept.

Block length grows from 1, where a denoiser does what the causal model does, to the whole canvas, as NBDiff has it
(arXiv 2512.06776). Nothing of the causal model is dropped: see `model/causal.py`.
"""

from __future__ import annotations

from pathlib import Path

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.model.causal import is_causal
from dgemma.train.config import DataSection, ModelSection, RunSection, TrainConfig
from dgemma.train.options import MOST_SEED, Objective, Optimizer

_ADAMW_WIDTH = 0.2  # rate of AdamW for embedding and norms, times the hidden size


def adapting(
    checkpoint: Path,
    data: Path,
    *,
    tokens: int,
    canvas: int,
    held_out: Path | None = None,
    batch: int = 32,
    rate: float = 0.01,
    grow_until: float = 0.2,
    seed: int = 0,
) -> TrainConfig:
    """The run that `dgemma adapt` is; raises CheckpointError, UsageError naming the option."""
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: no such folder; give a causal checkpoint in the Hugging Face layout")
    if not is_causal(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: is not a causal Gemma 4 model; to train a denoiser further, use `dgemma finetune`"
        )
    for name, value, least, most in (
        ("--tokens", tokens, 1, 10**15), ("--canvas", canvas, 1, 4096), ("--batch", batch, 2, 4096),
        ("--seed", seed, 0, MOST_SEED),
    ):  # fmt: skip
        if not least <= value <= most:
            raise UsageError(f"{name} {value}: must be from {least} to {most}")
    if not rate > 0:
        raise UsageError(f"--rate {rate}: must be above 0")
    if not 0 <= grow_until <= 1:
        raise UsageError(f"--grow-until {grow_until}: must be from 0 to 1")
    return TrainConfig(
        model=ModelSection(init=checkpoint, shape={"canvas_length": canvas}),
        data=DataSection(files=(data,), held_out=held_out if held_out is not None else 0.02),
        run=RunSection(tokens=tokens, batch=batch, seed=seed),
        objective=Objective(grow_until=grow_until),
        optimizer=Optimizer(muon_rate=rate, rate=min(rate, _ADAMW_WIDTH / _width(checkpoint, canvas)), decay_from=0.3),
    )


def _width(checkpoint: Path, canvas: int) -> int:
    from dgemma.model.causal import read_causal_config

    return read_causal_config(checkpoint, canvas).hidden_size
