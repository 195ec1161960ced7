"""What a run leaves for readers: a line a step in log.jsonl, the same for TensorBoard, and a picture of the losses."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

LOG, PICTURE, EVENTS = "log.jsonl", "loss.png", "events"
_DRAW_SECONDS = 60.0  # between two pictures


class Records:
    """Open files of a run that goes on after `step`; leaving it draws the picture.

    TensorBoard's files are written where its package is installed.
    """

    def __init__(self, work: Path, step: int) -> None:
        self.work, self.log = work, (work / LOG).open("a", encoding="utf-8")
        self.board, self.drawn = _board(work / EVENTS, step), time.monotonic()

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a step's figures."""
        self.log.write(json.dumps(line) + "\n")
        if self.board is not None:
            for key, value in line.items():
                if isinstance(value, int | float) and key != "step":
                    self.board.add_scalar(key, value, line["step"])

    def flush(self) -> None:
        """Bring files up to date, and the picture once a minute."""
        self.log.flush()
        if self.board is not None:
            self.board.flush()
        if time.monotonic() - self.drawn >= _DRAW_SECONDS:
            draw(self.work)
            self.drawn = time.monotonic()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.log.close()
        if self.board is not None:
            self.board.close()
        draw(self.work)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def read(work: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that are whole."""
    lines = (work / LOG).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def draw(work: Path) -> None:
    """Draw losses over tokens; nothing where matplotlib is not installed or no step is logged."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = read(work)
    if len(lines) < 2:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("diffusion", "denoiser"), ("next_token", "encoder"), ("held_out", "held out, total")):
        points = [(line["tokens"] / 1e6, line[key]) for line in lines if line.get(key)]
        if points:
            axes.plot(*zip(*_smoothed(points), strict=True), label=label, linewidth=1.2)
    axes.set(xlabel="tokens, millions", ylabel="loss, nats", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    figure.savefig(work / PICTURE, dpi=120)


def _smoothed(points: list[tuple[float, float]], most: int = 200) -> list[tuple[float, float]]:
    """At most so many points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
