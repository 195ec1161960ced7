"""The trained mixture answers held-out prompts, all its experts are in use, and which one a position is sent to matters."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch

from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser, Router
from dgemma.train.tiny import sweep, tasks

FOLDER = Path(__file__).parents[2] / "checkpoints/tiny-moe"


@pytest.fixture
def model() -> Denoiser:
    return checkpoint.load(FOLDER).model


def measured(model: Denoiser) -> tuple[float, float]:
    """Exact match over a prompt of each task, and steps per canvas."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
    found = sweep.measure(model, sp, sweep.SHIPPED, None, per_task=1)
    assert found["prompts"] == len(tasks.TASKS) == 17
    return found["exact"], found["steps_per_canvas"]


def test_tiny_moe_answers_and_sends_positions_to_all_of_its_experts(model: Denoiser) -> None:
    used = [torch.zeros(8, dtype=torch.bool) for _ in model.layers]
    for layer, seen in zip(model.layers, used, strict=True):

        def record(
            router: Router, inputs: object, output: tuple[torch.Tensor, torch.Tensor], seen: torch.Tensor = seen
        ) -> None:
            seen[output[1].unique()] = True

        layer.router.register_forward_hook(record)
    exact, steps = measured(model)
    assert exact >= 0.75 and steps < 3
    assert all(seen.all() for seen in used)


def test_experts_that_are_exchanged_answer_worse_or_take_longer(model: Denoiser) -> None:
    exact, steps = measured(model)
    for layer in model.layers:
        for parameter in layer.experts.parameters():
            parameter.data = parameter.data.roll(1, 0)
    worse, longer = measured(model)
    assert worse <= exact and longer > 1.1 * steps
