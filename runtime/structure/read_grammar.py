"""A separate program: a grammar in Lark's form on standard input, its rules and terminals as JSON on standard output.

    python read_grammar.py < GRAMMAR

Lark reads and checks it, and writes `?`, `*`, `+`, `~`, groups and templates out as rules. That may take any time and memory (a
template may use itself), and a separate process can be ended; it imports nothing of dgemma. Output: `rules`, a list of
[name, symbols]; `terminals`, name → expression in the syntax of Rust's regex crate; `ignored`, names of terminals. A name of a
terminal is never one of a rule. Exit status 3: the reason is on standard error.

Terminals are sets of texts. Priorities are left out: they choose between several parses of a text, and do not change which
texts have one.
"""

from __future__ import annotations

import json
import re
import re._parser as read  # type: ignore[import-not-found]  # as lark itself reads expressions
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

LIBRARY = ("common", "lark", "python", "unicode")  # the grammars that come with lark
# common.ESCAPED_STRING from its second character on: up to a quote behind an even number of backslashes. The same texts without
# look-around.
_ESCAPED = re.compile(r"\.\*\?\(\?<!\\\\\)\(\\\\\\\\\)\*\?\\?(.)", re.DOTALL)
_REFUSED = {
    "MIN_REPEAT": "a lazy repetition",
    "POSSESSIVE_REPEAT": "a possessive repetition",
    "ATOMIC_GROUP": "an atomic group",
    "ASSERT": "a look-around",
    "ASSERT_NOT": "a look-around",
    "GROUPREF": "a backreference",
    "GROUPREF_EXISTS": "a condition",
    "AT": "an anchor or a word boundary",
}


class Refused(Exception):
    """What a grammar has that cannot be kept."""


def run() -> int:
    from lark import Lark
    from lark.exceptions import LarkError

    text = sys.stdin.buffer.read().decode()
    try:
        found = Lark(text, parser="earley", lexer="dynamic_complete", import_paths=[_imported])
        terminals = {one.name: _expression(one.name, one.pattern.to_regexp()) for one in found.terminals}
        rules = [(str(one.origin.name), [str(symbol.name) for symbol in one.expansion]) for one in found.rules]
        used = {symbol.name for one in found.rules for symbol in one.expansion if symbol.is_term}
        if undefined := sorted(used.union(found.ignore_tokens) - terminals.keys()):
            raise Refused(f"declares terminal {undefined[0]} without an expression; define it")
    except RecursionError:
        print("is nested too deeply; write parts of it as rules of their own", file=sys.stderr)
        return 3
    except (LarkError, Refused, re.error) as error:
        print(_reason(str(error)), file=sys.stderr)
        return 3
    json.dump({"rules": rules, "terminals": terminals, "ignored": list(map(str, found.ignore_tokens))}, sys.stdout)
    return 0


def _reason(said: str) -> str:
    """An error in one line."""
    if at := re.search(r"line (\d+),? column (\d+)", said):
        return f"line {at[1]}, column {at[2]} is not in Lark's form; see lark-parser.readthedocs.io"
    if said.startswith("Using an undefined rule: NonTerminal('start')"):
        return "has no rule `start`, which derives the whole answer; name a rule so"
    return " ".join(said.split())


def _imported(base: Any, path: str) -> Any:
    """A grammar of lark's library: nothing else is read, from wherever a grammar comes."""
    from lark.load_grammar import FromPackageLoader

    if path.removesuffix(".lark") not in LIBRARY:
        raise Refused(f"imports from {path}; only {', '.join(LIBRARY)} can be imported, so write it into the grammar")
    return FromPackageLoader("lark", ("grammars",))(None, path)


def _expression(name: str, pattern: str) -> str:
    """An expression of Python's in Rust's syntax, which matches the same texts. Raises Refused, re.error."""
    plain = _ESCAPED.sub(lambda found: r"(?:[^\\\n{0}]|\\[^\n])*{0}".format(re.escape(found[1])), pattern)
    try:
        parsed = read.parse(plain)
        return _written(parsed, parsed.state.flags)
    except Refused as error:
        raise Refused(
            f"terminal {name} {pattern[:60]!r} has {error}, which is not supported; write it in other words"
        ) from None


def _written(parts: Iterable[tuple[Any, Any]], flags: int) -> str:
    return "".join(_part(str(kind), value, flags) for kind, value in parts)


def _part(kind: str, value: Any, flags: int) -> str:
    if kind in _REFUSED:
        raise Refused(_REFUSED[kind])
    if kind == "BRANCH":
        return f"(?:{'|'.join(_written(branch, flags) for branch in value[1])})"
    if kind == "SUBPATTERN":
        _, added, removed, inner = value
        return f"(?:{_written(inner, (flags | added) & ~removed)})"
    if kind == "MAX_REPEAT":
        low, high, inner = value
        return f"(?:{_written(inner, flags)}){{{low},{'' if high == read.MAXREPEAT else high}}}"
    if kind == "ANY":
        return _characters(".", flags)
    if kind == "LITERAL":
        return _characters(_one(value), flags) if flags & re.IGNORECASE else _rust(value)
    if kind == "NOT_LITERAL":
        return _characters(f"[^{_one(value)}]", flags)
    if kind == "IN":
        return _characters(f"[{''.join(_item(str(item), what) for item, what in value)}]", flags)
    raise Refused(f"a part ({kind.lower()})")


def _one(code: int) -> str:
    return f"\\U{code:08x}"


_CATEGORIES = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}


def _item(kind: str, value: Any) -> str:
    """Of a class."""
    if kind == "NEGATE":
        return "^"
    if kind == "CATEGORY":
        return _CATEGORIES[str(value).removeprefix("CATEGORY_")]
    return _one(value) if kind == "LITERAL" else f"{_one(value[0])}-{_one(value[1])}"


@cache
def _characters(pattern: str, flags: int) -> str:
    """The characters that a pattern of one character matches by Python's rules, as a class."""
    kept = flags & (re.IGNORECASE | re.DOTALL | re.ASCII)
    every = _every()
    runs = re.compile(f"(?:{pattern})+", kept).finditer(every)
    ends = [(ord(every[one.start()]), ord(every[one.end() - 1])) for one in runs]
    if not ends:
        raise Refused("a class without characters")
    return f"[{''.join(_rust(low) if low == high else f'{_rust(low)}-{_rust(high)}' for low, high in ends)}]"


@cache
def _every() -> str:
    """All characters that UTF-8 has."""
    return "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))


def _rust(code: int) -> str:
    return rf"\x{{{code:x}}}"


if __name__ == "__main__":
    sys.exit(run())
