"""The progress and the plan of training, as lines of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgemma.train.loop import Progress
    from dgemma.train.runs import Plan


def told(say: Callable[[str], None], every: int) -> Callable[[Progress], None]:
    """Tell how far training is: at the first steps, and as often as the held-out loss is measured."""
    from dgemma.export.countdown import spoken

    def tell(at: Progress) -> None:
        if at.step % every == 0 or at.step in (1, 10) or at.done >= 1:
            left = f", about {spoken(at.left)} left" if at.done < 1 else ""
            say(f"step {at.step} ({at.done:.0%}), loss {at.loss:.4f}, held out {at.held_out:.4f}{left}")

    return tell


def plan_lines(plan: Plan) -> list[str]:
    """The dry run for people."""
    from dgemma.export.countdown import spoken

    if plan.step_seconds is None:
        time = "more memory than this machine has free, so no step was timed"
    else:
        time = f"about {spoken(plan.step_seconds * plan.steps)}, from steps timed on this machine"
    return [
        f"data      {'newly drawn' if plan.rows is None else f'{plan.rows:,}'} canvases to train on, {plan.held_out} held out",
        f"trained   {plan.trained:,} of {plan.parameters:,} parameters",
        f"memory    {plan.state_bytes / 1e9:.2f} GB for weights, gradients, moments and best weights, plus activations",
        f"FLOPs     {plan.step_flops / 1e9:.1f} G per step in the matrices, {plan.step_flops * plan.steps / 1e12:.1f} T in all",
        f"time      {plan.steps:,} steps, {plan.tokens:,} tokens, {time}",
    ]
