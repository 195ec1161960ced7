"""Structures compiled for one tokenizer, and cached. Several sessions may share them.

It knows which expression a structure is, and nothing of canvases.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dgemma.core.structure import Structure
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.byte_automaton import ByteAutomaton, compile_regex
from dgemma.runtime.structure.json_schema import schema_regex
from dgemma.runtime.structure.json_values import literal
from dgemma.runtime.structure.token_automaton import ByteTree, TokenAutomaton, lift
from dgemma.runtime.structure.vocabulary import Vocabulary, read_vocabulary
from dgemma.runtime.tokenizer import Tokenizer

KEPT = 8  # automata; the one that was not used for the longest time goes first
_LEAVES_A_STRING = [*range(0x20), ord('"'), ord("\\")]


class Languages:
    """The structures of one tokenizer, for a model of `size` ids. The vocabulary is read at first use."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size
        self._read: tuple[Vocabulary, tuple[ByteTree, ByteTree]] | None = None
        self._kept: OrderedDict[Structure, TokenAutomaton] = OrderedDict()
        self._lock, self._compiling = threading.Lock(), threading.Lock()

    def compiled(self, structure: Structure) -> TokenAutomaton:
        """A structure's automaton. Raises UsageError: no expression, no text, too large, or outlines-core is missing."""
        if (found := self._recalled(structure)) is not None:  # which waits for no other to be compiled
            return found
        with self._compiling:
            if (found := self._recalled(structure)) is not None:
                return found
            found = self._compile(structure)
            with self._lock:
                self._kept[structure] = found
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            return found

    def _recalled(self, structure: Structure) -> TokenAutomaton | None:
        with self._lock:
            if structure in self._kept:
                self._kept.move_to_end(structure)
            return self._kept.get(structure)

    def _compile(self, structure: Structure) -> TokenAutomaton:
        automaton = byte_automaton(structure)
        if self._read is None:
            vocabulary = read_vocabulary(self._tokenizer, self._size)
            later = ByteTree(vocabulary.later, vocabulary.rank)
            first = later if vocabulary.is_even else ByteTree(vocabulary.first, vocabulary.rank)
            self._read = vocabulary, (first, later)
        return lift(automaton, *self._read, structure.name)


def byte_automaton(structure: Structure) -> ByteAutomaton:
    """A structure's automaton over bytes; raises UsageError."""
    return compile_regex(expression(structure), structure.name)


def expression(structure: Structure) -> str:
    """The regular expression that a structure is; raises UsageError."""
    if structure.regex is not None:
        return structure.regex
    if structure.json_schema is not None:
        return schema_regex(str(structure.json_schema), _stays_in_a_string)
    return "|".join(map(literal, structure.choices))


def _stays_in_a_string(regex: str) -> bool:
    """Whether an expression matches no text that JSON would have to escape."""
    automaton = compile_regex(regex, "json_schema pattern")
    leaves: Array = automaton.table[:-1, _LEAVES_A_STRING] != automaton.states
    return not leaves.any()
