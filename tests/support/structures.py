"""Structures that several tests compile, and options that they are generated under."""

from __future__ import annotations

from typing import Any

from speaking import CALL, CALLED, QUOTE

from dgemma.core.roles import ToolForm

WAYS: list[dict[str, Any]] = [
    {},
    {"adaptive": False},
    {"max_steps": 1},
    {"temperature": 0},
    {"entropy_bound": 0.01},
    {"early_commit": 0.01},
    {"early_commit": 0.01, "recheck": True},
    {"draft": "hello there", "strength": 0.3},
    {"max_new_tokens": 41},
    {"trace": True},
]
REGEXES = ["a{3,5}é", "(yes|no)", r'\{"name": "[^"]*", "age": [0-9]+\}', "a{33}", ".*", "(a{0,150}b)?", "[0-9]{16}|[a-z]{17}"]
SUMS = """
start: expr
expr: term | expr ("+" | "-") term
term: factor | term "*" factor
factor: NUMBER | "(" expr ")"
NUMBER: /[0-9]+/
"""
JSON = """
?start: value
?value: object | array | STRING -> string | SIGNED_NUMBER -> number | "true" | "false" | "null"
array: "[" [value ("," value)*] "]"
object: "{" [pair ("," pair)*] "}"
pair: STRING ":" value
STRING: ESCAPED_STRING
%import common (ESCAPED_STRING, SIGNED_NUMBER)
"""
TABLE = r"""
start: _listed{row, "\n"}
!row: _listed{cell, ","}
cell: /[^",\n]+/ | "\"" (/[^"]/ | "\"\"")* "\""
_listed{one, mark}: one (mark one)*
"""
FORM = ToolForm(
    form="gemma",
    declaration=(46, 47),
    call=(CALL, CALLED),
    response=(50, 51),
    quote=QUOTE,
    null="None",
    reopens="no",
    closes="no",
)
ODD: dict[str, Any] = {
    "words": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 2, "maxLength": 9},
            "code": {"type": "string", "pattern": "^[^b]x.y?$"},
            "Kind": {"enum": ["a, b}", 1, -0.5, None, True, ["x", {"y": "{z"}], ' "q" ']},
            "none": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
        "required": ["text", "code", "Kind", "none"],
    },
    "numbers": {
        "type": "object",
        "properties": {
            "any": {"type": "number"},
            "above": {"type": "number", "exclusiveMinimum": 3},
            "between": {"type": "number", "minimum": 0, "maximum": 12},
            "whole": {"type": "integer"},
            "few": {"type": "integer", "minimum": -3, "exclusiveMaximum": 5},
            "list": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 3},
        },
        "required": ["any", "above", "between", "whole", "few", "list"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {"of": {"$ref": "#/$defs/one"}},
        "required": ["of"],
        "$defs": {
            "one": {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}, "required": ["when"]}
        },
    },
}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **({} if parameters is None else {"parameters": parameters})}}


CLOCK = tool("clock", {"type": "object", "properties": {"place": {"type": "string", "maxLength": 12}}, "required": ["place"]})
COUNT = tool(
    "count", {"type": "object", "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 20}}, "required": ["to"]}
)
RESET = tool("reset")
TOOLS = [CLOCK, COUNT, RESET]
