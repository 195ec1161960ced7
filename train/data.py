"""Conversations in JSON lines as rows to train on: a prefix, and one canvas of the answer behind it.

Text becomes ids by a function that the caller gives; this module knows no tokenizer and no template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Row:
    """One canvas of an answer: N ids, pads behind the stop token; `line` is its conversation's in the file."""

    prefix: tuple[int, ...]
    canvas: tuple[int, ...]
    line: int


@dataclass(frozen=True)
class Batch:
    """prefix [B, P] left-padded, valid bool [B, P] true for its tokens, canvas [B, N]; all int64 but valid."""

    prefix: Tensor
    valid: Tensor
    canvas: Tensor
    lines: tuple[int, ...]


def read(path: Path, speak: Speak, config: ModelConfig) -> list[list[Row]]:
    """The rows of every conversation of a file.

    Raises:
        UsageError: the file cannot be read; or file, line and what is wrong there, for the first line that cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        raise UsageError(f"{path}: cannot be read ({reason}); give a file of JSON lines with messages") from None
    found = [
        _conversation(line, f"{path}:{number}", number, speak, config) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise UsageError(f"{path}: holds no conversations; give a file of JSON lines with messages")
    return found


def _conversation(line: str, where: str, number: int, speak: Speak, config: ModelConfig) -> list[Row]:
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
    rows = [row for prompt, answer in exchanges for row in canvases(prompt, answer, config, number)]
    longest = max(len(row.prefix) for row in rows) + config.canvas_length
    if longest > config.max_position_embeddings:
        raise UsageError(f"{where}: takes {longest} positions of the model's {config.max_position_embeddings}; shorten it")
    return rows


def canvases(prompt: Sequence[int], answer: Sequence[int], config: ModelConfig, line: int) -> list[Row]:
    """One row for every canvas of an answer; those before it belong to its prefix."""
    n, rows = config.canvas_length, list[Row]()
    for start in range(0, len(answer), n):
        canvas = answer[start : start + n]
        pads = (config.pad_token_id,) * (n - len(canvas))
        rows.append(Row((*prompt, *answer[:start]), (*canvas, *pads), line))
    return rows


def split(conversations: Sequence[list[Row]], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows of the conversations that are held out: a share of them, at least one.

    Raises UsageError where there are fewer than two conversations.
    """
    if len(conversations) < 2:
        raise UsageError("--data holds one conversation, and one is held out to measure; give at least two")
    order = torch.randperm(len(conversations), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(_MOST_HELD_OUT, max(1, round(share * len(conversations))))
    held = set(order[:count])
    parts: tuple[list[Row], list[Row]] = [], []
    for i, rows in enumerate(conversations):
        parts[i in held].extend(rows)
    return parts


class Order:
    """Rows in an endless order, every row once before any comes again; what stands at a place depends on the seed alone."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._epoch, self._order = -1, list[int]()

    def take(self, start: int, count: int) -> list[Row]:
        """Places start … start+count−1 of the order."""
        return [self._at(place) for place in range(start, start + count)]

    def _at(self, place: int) -> Row:
        epoch, index = divmod(place, len(self._rows))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self._seed + 1) * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._rows), generator=generator).tolist()
        return self._rows[self._order[index]]


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Rows as tensors; prefixes are filled up from the left to the longest one's length."""
    longest = max(1, *(len(row.prefix) for row in rows))
    return Batch(
        torch.tensor([[pad] * (longest - len(row.prefix)) + list(row.prefix) for row in rows]),
        torch.tensor([[False] * (longest - len(row.prefix)) + [True] * len(row.prefix) for row in rows]),
        torch.tensor([row.canvas for row in rows]),
        tuple(row.line for row in rows),
    )
