"""A compiled structure: the automaton of a language over bytes, as a file, and what it was compiled from. S states, R ranges.

docs/reference/structure.md describes the format. It knows bytes and states, and nothing of expressions, tokenizers or bundles.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dgemma.core.scalars import is_int

Array = npt.NDArray[Any]
FORMAT, BEGINS = 1, b'{"dgemma_structure"'
MOST_STATES = 20_000
LARGEST, LONGEST_HEAD = 32 << 20, 4 << 20  # bytes of a file, and of its first line
KINDS: Mapping[str, Mapping[str, type]] = {  # kind → what its head has besides, and JSON types of that
    "regex": {},
    "json_schema": {},
    "grammar": {"grammar_depth": int},
    "choices": {"choices": list},
    "call": {"form": str, "null": str, "tools": list},
}
TEXT = 0xF5  # bytes of text are below; those from here on are markers of a call
MARKERS = 3
_COMMON: Mapping[str, type] = {"dgemma_structure": int, "kind": str, "source": str, "states": int}
_RANGE = np.dtype([("first", "u1"), ("last", "u1"), ("target", "<u2")])
_SHA = 32


class NotAStructure(ValueError):
    """Why bytes are not a compiled structure, and the cure."""


@dataclass(frozen=True, kw_only=True)
class CompiledStructure:
    """One language. Equal ones have the same bytes.

    Args:
        data: the file.
        head: its first line: `kind`, `source`, `states`, and what `KINDS` lists for the kind.
        table: [S + 1, 256] int32, the next state for a byte; S where there is none, also from S. State 0 begins.
        accepting: [S + 1] bool.
    """

    data: bytes = field(repr=False)
    head: Mapping[str, Any] = field(compare=False)
    table: Array = field(compare=False, repr=False)
    accepting: Array = field(compare=False, repr=False)

    @property
    def kind(self) -> str:
        """A key of `KINDS`."""
        return str(self.head["kind"])

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that are possible; empty for other kinds."""
        return tuple(self.head.get("choices", ()))

    @property
    def is_call(self) -> bool:
        """Whether an answer is a call of a tool."""
        return self.kind == "call"

    def __str__(self) -> str:
        head = self.head
        more = {
            "grammar": lambda: f", depth {head['grammar_depth']}",
            "choices": lambda: f" ({len(self.choices)})",
            "call": lambda: f" of {' or '.join(head['tools'])}",
        }
        states = "1 state" if head["states"] == 1 else f"{head['states']:,} states"
        return f"{self.kind}{more.get(self.kind, str)()}, {states}, {len(self.data):,} bytes, source {head['source'][:12]}"


def encode(head: Mapping[str, Any], table: Array, accepting: Array, start: int) -> CompiledStructure:
    """Of an automaton [S + 1, 256] all of whose states are used, S dead. The same language and head give the same bytes.

    Args:
        head: `kind`, `source`, and what `KINDS` lists for the kind.
    Raises:
        NotAStructure: too large.
    """
    order = _walk(table, start)
    number = np.full(len(table), len(order), np.int32)
    number[order] = np.arange(len(order))
    rows = number[table[order]]  # [S, 256]
    begins = np.ones(rows.shape, np.bool_)
    begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
    state, first = np.nonzero(begins)
    last = np.append(first[1:], 0) - 1
    last[last < 0] = 255  # the last range of each state
    target = rows[state, first]
    kept = target != len(order)
    ranges = np.zeros(int(kept.sum()), _RANGE)
    ranges["first"], ranges["last"], ranges["target"] = first[kept], last[kept], target[kept]
    counts = 2 * np.bincount(state[kept], minlength=len(order)) + accepting[order]
    common = {"dgemma_structure": FORMAT, "kind": head["kind"], "source": head["source"], "states": len(order)}
    whole = common | {name: head[name] for name in KINDS[head["kind"]]}
    line = json.dumps(whole, ensure_ascii=False).encode() + b"\n"
    body = line + counts.astype("<u2").tobytes() + ranges.tobytes()
    data = body + hashlib.sha256(body).digest()
    if len(data) > LARGEST or len(line) > LONGEST_HEAD:
        raise NotAStructure(
            f"has more than {LARGEST >> 20} MB, or a head of more than {LONGEST_HEAD >> 20} MB; make it smaller"
        )
    return decode(data)


