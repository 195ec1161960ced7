"""Ids without text in a language of bytes, such as the markers around a call.

In an expression, marker m is a character at the end of Unicode's plane 16, which is for private use. In an automaton over bytes
it is one byte that UTF-8 never has, so no text can be mistaken for it. S states.
"""

from __future__ import annotations

import numpy as np

from dgemma.runtime.structure.byte_automaton import ByteAutomaton, smallest
from dgemma.runtime.structure.patience import Patience

FIRST = 0x10FFF0  # their characters
LEAD = 0xF4  # the first byte of every character of the plane, and of no other
BYTES = range(0xF5, 0x100)  # that no UTF-8 has


def character(number: int) -> str:
    """Marker `number`, in an expression."""
    return chr(FIRST + number)


def byte(number: int) -> int:
    """Marker `number`, in an automaton."""
    return BYTES[number]


def holds(text: str) -> bool:
    """Whether a text has characters that may be taken for markers."""
    return any(ord(character) >= 0x100000 for character in text)


def marked(automaton: ByteAutomaton, count: int, patience: Patience) -> ByteAutomaton:
    """Characters of `count` markers as their bytes, in a language that has no others of the plane. Raises Cancelled, Late."""
    table = automaton.table.copy()
    for number in range(count):
        states = np.arange(len(table))
        for one in character(number).encode():
            states = automaton.table[states, one]
        table[:, byte(number)] = states
    table[:, LEAD] = automaton.states
    return smallest(table, automaton.accepting, automaton.start, patience)
