"""How values are written as regular expressions: as JSON, or as the arguments of a call in Gemma's form.

It knows values, and nothing of schemas or automata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from dgemma.core import gemma_tools
from dgemma.core.roles import ToolForm
from dgemma.core.structure import SHOWN
from dgemma.runtime.structure import json_values, markers
from dgemma.runtime.structure.json_values import literal, refused

DIGITS = 15  # of a call's numbers, before and behind the point: whoever reads it takes longer ones for text


class Form(Protocol):
    """One way to write values.

    `comma`, `colon`: what stands between values, and between a key and its value. `null`: no value. `any_key`: the expression
    of any key; None where keys have to be known. `outside`: the first bytes of characters that an expression for the inside of
    a string must not match; `inside_only`: what these are, and the cure.
    """

    comma: str
    colon: str
    null: str
    any_key: str | None
    outside: tuple[int, ...]
    inside_only: str

    def ordered(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        """Properties in the order in which they are written."""

    def key(self, name: str, path: str) -> str:
        """A known key; raises UsageError."""

    def constant(self, value: Any, path: str) -> str:
        """One value; raises UsageError."""

    def quoted(self, expression: str) -> str:
        """A string whose inside an expression matches."""

    def string(self, low: int, high: int | None) -> str:
        """A string of low to high characters."""

    def integer(self, low: int | None, high: int | None, path: str) -> str:
        """As `json_values.integer`."""

    def number(self, low: int | None, high: int | None, excludes: tuple[bool, bool], path: str) -> str:
        """As `json_values.number`."""


class Json:
    """JSON on one line."""

    comma, colon, null = ", ?", ": ?", "null"
    any_key: str | None = f'"{json_values.CHARACTER}*"'
    outside: tuple[int, ...] = (*range(0x20), ord('"'), ord("\\"))
    inside_only = (
        'may match a quote, a backslash or a control character; use classes without them, such as [^"\\\\\\x00-\\x1f] for a dot'
    )
    integer, number = staticmethod(json_values.integer), staticmethod(json_values.number)

    def ordered(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        return properties

    def key(self, name: str, path: str) -> str:
        return literal(json.dumps(name, ensure_ascii=False))

    def constant(self, value: Any, path: str) -> str:
        return literal(json.dumps(value, ensure_ascii=False))

    def quoted(self, expression: str) -> str:
        return f'"{expression}"'

    def string(self, low: int, high: int | None) -> str:
        return self.quoted(f"{json_values.CHARACTER}{json_values.times(low, high)}")


class Call:
    """What `gemma_tools` writes and reads: keys without quotes and in order, texts between markers, nothing escaped."""

    comma, colon = ",", ":"
    any_key: str | None = None  # the same key could come twice, which nobody could read
    outside: tuple[int, ...] = (markers.LEAD,)
    inside_only = "may match a character of Unicode's plane 16, which stands for a marker; leave these characters out"

    def __init__(self, form: ToolForm) -> None:
        self._open, self._close, self._quote = map(markers.character, range(len(ids_of(form))))
        self.null = form.null
        self._writer = gemma_tools.Writer(quote=0, null=form.null)

    def call(self, name: str, arguments: str) -> str:
        """A whole call, with its markers. Raises UsageError for a name that no call can have."""
        self._must_be_read(name, {}, f"the name {name[:SHOWN]!r}")
        return f"{self._open}call:{literal(name)}{arguments}{self._close}"

    def ordered(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(gemma_tools.in_order(properties))

    def key(self, name: str, path: str) -> str:
        self._must_be_read("f", {name: 1}, f"{path}/properties/{name[:SHOWN]}")
        return literal(name)

    def constant(self, value: Any, path: str) -> str:
        self._must_be_read("f", {"value": value}, f"{path}: the value {json.dumps(value)[:SHOWN]}")
        parts = self._writer.value(value, quoted_keys=False)
        return "".join(self._quote if isinstance(part, int) else literal(part) for part in parts)

    def quoted(self, expression: str) -> str:
        return f"{self._quote}{expression}{self._quote}"

    def string(self, low: int, high: int | None) -> str:
        return self.quoted(rf"[^\x00-\x08\x0b-\x1f\x7f{json_values.PLANE}]{json_values.times(low, high)}")

    def integer(self, low: int | None, high: int | None, path: str) -> str:
        most = 10**DIGITS - 1
        return json_values.integer(-most if low is None else low, most if high is None else high, path)

    def number(self, low: int | None, high: int | None, excludes: tuple[bool, bool], path: str) -> str:
        return json_values.number(low, high, excludes, path, DIGITS)

    def _must_be_read(self, name: str, arguments: Mapping[str, Any], what: str) -> None:
        """Whether a call is read as it is meant: names and keys have no quotes, so some characters would end them."""
        texts = [""]
        for part in self._writer.call(name, arguments):
            texts[-1:] = [texts[-1], ""] if isinstance(part, int) else [texts[-1] + part]
        try:
            if not any(map(markers.holds, texts)) and gemma_tools.read_call(texts) == (name, arguments):
                return
        except gemma_tools.Malformed:
            pass
        raise refused(f"{what} cannot stand in a call; use letters, digits, _ and -")


def ids_of(form: ToolForm) -> tuple[int, ...]:
    """The marker ids of a call's expression: what begins and ends it, and the quote."""
    return (*form.call, form.quote)
