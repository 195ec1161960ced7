"""Structures compiled for a file: the automaton over bytes, which every tokenizer and language can use.

It knows what is compiled and where it came from, and nothing of tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dgemma.core.compiled_structure import NotAStructure, encode
from dgemma.core.errors import Param, UsageError
from dgemma.core.roles import ToolForm
from dgemma.core.structure import Structure
from dgemma.runtime.structure.languages import byte_automaton, in_time


def compile_structure(structure: Structure, tools: ToolForm | None = None) -> Structure:
    """The same language, compiled; `compiled.data` is the file that `Structure.read` reads.

    Args:
        tools: how the bundle's model writes calls; only a structure of calls needs it.
    Raises:
        UsageError: as compiling it for a generation does.
    """
    if structure.compiled is not None:
        return structure
    with in_time(structure.name):
        automaton = byte_automaton(structure, tools=tools)
    try:
        return Structure(compiled=encode(_head(structure, tools), automaton.table, automaton.accepting, automaton.start))
    except NotAStructure as error:
        raise UsageError(Param(structure.name), f": {error}") from None


def _head(structure: Structure, tools: ToolForm | None) -> dict[str, Any]:
    """What the file says of its source."""
    choices, called = list(structure.choices), [tool["function"]["name"] for tool in structure.tools]
    kind = "call" if structure.is_call else structure.name
    text = structure.regex or structure.json_schema or structure.grammar or structure.calls
    text = text if isinstance(text, str) and not choices else json.dumps(choices, ensure_ascii=False)
    more = {"grammar_depth": structure.grammar_depth, "choices": choices, "tools": called}
    form = {} if tools is None else {"form": tools.form, "null": tools.null}
    return {"kind": kind, "source": hashlib.sha256(text.encode()).hexdigest(), **more, **form}
