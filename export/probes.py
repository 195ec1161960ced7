"""Inputs for testing a chat template: marks in place of contents, texts that show how contents are changed, conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from dgemma.core.errors import CheckpointError
from dgemma.core.messages import OPENING_ROLES
from dgemma.core.roles import TRIMS, Channel, Roles

MARK = "90817263540"  # digits: no filter changes them
# Each shows some change of the text: of white space at an end, of case, of line ends, of escapes, of a cut.
_WHITE = "".join(chr(c) for c in range(0x3001) if chr(c).isspace())
_TEXTS = (
    f"{_WHITE}x{_WHITE}", "hello wOrld", "HELLO", "<b>&'\"\\", "a\r\nb\n\n\nc\t d  e", "</think>x", "{{ x }}", "ß ŉ é e\u0301",
    "\u200bx\u200b", "x\n", "\nx", " x", "x ", " \n", "a" * 3000,
)  # fmt: skip
_OBJECT = {
    "type": "object",
    "description": "where",
    "required": ["city"],
    "properties": {"city": {"type": "string"}, "Area": {"type": "object", "properties": {"km": {"type": "number"}}}},
}
# A tool without parameters, and one with all that a declaration writes out.
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "now", "description": "The time."}},
    {"type": "function", "function": {
        "name": "weather", "description": "The weather: \"x\" {y}, [z].",
        "parameters": {"type": "object", "required": ["place", "days"], "properties": {
            "place": _OBJECT,
            "days": {"type": "integer", "description": "how many", "nullable": True},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "kind": {"type": "string", "description": "which", "enum": ["a"]},
            "when": {"type": "array", "items": {"type": "string", "description": "a day", "minLength": 1}, "description": "d"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
            "any": {"description": "no type"}, "loose": {"type": "object", "extra": {"type": "string"}},
        }},
    }},
    {"type": "function", "function": {
        "name": "note", "description": "", "parameters": {"type": "object", "properties": {}},
        "response": {"type": "object", "description": "an answer"},
    }},
)  # fmt: skip
_ARGUMENTS: dict[str, Any] = {
    "place": {"city": "Köln", "Area": {"km": 1.5}},
    "days": 3,
    "b": True,
    "A": False,
    "none": None,
    "list": ["a", 2, [], {}],
    "text": "a,b}:{[c] \"q\" 'r'\n",
}
Conversation = tuple[tuple[dict[str, Any], ...], bool, tuple[dict[str, Any], ...]]  # messages, thinking, tools


def mark(number: int) -> str:
    return f"{MARK}{number}{MARK}"


def trim(path: Path, *turns: tuple[Callable[[str], str], str, str]) -> str:
    """Which end of a text the template trims, in every turn alike; raises CheckpointError where it changes it otherwise.

    A turn is what renders a conversation with a text in it, and what that gives before and after the text.
    """
    left = dict(TRIMS)
    for probe in _TEXTS:
        for show, before, after in turns:
            shown = show(probe)
            left = {name: trim for name, trim in left.items() if before + trim(probe) + after == shown}
            if not left:
                given, text = probe[:40], shown.removeprefix(before).removesuffix(after)[:40]
                raise CheckpointError(
                    f"{path}: changes the user's text in a way that a bundle cannot carry (it gives {text!r} for {given!r})"
                )
    return next(iter(left))


def battery(roles: Roles, *, think: bool, tools: bool) -> Iterator[Conversation]:
    """Conversations of the roles that the pieces have, with thinking and tools where these are asked for."""
    heads: list[tuple[str, ...]] = [(), *((role,) for role in OPENING_ROLES if role in roles.openings)]
    talks = [*_ORDERS, *((*order, role, "user") for order in _ORDERS[:2] for role in OPENING_ROLES if role in roles.turns)]
    switches = (False, True)[: 1 + think]
    for head, follow, thinking in product(heads[:2], _called() if tools else (), switches):
        yield (*_filled((*head, "user"), None), *follow), thinking, TOOLS[:2]
    for head, talk, thinking in product(heads, talks, switches):
        yield _filled((*head, *talk), roles.channel), thinking, TOOLS if tools else ()


_ORDERS: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant"),
    ("user", "assistant", "user", "assistant", "user"),
    ("user", "user"),
    ("user", "assistant", "assistant", "user"),
)


def _filled(roles: Sequence[str], channel: Channel | None) -> tuple[dict[str, Any], ...]:
    """Messages whose texts need trimming; answers have thoughts, where there is a channel."""
    texts = (" \n x y\n\n z \n", "Hé, 你好 <b>", "1.\n2.")
    said = list(texts)
    if channel:
        start, end = channel.open_text, channel.close_text
        said = [f"{start}{channel.name}one\n{end}two {start}x{end} three", f"a{end}b", f"c {start}d"]
    messages: list[dict[str, Any]] = []
    for number, role in enumerate(roles):
        messages.append({"role": role, "content": (said if role == "assistant" else texts)[number % 3]})
    return tuple(messages)


def called(number: int) -> tuple[dict[str, Any], ...]:
    """A user's turn, and what may follow it once there are tools: 0, a call; 1, a call and its result; and so on."""
    return ({"role": "user", "content": "x"}, *list(_called())[number])


def _called() -> Iterator[tuple[dict[str, Any], ...]]:
    """What may follow a user's turn once there are tools."""

    def call(name: str, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": dict(arguments)}}

    def result(content: Any, number: int, **more: Any) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": f"call_{number}", "content": content, **more}

    one = {"role": "assistant", "content": "", "tool_calls": [call("weather", _ARGUMENTS, 0)]}
    two = {"role": "assistant", "content": None, "tool_calls": [call("now", {}, 1), call("weather", {"days": 1}, 2)]}
    told = {"role": "assistant", "content": " I look. ", "tool_calls": [call("now", {}, 0)], "reasoning": "why\nso"}
    thought = {"role": "assistant", "content": "So.", "reasoning": "why"}
    text, held = result("12 o'clock", 0), result({"b": "x", "A": [1, 2.5], "c": {"d": False}}, 0)
    done, more = {"role": "assistant", "content": " It rains. "}, {"role": "user", "content": "And now?"}
    yield (one,)
    yield (one, text)
    yield (one, held)
    yield (one, text, done, more)
    yield (two, result("a", 1), result("b", 2))
    yield (two, result("a", 2), result("b", 1), done)
    yield (one, result("x", 9, name="named"))
    yield (one, result("x", 9))
    yield (one, text, two, result("a", 1), result("b", 2), done, more)
    yield (told,)
    yield (told, text)
    yield (told, text, done, more, told, text)
    yield (one, more)
    yield (thought,)
    yield (thought, more)
    yield (one, text, thought)
    yield (one, text, done, done, more)
    yield (one, text, more)
    yield (told, text, more)
