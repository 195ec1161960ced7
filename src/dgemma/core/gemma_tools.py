"""Tools as Gemma's chat template writes them, and its calls read back: `call:NAME{key:value,…}` with a marker as quote.

Written from what the template renders, which export holds it to for each checkpoint. Texts are between quote ids, so that
no text can end early; a value is a list of quote ids and text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Parts = Iterator[int | str]
_STANDARD = ("description", "type", "properties", "required", "nullable")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?")
_LONGEST_NUMBER = 40
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "None": None}
_NAME = re.compile(r"call:([^\s{}]+)\{")
_MOST_DEPTH = 50


class Malformed(ValueError):
    """A call that is not of the form."""


def in_order(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """As jinja's dictsort: by key, without regard to case."""
    return sorted(values.items(), key=lambda item: item[0].lower())


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes tools with a quote's marker id and a word for no value."""

    quote: int
    null: str

    def declaration(self, tool: Mapping[str, Any]) -> Parts:
        """One function, as `{"function": {"name", "description", "parameters"}}` declares it."""
        function = tool["function"]
        yield f"declaration:{function['name']}{{description:"
        yield from (self.quote, function.get("description", ""), self.quote)
        if parameters := function.get("parameters"):
            yield ",parameters:{"
            if parameters.get("properties"):
                yield "properties:{"
                yield from self._properties(parameters["properties"])
                yield "},"
            if parameters.get("required"):
                yield from self._required(parameters["required"])
                yield ","
            if parameters.get("type"):
                yield from ("type:", self.quote, _upper(parameters["type"]), self.quote, "}")
        if "response" in function:
            response = function["response"] or {}
            yield ",response:{"
            if response.get("description"):
                yield from ("description:", self.quote, response["description"], self.quote, ",")
            if str(response.get("type", "")).upper() == "OBJECT":
                yield from ("type:", self.quote, "OBJECT", self.quote, "}")
        yield "}"

    def call(self, name: str, arguments: Mapping[str, Any]) -> Parts:
        """A call, as the model writes it."""
        yield f"call:{name}{{"
        yield from self._entries(arguments, quoted_keys=False)
        yield "}"

    def response(self, name: str, result: str | Mapping[str, Any]) -> Parts:
        """A tool's result: an object, or a text, which becomes its `value`."""
        yield f"response:{name}{{"
        yield from self._entries(result if isinstance(result, Mapping) else {"value": result}, quoted_keys=False)
        yield "}"

    def _entries(self, values: Mapping[str, Any], *, quoted_keys: bool) -> Parts:
        for number, (key, value) in enumerate(in_order(values)):
            if number:
                yield ","
            yield from (self.quote, key, self.quote) if quoted_keys else (key,)
            yield ":"
            yield from self.value(value, quoted_keys=quoted_keys)

    def value(self, value: Any, *, quoted_keys: bool = True) -> Parts:
        """Any JSON value."""
        if isinstance(value, str):
            yield from (self.quote, value, self.quote)
        elif isinstance(value, bool):
            yield "true" if value else "false"
        elif isinstance(value, Mapping):
            yield "{"
            yield from self._entries(value, quoted_keys=quoted_keys)
            yield "}"
        elif isinstance(value, Sequence):
            yield "["
            for number, item in enumerate(value):
                if number:
                    yield ","
                yield from self.value(item, quoted_keys=quoted_keys)
            yield "]"
        else:
            yield self.null if value is None else str(value)

    def _required(self, names: Iterable[str]) -> Parts:
        yield "required:"
        yield from self.value([str(name) for name in names])

    def _properties(self, properties: Mapping[str, Any]) -> Parts:
        for number, (key, value) in enumerate(in_order(properties)):
            yield f",{key}:{{" if number else f"{key}:{{"
            yield from self._property(value if isinstance(value, Mapping) else {}, is_object=isinstance(value, Mapping))

    def _property(self, schema: Mapping[str, Any], *, is_object: bool) -> Parts:
        kind = _upper(schema.get("type", ""))
        said: list[list[int | str]] = []
        if schema.get("description"):
            said.append(["description:", self.quote, str(schema["description"]), self.quote])
        if kind == "STRING" and schema.get("enum"):
            said.append(["enum:", *self.value(schema["enum"])])
        if kind == "ARRAY" and isinstance(schema.get("items"), Mapping) and schema["items"]:
            said.append(["items:{", *self._items(schema["items"]), "}"])
        if schema.get("nullable"):
            said.append(["nullable:true"])
        if kind == "OBJECT" and is_object:
            inner = schema.get("properties")
            own = {key: value for key, value in schema.items() if key not in _STANDARD}
            said.append(["properties:{", *self._properties(inner if isinstance(inner, Mapping) else own), "}"])
            if schema.get("required"):
                said.append([*self._required(schema["required"])])
        said.append(["type:", self.quote, kind, self.quote])
        for number, parts in enumerate(said):
            if number:
                yield ","
            yield from parts
        yield "}"

    def _items(self, items: Mapping[str, Any]) -> Parts:
        for number, (key, value) in enumerate(in_order({k: v for k, v in items.items() if v is not None})):
            if number:
                yield ","
            if key == "properties":
                yield "properties:{"
                yield from self._properties(value) if isinstance(value, Mapping) else ()
                yield "}"
            elif key == "required":
                yield from self._required(value)
            elif key == "type":
                yield "type:"
                yield from self.value(value.upper() if isinstance(value, str) else [one.upper() for one in value])
            else:
                yield f"{key}:"
                yield from self.value(value)


