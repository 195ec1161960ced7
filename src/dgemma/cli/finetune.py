"""`dgemma finetune`: a checkpoint trained further on conversations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgemma.cli.options import ThreadsOption
from dgemma.core.interrupts import INTERRUPTED
from dgemma.core.progress import notes, stages

if TYPE_CHECKING:
    from dgemma.train.finetune import Plan
    from dgemma.train.loop import Progress


def run(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="Checkpoint folder, or fetched hub id.")],
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Conversations: JSON lines with messages.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; must not exist.")],
    lora: Annotated[
        int | None, typer.Option("--lora", metavar="R", help="Train an adapter of rank R, for `dgemma merge`, not all weights.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="FILE", help="Conversations that half of every batch is drawn from, against forgetting."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="K", help="Steps of the optimizer. Default: three passes, at least 400.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Canvases of a step.")] = 16,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="X", help="Highest learning rate. Default: 0.06 / hidden size, ten times that for --lora."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of order, noise and adapter, 0 to 2^32-1.")] = 0,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in --out, with the same options.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data, print memory, FLOPs and time; write nothing.")
    ] = False,
) -> int:
    from dgemma.cli.checkpoint_text import CheckpointText
    from dgemma.core.errors import UsageError
    from dgemma.model.hub import folder_of
    from dgemma.train.finetune import Finetuning
    from dgemma.train.options import FinetuneOptions

    options = FinetuneOptions(lora=lora, steps=steps, batch=batch, rate=rate, seed=seed)
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: must be at least 1")
        import torch

        torch.set_num_threads(threads)
    source = folder_of(checkpoint)
    text = CheckpointText(source)
    notes(text.notes)
    run = Finetuning(source, data, out, text.exchanges, options, replay=replay, resume=resume)
    if dry_run:
        print("\n".join(plan_lines(run.plan())))
        return 0
    with stages() as say:
        outcome = run.run(told(say, options.evaluate_every))
    print(f"{out}: {'adapter' if lora else 'checkpoint'} of step {outcome.best_step}, held-out loss {outcome.held_out:.4f}")
    if outcome.stopped:
        print(f"stopped at step {outcome.step} of {outcome.steps}; go on with --resume")
        return INTERRUPTED
    return 0


def told(say: Callable[[str], None], every: int) -> Callable[[Progress], None]:
    """Tell how far training is: at the first steps, and as often as the held-out loss is measured."""
    from dgemma.export.countdown import spoken

    def tell(at: Progress) -> None:
        if at.step % every == 0 or at.step in (1, 10) or at.step == at.steps:
            left = f", about {spoken(at.left)} left" if at.step < at.steps else ""
            say(f"step {at.step} of {at.steps}, loss {at.loss:.4f}, held out {at.held_out:.4f}{left}")

    return tell


def plan_lines(plan: Plan) -> list[str]:
    """The dry run for people."""
    from dgemma.export.countdown import spoken

    if plan.step_seconds is None:
        time = "more memory than this machine has free, so no step was timed"
    else:
        time = f"about {spoken(plan.step_seconds * plan.steps)}, from one step timed on this machine"
    return [
        f"data      {plan.rows} canvases to train on, {plan.held_out} held out",
        f"trained   {plan.trained:,} of {plan.parameters:,} parameters",
        f"memory    {plan.state_bytes / 1e9:.2f} GB for weights, gradients, Adam and the best weights; activations come on top",
        f"FLOPs     {plan.step_flops / 1e9:.1f} G a step in the matrices, {plan.step_flops * plan.steps / 1e12:.1f} T in all",
        f"time      {plan.steps} steps, {time}",
    ]
