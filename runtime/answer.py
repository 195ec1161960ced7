"""An answer's ids read as text, thoughts and tool calls, by the markers of the chat template.

It reads all ids of an answer at once, so where a canvas ends makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dgemma.core import gemma_tools
from dgemma.core.messages import ToolCall
from dgemma.core.roles import Roles
from dgemma.runtime.tokenizer import Tokenizer

Kind = Literal["text", "thought", "call"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Ids of one kind that stand together; a thought or a call is closed once its end marker was given."""

    kind: Kind
    ids: tuple[int, ...]
    closed: bool = True


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an answer says: its text, its thoughts, its calls, and what is wrong with it, one line each."""

    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    warnings: tuple[str, ...] = ()
    thinks: bool = False  # it ends inside a thought


class AnswerReader:
    """Reads answers of one bundle. Without channel and tools, everything is text."""

    def __init__(self, tokenizer: Tokenizer, roles: Roles | None) -> None:
        self._tokenizer = tokenizer
        self._channel = roles.channel if roles else None
        self._tools = roles.tools if roles else None

    @property
    def has_markers(self) -> bool:
        """Whether there may be anything but text."""
        return self._channel is not None or self._tools is not None

    def opens_inside(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thought, which the answer then goes on with."""
        if self._channel is None:
            return False
        last = next((i for i in reversed(prompt) if i in (self._channel.open, self._channel.close)), None)
        return last == self._channel.open

    def spans(self, ids: Sequence[int], inside: bool = False) -> Iterator[Span]:
        """The answer cut at its markers, which no span holds. A thought ends at its marker, or where a call begins."""
        kind: Kind = "thought" if inside else "text"
        held: list[int] = []
        for token in ids:
            becomes = self._next(kind, int(token))
            if becomes is None:
                held.append(int(token))
                continue
            if held or kind != "text":
                yield Span(kind=kind, ids=tuple(held))
            kind, held = becomes, []
        if held or kind != "text":
            yield Span(kind=kind, ids=tuple(held), closed=kind == "text")

    def kinds(self, ids: Sequence[int], *, inside: bool = False) -> list[Kind]:
        """Of every id, markers counting to what they begin or end."""
        kind: Kind = "thought" if inside else "text"
        found: list[Kind] = []
        for token in ids:
            becomes = self._next(kind, int(token))
            found.append(kind if becomes in (None, "text") else becomes)
            kind = becomes or kind
        return found

    def _next(self, kind: Kind, token: int) -> Kind | None:
        """What follows a marker that counts where it stands; None for a token that is content."""
        start, end = (self._channel.open, self._channel.close) if self._channel else (-1, -1)
        call, called = self._tools.call if self._tools else (-1, -1)
        if kind == "call":
            return "text" if token == called else None
        if token == call:
            return "call"
        if kind == "thought":
            return "text" if token == end else None
        return "thought" if token == start else "text" if token in (end, called) else None

    def read(self, ids: Sequence[int], *, inside: bool = False) -> Answer:
        """The answer of ids up to, without, the stop token. Raises TokenizerError."""
        return self._read(ids, inside, ended=True)

    def so_far(self, ids: Sequence[int], *, inside: bool = False) -> Answer:
        """As `read`, of an answer that may go on: a call that has no end yet is left out."""
        return self._read(ids, inside, ended=False)

    def untrimmed(self, ids: Sequence[int], *, inside: bool = False) -> str:
        """The text of `so_far`, with white space at its ends."""
        return self._read(ids, inside, ended=False, trims=False).text

    def _read(self, ids: Sequence[int], inside: bool, *, ended: bool, trims: bool = True) -> Answer:
        spans = list(self.spans(ids, inside))
        if [span.kind for span in spans] in ([], ["text"]):
            return Answer(text=self._tokenizer.decode(ids))
        said: list[int | str] = []  # ids, and what malformed calls say
        thoughts, calls, warnings = list[str](), list[ToolCall](), list[str]()
        for span in spans:
            if span.kind == "text":
                said += span.ids
            elif span.kind == "thought":
                thoughts.append(self._thought(span.ids))
            elif span.closed or ended:
                texts = self._quoted(span.ids)
                try:
                    calls.append(_call(texts, span.closed, len(calls)))
                except gemma_tools.Malformed as error:
                    said.append('"'.join(texts))
                    warnings.append(f"a tool call cannot be read ({error}) and is left in the text")
        text = self._joined(said)
        return Answer(
            text=text.strip() if trims else text,
            thinking="\n".join(filter(None, thoughts)),
            tool_calls=tuple(calls),
            warnings=tuple(warnings),
            thinks=not spans[-1].closed and spans[-1].kind == "thought",
        )

    def _joined(self, said: Sequence[int | str]) -> str:
        texts, held = list[str](), list[int]()
        for part in (*said, ""):
            if isinstance(part, int):
                held.append(part)
                continue
            texts += [self._tokenizer.decode(held), part]
            held = []
        return "".join(texts)

    def _thought(self, ids: Sequence[int]) -> str:
        text, name = self._tokenizer.decode(ids), self._channel.name if self._channel else ""
        return "" if text == name.strip() else text.removeprefix(name).strip()

    def _quoted(self, ids: Sequence[int]) -> list[str]:
        """Texts between the quotes of a call, outside and inside in turns."""
        parts: list[list[int]] = [[]]
        for token in ids:
            if self._tools and token == self._tools.quote:
                parts.append([])
            else:
                parts[-1].append(token)
        return [self._tokenizer.decode(part) for part in parts]


def _call(texts: Sequence[str], closed: bool, number: int) -> ToolCall:
    if not closed:
        raise gemma_tools.Malformed("it has no end")
    name, arguments = gemma_tools.read_call(texts)
    return ToolCall(name=name, arguments=arguments, id=f"call_{number}")


def why_empty(answer: Answer, stop_reason: str, tokens: int, pads: int = 0, stopped_by: str | None = None) -> str | None:
    """Why an answer is empty, in one line; None where it says something or was cancelled.

    Args:
        tokens, pads: of the answer, and how many of them are padding at its end.
        stopped_by: the stop string that it ended before.
    """
    if answer.text or answer.tool_calls or stop_reason == "cancelled":
        return None
    if not (answer.thinking or answer.thinks):
        if stopped_by is not None:
            return f"the answer is empty: it begins with the stop string {stopped_by!r}"
        if tokens > pads:  # tokens without text, or a bundle without a tokenizer
            return None
        return f"the answer is empty: the model {'gave only padding' if pads else 'ended it at once'}"
    if answer.thinks and stop_reason in ("length", "context"):
        limit = f"all {tokens} tokens" if stop_reason == "length" else "what was left of the context"
        return f"the thought took {limit}, so there is no answer; allow more tokens, or leave thinking off"
    if answer.thinks:
        return "the model ended inside its thought, so there is no answer; ask again, or leave thinking off"
    return "the model thought and then gave no answer; ask again, or leave thinking off"