def _upper(kind: object) -> str:
    """As jinja's upper, which makes a text of anything: of several types, a list as Python writes it."""
    return str(kind).upper()


def read_call(texts: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call, given as the texts between its quotes, outside and inside in turns. Raises Malformed."""
    if len(texts) % 2 == 0:
        raise Malformed("a quote is not closed")
    head = _NAME.match(texts[0].lstrip())
    if head is None:
        raise Malformed("it does not begin with call:NAME{")
    items: list[str | tuple[str]] = [*texts[0].lstrip()[head.end() :]]  # characters, and texts as tuples of one
    for inside, outside in zip(texts[1::2], texts[2::2], strict=True):
        items += [(inside,), *outside]
    reader = _Reader(items)
    arguments = reader.entries(0)
    if "".join("x" if isinstance(item, tuple) else item for item in items[reader.at :]).strip():
        raise Malformed("there is text after the closing brace")
    return head[1], arguments


class _Reader:
    def __init__(self, items: list[str | tuple[str]]) -> None:
        self._items, self.at = items, 0

    def entries(self, depth: int) -> dict[str, Any]:
        """What stands after an opening brace, through the closing one."""
        found: dict[str, Any] = {}
        if self._skip("}"):
            return found
        while True:
            key = self._quoted() or self._until(":")
            if not key or not self._skip(":"):
                raise Malformed("a key has no value")
            if key in found:
                raise Malformed(f"{key!r} is given twice")
            found[key] = self._value(depth + 1)
            if self._skip("}"):
                return found
            if not self._skip(","):
                raise Malformed("no comma or brace after a value")

    def _value(self, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise Malformed("its values are nested too deeply")
        if (text := self._quoted()) is not None:
            return text
        if self._skip("{"):
            return self.entries(depth)
        if self._skip("["):
            found: list[Any] = []
            if self._skip("]"):
                return found
            while True:
                found.append(self._value(depth + 1))
                if self._skip("]"):
                    return found
                if not self._skip(","):
                    raise Malformed("no comma or bracket after a value")
        word = self._until(",}]")
        if not word:
            raise Malformed("a key has no value")
        if word in _WORDS:
            return _WORDS[word]
        return json.loads(word) if len(word) <= _LONGEST_NUMBER and _NUMBER.fullmatch(word) else word

    def _peek(self) -> str | tuple[str] | None:
        while self.at < len(self._items) and isinstance(item := self._items[self.at], str) and item.isspace():
            self.at += 1
        return self._items[self.at] if self.at < len(self._items) else None

    def _skip(self, character: str) -> bool:
        found = self._peek() == character
        self.at += found
        return found

    def _quoted(self) -> str | None:
        if not isinstance(item := self._peek(), tuple):
            return None
        self.at += 1
        return item[0]

    def _until(self, ends: str) -> str:
        start = self.at
        while self.at < len(self._items) and isinstance(item := self._items[self.at], str) and item not in ends:
            self.at += 1
        return "".join(str(item) for item in self._items[start : self.at]).strip()
