"""A grammar in Lark's form as an automaton over bytes.

It knows which programs and steps lead there; `read_grammar.py` knows Lark.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from dgemma.core.errors import Param, UsageError
from dgemma.core.install import pip_install
from dgemma.core.structure import SHOWN
from dgemma.runtime.structure.byte_automaton import MOST_STATES, ByteAutomaton, compile_regex, in_a_program
from dgemma.runtime.structure.patience import Late, Patience
from dgemma.runtime.structure.rules import TooLarge, looped, read_rules
from dgemma.runtime.structure.unrolled import Terminals, unrolled

START = "start"
NAME = Param("grammar")
_READ = Path(__file__).with_name("read_grammar.py")
_FIRST = 0xE000  # characters that stand before terminals in their common expression; for private use, but any others would do
_MOST_TERMINALS = 6400


def compile_grammar(grammar: str, depth: int, patience: Patience | None = None) -> ByteAutomaton:
    """The automaton of the texts of rule `start`, with as few states as there can be.

    Args:
        grammar: in Lark's form.
        depth: how many times a rule may stand inside itself.
        patience: None: a whole one.
    Raises:
        UsageError: cannot be read or kept, matches no text, is too large or takes too long; or a library is missing.
        Cancelled.
    """
    patience = patience or Patience()
    too_large: tuple[str, ...] = NAME, ": needs too many states, or too much time; use fewer rules, or simpler ones"
    if depth:
        less = Param("grammar_depth"), f" below {depth}, or use fewer rules that contain themselves"
        too_large = NAME, ": needs too many states, or too much time; give a ", *less
    try:
        read = _read(grammar, patience)
        rules, recurring = looped(read_rules(read["rules"], patience), START, patience)
        terminals = _terminals(read["terminals"], read["ignored"], patience)
        found = unrolled(rules, START, terminals, recurring, depth, patience)
    except (TooLarge, Late):
        raise UsageError(*too_large) from None
    if not found.states:
        raise UsageError(NAME, ": matches no text; give every rule an alternative that ends")
    if found.states > MOST_STATES:
        raise UsageError(*too_large)
    return found


def _read(grammar: str, patience: Patience) -> dict[str, Any]:
    """What read_grammar.py writes. Raises UsageError, TooLarge, Cancelled, Late."""
    if importlib.util.find_spec("lark") is None:
        raise UsageError(NAME, f": needs package 'lark'; {pip_install('structure')}")
    try:
        given = grammar.encode()
    except UnicodeEncodeError:
        raise UsageError(NAME, ": is not valid Unicode text") from None
    status, written, said = in_a_program(_READ, given, (NAME,), patience)
    if status == 0:
        found: dict[str, Any] = json.loads(written)
        return found
    if status == 3:
        reason = said.decode(errors="replace").strip()
        raise UsageError(NAME, f": {reason[: 4 * SHOWN]}{'…' if len(reason) > 4 * SHOWN else ''}")
    raise TooLarge


def _terminals(expressions: dict[str, str], ignored: list[str], patience: Patience) -> Terminals:
    """All in one automaton, so that one program has to run. Raises UsageError, TooLarge, Cancelled, Late."""
    if len(expressions) > _MOST_TERMINALS:
        raise TooLarge
    marks = [chr(_FIRST + i) for i in range(len(expressions))]
    regex = "|".join(f"{mark}(?:{one})" for mark, one in zip(marks, expressions.values(), strict=True))
    automaton = compile_regex(regex, NAME, patience, shown=" terminals")
    starts = {name: automaton.after(mark.encode()) for name, mark in zip(expressions, marks, strict=True)}
    return Terminals(automaton=automaton, starts=starts, ignored=ignored)
