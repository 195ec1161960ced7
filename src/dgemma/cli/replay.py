"""`dgemma replay`: a trace of `dgemma run --trace`, as the live view on a terminal, and otherwise as one line per step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from dgemma.cli.terminal import show
from dgemma.core.errors import UsageError
from dgemma.core.plural import counted
from dgemma.core.trajectory import Trajectory

if TYPE_CHECKING:
    from dgemma.cli.live import Frame
    from dgemma.core.manifest import Manifest
    from dgemma.runtime.tokenizer import Tokenizer

STEPS_PER_S = 4.0


def run(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A file written by `dgemma run --trace`.")],
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", metavar="BUNDLE", help="The bundle that wrote it. Default: show positions, not text."),
    ] = None,
    speed: Annotated[float, typer.Option("--speed", metavar="S", help="Steps per second.")] = STEPS_PER_S,
) -> None:
    if not 0.01 <= speed <= 1000:
        raise UsageError(f"--speed {speed:g} must be between 0.01 and 1000 steps per second")
    trajectory = Trajectory.load(trace)
    manifest, tokenizer = (None, None) if bundle is None else _opened(bundle, trace, trajectory)
    frames = _frames(trajectory, manifest, tokenizer)
    if sys.stdout.isatty():
        from dgemma.cli.live import View

        with View() as view:
            for frame in frames:
                view.draw(frame)
                time.sleep(1 / speed)
    else:
        for frame in frames:
            print(f"{frame.figures}: {frame.committed}{''.join(piece for piece, _ in frame.pieces)}".replace("\n", "\\n"))
    if tokenizer is not None:
        show(tokenizer.decode(trajectory.tokens.tolist()))
    steps, canvases = len(trajectory.step), len(np.unique(trajectory.canvas_index))
    told = (
        f"{counted(len(trajectory.tokens), 'token')} in {counted(steps, 'step')} of {counted(canvases, 'canvas', 'canvases')}"
    )
    print(told, file=sys.stderr)


def _opened(bundle: str, trace: Path, trajectory: Trajectory) -> tuple[Manifest, Tokenizer]:
    """The bundle's manifest and tokenizer; raises BundleError, and UsageError where it cannot have written the trace."""
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.tokenizer import load_tokenizer

    opened = Bundle.open(bundle, by_record=True)
    tokenizer = load_tokenizer(opened)
    if tokenizer is None:
        raise UsageError(f"--bundle {bundle}: has no tokenizer; leave --bundle out to see positions")
    length = trajectory.argmax.shape[1]
    if length != opened.manifest.canvas_length or trajectory.most_id() >= opened.manifest.model.vocab_size:
        raise UsageError(
            f"{trace}: was not written by {bundle}: its canvas or vocabulary differs; name the bundle that wrote it"
        )
    return opened.manifest, tokenizer


def _frames(trajectory: Trajectory, manifest: Manifest | None, tokenizer: Tokenizer | None) -> Iterator[Frame]:
    """A frame for each step; without a tokenizer, a position is a block, the darker the surer."""
    from dgemma.cli.live import Frame, States
    from dgemma.runtime.progress import visible

    stops = frozenset(manifest.model.eos_token_ids) if manifest is not None else frozenset[int]()
    states, committed = States(), list[int]()
    rows = trajectory.argmax.tolist()
    for i, argmax in enumerate(rows):
        canvas, left = int(trajectory.canvas_index[i]), int(trajectory.step[i])
        first = i == 0 or trajectory.canvas_index[i - 1] != canvas
        if first:
            committed += visible(rows[i - 1], stops) if i else []
            total, before = left, i
        kinds = states.of(canvas, argmax, trajectory.accepted[i].tolist())
        if tokenizer is not None:
            pieces = tokenizer.pieces(visible(argmax, stops))
        else:
            pieces = [_block(float(entropy)) for entropy in trajectory.entropy[i]]
        yield Frame(
            committed=tokenizer.decode(committed) if tokenizer is not None else "",
            pieces=list(zip(pieces, kinds, strict=False)),
            figures=f"canvas {canvas + 1}, step {i - before + 1} of {total}, "
            f"{int(trajectory.accepted[i].sum())} settled, mean entropy {float(trajectory.entropy[i].mean()):.3g} nats",
        )


def _block(entropy: float) -> str:
    return "█▓▒░"[sum(entropy > bound for bound in (0.1, 0.5, 2.0))]
