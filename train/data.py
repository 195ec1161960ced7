"""Conversations in JSON lines as rows to train on: a prefix, and one canvas of the answer behind it.

Text becomes ids by a function that the caller gives; this module knows no tokenizer and no template.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import DgemmaError, UsageError
from dgemma.core.messages import Message, read_messages, read_tools

Exchange = tuple[list[int], list[int]]  # ids up to where the model answers; ids of the answer with its stop token
Speak = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], list[Exchange]]
_MOST_HELD_OUT = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One canvas of an answer: at most N ids, without the pads behind them.

    Args:
        prefix: ids before the canvas.
        prompt: how many of them are the prompt's; the others are canvases of the same answer.
        line, file: where the conversation stands.
        kept: it is replayed: what the checkpoint said there is to stay.
    """

    prefix: Sequence[int]
    canvas: Sequence[int]
    prompt: int
    line: int
    file: str = ""
    kept: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Batch:
    """prefix [B, P] left-padded, valid bool [B, P] true for its tokens, canvas [B, N], kept bool [B]; the others int64."""

    prefix: Tensor
    valid: Tensor
    canvas: Tensor
    lines: tuple[int, ...]
    kept: Tensor

    @property
    def positions(self) -> int:
        """Of prefixes and canvases, pads included."""
        return self.prefix.numel() + self.canvas.numel()

    def spoken(self, pad: int) -> int:
        """Positions of a canvas up to where the longest answer ends."""
        return self.canvas.shape[1] - int((self.canvas == pad).all(0).sum())

    def encoded(self, pad: int) -> int:
        """Positions that the encoder goes through: it says no pads, so those behind all answers are left out."""
        return self.prefix.numel() + self.canvas.shape[0] * self.spoken(pad)


def read(path: Path, speak: Speak, config: ModelConfig, *, whole: bool = False) -> list[list[Row]]:
    """The rows of every conversation of a file.

    Args:
        whole: an answer is one row, however many canvases it fills: for the causal model alone.
    Raises:
        UsageError: the file cannot be read; or file, line and what is wrong there, for the first line that cannot be used.
    """
    found = list[list[Row]]()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_conversation(line, path, number, speak, config, whole=whole))
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        raise UsageError(f"{path}: cannot be read ({reason}); give a file of JSON lines with messages") from None
    if not found:
        raise UsageError(f"{path}: holds no conversations; give a file of JSON lines with messages")
    return found


def _conversation(line: str, path: Path, number: int, speak: Speak, config: ModelConfig, *, whole: bool) -> list[Row]:
    where = f"{path}:{number}"
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: is not JSON ({str(error).splitlines()[0]}); write one object a line") from None
    if not isinstance(values, dict) or "messages" not in values:
        raise UsageError(f"{where}: has no messages; write an object with messages, a list of objects with role and content")
    try:
        exchanges = speak(read_messages(values["messages"]), read_tools(values.get("tools") or ()))
    except DgemmaError as error:
        raise UsageError(f"{where}: {error}") from None
    if not exchanges:
        raise UsageError(f"{where}: has no assistant message, so there is nothing to learn; add the answer")
    n = config.canvas_length
    rows = [
        row for prompt, answer in exchanges for row in canvases(prompt, answer, len(answer) if whole else n, number, path.name)
    ]
    longest = max(len(row.prefix) + (len(row.canvas) if whole else n) for row in rows)
    if longest > config.max_position_embeddings:
        raise UsageError(f"{where}: takes {longest} positions, the model has {config.max_position_embeddings}; shorten it")
    return rows


def canvases(prompt: Sequence[int], answer: Sequence[int], n: int, line: int, file: str = "") -> list[Row]:
    """One row for every canvas of n positions of an answer; those before it belong to its prefix."""
    return [
        Row(array("i", [*prompt, *answer[:start]]), array("i", answer[start : start + n]), len(prompt), line, file)
        for start in range(0, len(answer), n)
    ]


def split(conversations: Sequence[list[Row]], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows of the conversations that are held out: a share of them, at least one.

    Raises UsageError where there are fewer than two conversations.
    """
    if len(conversations) < 2:
        raise UsageError("--data has only one conversation, and one is held out; give at least two")
    order = torch.randperm(len(conversations), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(_MOST_HELD_OUT, max(1, round(share * len(conversations))))
    held = set(order[:count])
    parts: tuple[list[Row], list[Row]] = [], []
    for i, rows in enumerate(conversations):
        parts[i in held].extend(rows)
    return parts


def thinned(rows: Sequence[Row], most: int = _MOST_HELD_OUT) -> list[Row]:
    """At most so many rows, evenly spread."""
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else list(rows)


def dropped(row: Row, drop: bool) -> Row:
    """The row, or with `drop` the same with only the first id of its prompt."""
    return Row([*row.prefix[:1], *row.prefix[row.prompt :]], row.canvas, 1, row.line, row.file) if drop else row


def collate(rows: Sequence[Row], pad: int, n: int) -> Batch:
    """Rows as tensors; prefixes are filled up from the left to the longest one's length, canvases from the right to n."""
    longest = max(1, *(len(row.prefix) for row in rows))
    return Batch(
        _stacked([[*[pad] * (longest - len(row.prefix)), *row.prefix] for row in rows]),
        torch.tensor([[False] * (longest - len(row.prefix)) + [True] * len(row.prefix) for row in rows]),
        _stacked([[*row.canvas, *[pad] * (n - len(row.canvas))] for row in rows]),
        tuple(row.line for row in rows),
        torch.tensor([row.kept for row in rows]),
    )


def _stacked(lists: Iterable[list[int]]) -> Tensor:
    return torch.tensor(list(lists), dtype=torch.int64)
