"""How a chat template writes conversations: pieces as data, and the conversation that is put together of them.

It knows nothing of jinja, which export has rendered, nor of tokenizers: a prompt is marker ids with text between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from dgemma.core import gemma_tools
from dgemma.core.errors import Param, UsageError
from dgemma.core.messages import OPENING_ROLES, Message

Piece = tuple[int | str, ...]  # ids of markers, and text, which is encoded together with text beside it
# What `trim` takes away: the characters that Python's str.strip does.
WHITESPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
TRIMS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "both": lambda text: text.strip(WHITESPACE),
    "start": lambda text: text.lstrip(WHITESPACE),
    "end": lambda text: text.rstrip(WHITESPACE),
}
Flag = Literal["no", "yes"]
NO_THINKING = ("this bundle does not support thinking; leave out ", Param("think"))
NO_SYSTEM = ("this bundle does not support system turns; leave out ", Param("system"))
NO_TOOLS = ("this bundle does not support tools; leave out ", Param("tools"))
GEMMA = "gemma"  # the form of tools that `gemma_tools` writes


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What stands around the content of one role's turn, and what is trimmed of the content (a key of TRIMS)."""

    before: Piece
    after: Piece
    trim: str


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Marker ids around a thought, its name and line break, and their texts, which are taken out of earlier answers."""

    open: int
    close: int
    name: str
    open_text: str
    close_text: str

    def without_thoughts(self, text: str) -> str:
        """The text without what stands between the markers, and without the markers."""
        return "".join(part.split(self.open_text)[0] for part in text.split(self.close_text))


@dataclass(frozen=True, kw_only=True)
class ToolForm:
    """How tools are written.

    Args:
        form: gemma.
        declaration: marker ids around a declaration of a tool.
        call: marker ids around a call.
        response: marker ids around a result.
        quote: marker id around texts in them.
        null: how no value is written.
        reopens: an answer behind results opens a turn again.
        closes: calls with results and without text are closed where a turn of another role follows.
    """

    form: str
    declaration: tuple[int, int]
    call: tuple[int, int]
    response: tuple[int, int]
    quote: int
    null: str
    reopens: Flag
    closes: Flag


@dataclass(frozen=True, kw_only=True)
class Roles:
    """A template's turns of every role, its switch for thinking and its form of tools, as far as it has them.

    Args:
        openings: what comes before the first turn, by what a conversation begins with: parts of the key, joined by "+", are
            system or developer, think, and tools. Pieces stand around the content of the system turn and the declarations.
        opening_trim: what is trimmed of that content (a key of TRIMS).
        turns: by role: user, assistant, and system and developer where these may come later.
        answer: what opens the model's answer; `think` with thinking, `tool` and `tool+think` behind results.
        joins: how an answer that follows an answer goes on in its turn: no; before, without the text before its content; both,
            without the text after the former's content, too.
        drops_thoughts: thoughts in the text of answers are left out.
        keeps_thinking: of which answers behind the last user's turn the `thinking` is written: none, calls or all.
    """

    openings: dict[str, tuple[Piece, ...]]
    opening_trim: str
    turns: dict[str, Turn]
    answer: dict[str, Piece]
    joins: Literal["no", "before", "both"]
    drops_thoughts: Flag = "no"
    keeps_thinking: Literal["none", "calls", "all"] = "none"
    channel: Channel | None = None
    tools: ToolForm | None = None

    def thought(self, text: str) -> Piece:
        """A finished thought, empty where there is no channel."""
        return (self.channel.open, self.channel.name + text + "\n", self.channel.close) if self.channel else ()

    @property
    def thinks(self) -> bool:
        """Whether there is a switch for thinking."""
        return "think" in self.openings and "think" in self.answer

    def marker_ids(self) -> set[int]:
        """Every marker id in the pieces."""
        pieces = [piece for opening in self.openings.values() for piece in opening]
        pieces += [piece for turn in self.turns.values() for piece in (turn.before, turn.after)]
        ids = {i for piece in (*pieces, *self.answer.values()) for i in piece if isinstance(i, int)}
        if self.channel:
            ids |= {self.channel.open, self.channel.close}
        if self.tools:
            ids |= {*self.tools.declaration, *self.tools.call, *self.tools.response, self.tools.quote}
        return ids


def compose(
    roles: Roles,
    messages: Sequence[Message],
    *,
    think: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    first: int = 1,
) -> Iterator[int | str]:
    """The conversation up to where the model answers: marker ids, and text between them. `first` is the first message's number
    in errors, 0 for a system turn that an option gives. Raises UsageError for what the template cannot write."""
    head = messages[0] if messages and messages[0].role in OPENING_ROLES else None
    _check_opening(roles, head, think=think, tools=bool(tools), by_option=first == 0)
    yield from _opening(roles, head, think, tools)
    rest = messages[head is not None :]
    last_user = max((i for i, message in enumerate(rest) if message.role == "user"), default=-1)
    spoken: Message | None = None  # the last message that is no tool's
    results = False  # whether its calls have results
    for i, message in enumerate(rest):
        if message.role == "tool":
            continue
        if (turn := roles.turns.get(message.role)) is None:
            number = first + (head is not None) + i
            raise UsageError(f"message {number}: this bundle has no {message.role} turn here; use {', '.join(roles.turns)}")
        follows_answer = spoken is not None and message.role == spoken.role == "assistant"
        if not follows_answer or (roles.tools.reopens == "yes" if results and roles.tools else roles.joins == "no"):
            yield from turn.before
        if message.thinking and i > last_user and roles.keeps_thinking in ("all", "calls" if message.tool_calls else "all"):
            yield from roles.thought(message.thinking)
        following = rest[i + 1 :]
        behind = next((other.role for other in following if other.role != "tool"), None)
        results = bool(message.tool_calls) and bool(following) and following[0].role == "tool"
        if message.tool_calls:
            yield from _calls(roles, message, following)
        text = message.content if isinstance(message.content, str) else ""
        if message.role == "assistant" and roles.drops_thoughts == "yes" and roles.channel:
            text = roles.channel.without_thoughts(text)
        yield (text := TRIMS[turn.trim](text))
        if message.tool_calls and not results:
            yield from (roles.tools.response[:1] if roles.tools else ())
        elif message.role == behind == "assistant" and roles.joins == "both":
            pass
        elif not (results and not text and (behind is None or not (roles.tools and roles.tools.closes == "yes"))):
            yield from turn.after
        spoken = message
    if not (spoken and spoken.tool_calls):
        yield from roles.answer["think" if think else ""]
    elif results:
        yield from roles.answer.get("tool+think" if think else "tool", ())


def _key(head: Message | None, think: bool, tools: bool) -> str:
    return "+".join([*([head.role] if head else []), *(["think"] if think else []), *(["tools"] if tools else [])])


def _check_opening(roles: Roles, head: Message | None, *, think: bool, tools: bool, by_option: bool) -> None:
    """Whether a conversation can begin so; raises UsageError."""
    if tools and roles.tools is None:
        raise UsageError(*NO_TOOLS)
    if think and not roles.thinks:
        raise UsageError(*NO_THINKING)
    if head and head.role not in roles.openings:
        no_turn = f"message 1: this bundle has no {head.role} turn; leave it out"
        raise UsageError(*NO_SYSTEM) if by_option else UsageError(no_turn)
    if (key := _key(head, think, tools)) not in roles.openings:
        raise UsageError(f"this bundle has no {key.replace('+', ' with ')}; leave one of them out")


def _opening(roles: Roles, head: Message | None, think: bool, tools: Sequence[Mapping[str, Any]]) -> Iterator[int | str]:
    first, *others = roles.openings[_key(head, think, bool(tools))]
    yield from first
    if head:
        yield TRIMS[roles.opening_trim](str(head.content))
        yield from others.pop(0)
    if tools and roles.tools:
        for tool in tools:
            yield roles.tools.declaration[0]
            yield from gemma_tools.Writer(quote=roles.tools.quote, null=roles.tools.null).declaration(tool)
            yield roles.tools.declaration[1]
        yield from others.pop(0)


def _calls(roles: Roles, message: Message, following: Sequence[Message]) -> Iterator[int | str]:
    """Calls, and the results that follow them, as Gemma's template orders them."""
    if (tools := roles.tools) is None:
        raise UsageError("this bundle does not support tools; leave tool_calls out")
    writer = gemma_tools.Writer(quote=tools.quote, null=tools.null)
    for call in message.tool_calls:
        yield tools.call[0]
        yield from writer.call(call.name, call.arguments)
        yield tools.call[1]
    for result in takewhile(lambda other: other.role == "tool", following):
        names = [call.name for call in message.tool_calls if call.id == result.tool_call_id]
        yield tools.response[0]
        yield from writer.response(names[-1] if names else result.name or "unknown", result.content)
        yield tools.response[1]