def decode(data: bytes) -> CompiledStructure:
    """Of the bytes of a file, all of which are checked. Raises NotAStructure."""
    if len(data) > LARGEST:
        raise NotAStructure(f"has more than {LARGEST >> 20} MB, so it is no compiled structure; name another file")
    end = data.find(b"\n", 0, LONGEST_HEAD)
    head = _head(data[: max(end, 0)])
    if hashlib.sha256(data[:-_SHA]).digest() != data[-_SHA:]:
        _damaged("its checksum is wrong")
    _check(head)
    states, body = int(head["states"]), data[end + 1 : -_SHA]
    if len(body) < 2 * states:
        _damaged("its length is wrong")
    counts, ranges = np.frombuffer(body[: 2 * states], "<u2").astype(np.int64), body[2 * states :]
    if len(ranges) != _RANGE.itemsize * int((counts // 2).sum()):
        _damaged("its length is wrong")
    source = np.repeat(np.arange(states), counts // 2)
    table = _table(states, source, found := np.frombuffer(ranges, _RANGE), TEXT + (MARKERS if head["kind"] == "call" else 0))
    accepting = np.append(counts % 2 == 1, False)
    _check_use(table, accepting, source, found["target"])
    return CompiledStructure(data=data, head=head, table=table, accepting=accepting)


def _damaged(why: str) -> NoReturn:
    raise NotAStructure(f"is damaged: {why}; compile it again")


def _head(line: bytes) -> dict[str, Any]:
    """The first line's object, of this version."""
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or "dgemma_structure" not in head:
        raise NotAStructure("is not a compiled structure; `dgemma structure` writes one")
    if head["dgemma_structure"] != FORMAT or isinstance(head["dgemma_structure"], bool):
        has = str(head["dgemma_structure"])[:20]
        raise NotAStructure(f"has format {has}, and this version reads {FORMAT}; compile it again with this version")
    return head


def _check(head: Mapping[str, Any]) -> None:
    """The head's keys and values."""
    kind = head.get("kind")
    more = KINDS.get(kind) if isinstance(kind, str) else None
    if more is None:
        _damaged(f"its kind is none of {', '.join(KINDS)}")
    if head.keys() != _COMMON.keys() | more.keys():
        _damaged(f"its head must have {', '.join((*_COMMON, *more))}")
    for name, form in (*_COMMON.items(), *more.items()):
        value = head[name]
        if not isinstance(value, form) or isinstance(value, bool):
            _damaged(f"{name} is no {form.__name__}")
        if isinstance(value, list) and not (value and all(isinstance(one, str) and one for one in value)):
            _damaged(f"{name} must be texts")
    if not is_int(head["states"], 1, MOST_STATES):
        _damaged(f"it must have 1 to {MOST_STATES} states")
    if not re.fullmatch("[0-9a-f]{64}", head["source"]):
        _damaged("its source is no SHA-256")


def _table(states: int, source: Array, ranges: Array, above: int) -> Array:
    """[S + 1, 256] of ranges of bytes below `above`, each with its source."""
    first, last, target = (ranges[name].astype(np.int64) for name in ("first", "last", "target"))
    if len(ranges) and (target.max() >= states or last.max() >= above):
        _damaged(f"a transition is outside its {states} states or {above} bytes")
    begins = source * 256 + first
    if (first > last).any() or (begins[1:] <= (source * 256 + last)[:-1]).any():
        _damaged("its transitions are out of order")
    table = np.full((states + 1) * 256, states, np.int32)
    lengths = last - first + 1
    ends = np.cumsum(lengths)
    table[np.repeat(begins - ends + lengths, lengths) + np.arange(lengths.sum())] = np.repeat(target, lengths)
    return table.reshape(-1, 256)


def _check_use(table: Array, accepting: Array, source: Array, target: Array) -> None:
    """Whether every state is on the way from the first to an accepting one; source and target [R]."""
    states = len(table) - 1
    if len(_walk(table, 0)) < states:
        _damaged("a state cannot be reached")
    order = np.argsort(target, kind="stable")
    into = np.searchsorted(target[order], np.arange(states + 1))
    useful, waiting = accepting.copy(), np.flatnonzero(accepting).tolist()
    while waiting:
        at = waiting.pop()
        before = source[order[into[at] : into[at + 1]]]
        found = np.unique(before[~useful[before]])
        useful[found] = True
        waiting += found.tolist()
    if not useful[:states].all():
        _damaged("no accepting state can be reached from a state")


def _walk(table: Array, start: int) -> list[int]:
    """States in the order in which a walk by rising bytes comes to them, breadth first."""
    dead, order = len(table) - 1, [start]
    seen = np.zeros(len(table), np.bool_)
    seen[[start, dead]] = True
    for state in order:
        row = table[state]
        new = row[~seen[row]]
        if len(new):
            order += (fresh := list(dict.fromkeys(new.tolist())))
            seen[fresh] = True
    return order
