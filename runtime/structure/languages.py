"""Structures compiled for one tokenizer, and cached. Several sessions may share them.

It knows which expression, grammar or file a structure is, and nothing of canvases.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dgemma.core.compiled_structure import CompiledStructure
from dgemma.core.errors import Param, UsageError
from dgemma.core.roles import NO_TOOLS, ToolForm
from dgemma.core.structure import SHOWN, Structure
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.byte_automaton import ByteAutomaton, compile_regex
from dgemma.runtime.structure.forms import Call, Form, Json, ids_of
from dgemma.runtime.structure.grammar import compile_grammar
from dgemma.runtime.structure.json_schema import schema_regex
from dgemma.runtime.structure.json_values import literal
from dgemma.runtime.structure.markers import marked
from dgemma.runtime.structure.patience import POLL_S, SECONDS, Late, Patience
from dgemma.runtime.structure.token_automaton import ByteTree, TokenAutomaton, lift
from dgemma.runtime.structure.vocabulary import Vocabulary, read_vocabulary
from dgemma.runtime.tokenizer import Tokenizer

KEPT = 8  # automata; the one that was not used for the longest time goes first


class Languages:
    """The structures of one tokenizer, for a model of `size` ids that writes calls of tools in a form, if it does. The
    vocabulary is read at first use."""

    def __init__(self, tokenizer: Tokenizer, size: int, tools: ToolForm | None = None) -> None:
        self._tokenizer, self._size, self._tools = tokenizer, size, tools
        self._read: tuple[Vocabulary, tuple[ByteTree, ByteTree]] | None = None
        self._kept: OrderedDict[Structure, TokenAutomaton] = OrderedDict()
        self._lock, self._compiling = threading.Lock(), threading.Lock()

    def compiled(self, structure: Structure, cancelled: Callable[[], bool] = lambda: False) -> TokenAutomaton:
        """A structure's automaton; one is compiled at a time.

        Args:
            cancelled: whether nobody waits for it any more; asked all the time.
        Raises:
            UsageError: no expression, no text, too large or too slow; a call where the model has no tools; or outlines-core is
                missing.
            Cancelled.
        """
        if (found := self._recalled(structure)) is not None:  # which waits for no other to be compiled
            return found
        with self._alone(cancelled):
            if (found := self._recalled(structure)) is not None:
                return found
            with in_time(structure.name):
                found = self._compile(structure, Patience(cancelled))
            with self._lock:
                self._kept[structure] = found
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return found

    @contextmanager
    def _alone(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        waiting = Patience(cancelled, float("inf"))
        while not self._compiling.acquire(timeout=POLL_S):
            waiting.check()
        try:
            yield
        finally:
            self._compiling.release()

    def _recalled(self, structure: Structure) -> TokenAutomaton | None:
        with self._lock:
            if structure in self._kept:
                self._kept.move_to_end(structure)
            return self._kept.get(structure)

    def _compile(self, structure: Structure, patience: Patience) -> TokenAutomaton:
        automaton = byte_automaton(structure, patience, self._tools)
        if self._read is None:
            vocabulary = read_vocabulary(self._tokenizer, self._size, () if self._tools is None else ids_of(self._tools))
            patience.check()
            later = ByteTree(vocabulary.later, vocabulary.rank)
            first = later if vocabulary.is_even else ByteTree(vocabulary.first, vocabulary.rank)
            self._read = vocabulary, (first, later)
        if structure.is_call and not self._read[0].is_even:
            dropped = ": this bundle's tokenizer drops spaces behind markers, so a call would not be read as it was written"
            raise UsageError(Param(structure.name), dropped)
        return lift(automaton, *self._read, structure.name, patience)


@contextmanager
def in_time(name: str) -> Iterator[None]:
    """Work on what an option asks for. Raises UsageError instead of Late."""
    try:
        yield
    except Late:
        raise UsageError(Param(name), f": takes more than {SECONDS:g} s to compile; use a smaller or simpler one") from None


def byte_automaton(structure: Structure, patience: Patience | None = None, tools: ToolForm | None = None) -> ByteAutomaton:
    """A structure's automaton over bytes, markers of `tools` among them. Raises UsageError, Cancelled, Late."""
    patience = patience or Patience()
    if structure.compiled is not None:
        return _of_file(structure.compiled, tools)
    if structure.grammar is not None:
        return compile_grammar(structure.grammar, int(structure.grammar_depth or 0), patience)
    automaton = compile_regex(expression(structure, patience, tools), structure.name, patience)
    return marked(automaton, len(ids_of(tools)), patience) if structure.calls and tools else automaton


def _of_file(compiled: CompiledStructure, tools: ToolForm | None) -> ByteAutomaton:
    name = Param("structure")
    if compiled.is_call and tools is None:
        raise UsageError(name, " is a call of a tool, and this bundle does not support tools; use another bundle")
    if compiled.is_call and tools is not None and (tools.form, tools.null) != (compiled.head["form"], compiled.head["null"]):
        raise UsageError(name, " is a call as another bundle writes it; compile it for this bundle")
    return ByteAutomaton(table=compiled.table, accepting=compiled.accepting, start=0)


def expression(structure: Structure, patience: Patience | None = None, tools: ToolForm | None = None) -> str:
    """The regular expression that a structure is, but for a grammar. Raises UsageError, Cancelled."""
    patience = patience or Patience()
    if structure.regex is not None:
        return structure.regex
    if structure.json_schema is not None:
        return _of_schema(json.loads(str(structure.json_schema)), Json(), patience)
    if structure.choices:
        return "|".join(map(literal, structure.choices))
    if tools is None:
        raise UsageError(*NO_TOOLS)
    form = Call(tools)
    return "|".join(_of_call(tool["function"], form, patience) for tool in structure.tools)


def _of_call(function: Mapping[str, Any], form: Call, patience: Patience) -> str:
    """A call of a function. Raises UsageError that names it."""
    parameters = function.get("parameters") or {}
    try:
        says = {key for key, value in parameters.items() if value} - {"type", "title", "description"}
        bare = not says and parameters.get("type", "object") == "object"
        return form.call(function["name"], r"\{\}" if bare else _of_schema(parameters, form, patience))
    except UsageError as error:
        raise UsageError(Param("tools"), f" {function['name'][:SHOWN]!r}:", *error.parts[1:]) from None


def _of_schema(schema: Any, form: Form, patience: Patience) -> str:
    def stays_inside(regex: str) -> bool:
        """Whether an expression matches nothing that the form has another use for."""
        automaton = compile_regex(regex, "json_schema pattern", patience)
        leaves: Array = automaton.table[:-1, form.outside] != automaton.states
        return not leaves.any()

    return schema_regex(schema, form, stays_inside)
