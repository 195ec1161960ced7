"""Grammars as automata: beside lark's own parser, and beside a naive twin on random rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from lark import Lark
from lark.exceptions import LarkError
from structures import JSON, SUMS, TABLE

from dgemma.core.errors import UsageError
from dgemma.runtime.structure import grammar as grammars
from dgemma.runtime.structure import patience, rules, unrolled
from dgemma.runtime.structure.byte_automaton import ByteAutomaton, compile_regex
from dgemma.runtime.structure.grammar import compile_grammar
from dgemma.runtime.structure.patience import Patience
from dgemma.runtime.structure.rules import TooLarge, looped, read_rules
from dgemma.runtime.structure.unrolled import Terminals

LISPS = 'start: s\ns: ATOM | "(" [s (" " s)*] ")"\nATOM: /[a-z]+/'
DATES = """
start: day "." month "." year | "on "i day ("th" | "rd")?
day.2: "1".."9" | "0".."3" DIGIT
month: ("0" DIGIT | "10" | "11") -> m
year: DIGIT~2..4
%import common.DIGIT
"""
LISTED = 'start: list (";" list)*\nlist: "x" | list "," "x" | "y" "," list'
SPACED = 'start: "let" NAME "=" (NAME | NUMBER)\nNAME: /[a-z]/\nNUMBER: /[0-9]/\n%ignore " "\n%ignore /#[^\\n]*\\n/'


@cache
def parser(grammar: str) -> Lark:
    return Lark(grammar, parser="earley", lexer="dynamic_complete", ambiguity="forest")


def parses(grammar: str, text: str) -> bool:
    try:
        parser(grammar).parse(text)
    except LarkError:
        return False
    return True


@cache
def compiled(grammar: str, depth: int) -> ByteAutomaton:
    return compile_grammar(grammar, depth)


def texts(characters: str, most: int) -> Iterable[str]:
    return ("".join(one) for n in range(most + 1) for one in itertools.product(characters, repeat=n))


def samples(automaton: ByteAutomaton, count: int, seed: int = 0) -> list[str]:
    """Texts of the language, by a walk that turns to an end after a while."""
    draw, dead = random.Random(seed), automaton.states
    steps = [0 if ends else 99_999 for ends in automaton.accepting]
    for _ in range(dead):
        steps = [min(steps[s], 1 + min(steps[t] for t in automaton.table[s].tolist())) for s in range(dead)] + [99_999]
        if max(steps[:dead]) < 99_999:
            break
    found = []
    while len(found) < count:
        state, said, free = automaton.start, b"", draw.randrange(12)
        while not (automaton.accepting[state] and (len(said) >= free)):
            row = automaton.table[state].tolist()
            possible = [b for b in range(256) if row[b] != dead and (len(said) < free or steps[row[b]] < steps[state])]
            if not possible:
                break
            byte = draw.choice(possible)
            state, said = row[byte], said + bytes([byte])
        if automaton.accepting[state]:
            found.append(said.decode())
    return found


@pytest.mark.parametrize(
    ("grammar", "depth"), [(SUMS, 3), (JSON, 3), (LISPS, 3), (TABLE, 0), (DATES, 0), (LISTED, 0), (SPACED, 0)]
)
def test_lark_parses_what_an_automaton_allows(grammar: str, depth: int) -> None:
    for text in samples(compiled(grammar, depth), 40):
        assert parses(grammar, text), text


@pytest.mark.parametrize(
    ("grammar", "characters", "most"),
    [(TABLE, 'a,"\n', 4), (LISTED, "xy,;", 5), (DATES, "01.", 7)],
)
def test_an_automaton_of_a_grammar_without_nesting_allows_what_lark_parses(grammar: str, characters: str, most: int) -> None:
    automaton, found = compiled(grammar, 0), 0
    for text in texts(characters, most):
        assert automaton.matches(text) == parses(grammar, text), text
        found += automaton.matches(text)
    assert found > 3


def nesting(text: str, opens: str, closes: str) -> int:
    depth = most = 0
    for character in text:
        depth += (character in opens) - (character in closes)
        most = max(most, depth)
    return most


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("grammar", "characters", "most"), [(SUMS, "1+()", 5), (LISPS, "a ()", 5), (JSON, "[],1", 5)]
)  # fmt: skip
def test_only_nesting_beyond_the_depth_is_lost(grammar: str, characters: str, most: int, depth: int) -> None:
    automaton = compiled(grammar, depth)
    for text in texts(characters, most):
        if automaton.matches(text):
            assert parses(grammar, text), text
        elif parses(grammar, text):
            assert nesting(text, "([{", ")]}") > depth, text


def test_two_kinds_of_brackets_double_the_states() -> None:
    assert [compiled(JSON, depth).states for depth in (2, 3, 4)] == [236, 512, 1064]
    assert compiled(SUMS, 9).states - compiled(SUMS, 8).states == compiled(SUMS, 2).states - compiled(SUMS, 1).states


def test_loops_are_exact_however_long() -> None:
    assert compiled(LISTED, 0).matches("y,x" + ",x" * 500 + ";x")
    assert compiled(SUMS, 0).matches("1" + "*2+3" * 500)
    mutual = 'start: a\na: b "x" | "c"\nb: a "y" | "d"'  # left recursion by two rules
    assert compiled(mutual, 0).matches("c" + "yx" * 50) and not compiled(mutual, 0).matches("cyxy")
    right = 'start: a\na: "x" b | "c"\nb: "y" a | "d"'
    assert compiled(right, 0).matches("xy" * 50 + "c") and compiled(right, 0).matches("xd")


def test_ignored_texts_stand_between_two_terminals_only() -> None:
    automaton = compiled(SPACED, 0)
    assert automaton.matches("letx=1") and automaton.matches("let  x = #no\n 1")
    for text in (" letx=1", "letx=1 ", "l etx=1"):
        assert not automaton.matches(text)
    assert parses(SPACED, " letx=1 ")


NAMES = ("start", "a", "b")
SYMBOLS = st.lists(st.sampled_from((*NAMES, "X", "Y", "X", "Y")), max_size=3).map(tuple)
RULES = st.tuples(*(st.lists(SYMBOLS, min_size=1, max_size=3, unique=True) for _ in NAMES))
Alternatives = Sequence[tuple[str, tuple[str, ...]]]


@cache
def letters() -> Terminals:
    automaton = compile_regex("1x|2y")
    return Terminals(automaton=automaton, starts={"X": automaton.after(b"1"), "Y": automaton.after(b"2")})


def allowed(alternatives: Alternatives, depth: int, loops: Callable[..., object] = looped) -> ByteAutomaton:
    found, recurring = loops(read_rules(alternatives, Patience()), "start", Patience())  # type: ignore[misc]
    return unrolled.unrolled(found, "start", letters(), recurring, depth, Patience())


def naive(alternatives: Alternatives, text: str) -> bool:
    """Whether rule `start` derives a text: which rule derives which part of it, until nothing new is found."""
    parts = [(i, j) for i in range(len(text) + 1) for j in range(i, len(text) + 1)]
    known = {(symbol, i, j) for symbol in "XY" for i, j in parts if text[i:j] == symbol.lower()}
    while True:
        size = len(known)
        for name, symbols in alternatives:
            for i in range(len(text) + 1):
                ends = {i}
                for symbol in symbols:
                    ends = {j for middle in ends for j in range(middle, len(text) + 1) if (symbol, middle, j) in known}
                known |= {(name, i, j) for j in ends}
        if len(known) == size:
            return ("start", 0, len(text)) in known


def shallow(alternatives: Alternatives, depth: int, most: int) -> set[str]:
    """Texts up to a length with a parse in which no rule is inside itself more than `depth` times."""

    @cache
    def derived(name: str, above: tuple[str, ...]) -> frozenset[str]:
        if name in ("X", "Y"):
            return frozenset({name.lower()})
        found = set[str]()
        for _, symbols in (one for one in alternatives if one[0] == name and above.count(name) <= depth):
            whole = {""}
            for symbol in symbols:
                more = derived(symbol, tuple(sorted((*above, name))))
                whole = {a + b for a in whole for b in more if len(a + b) <= most}
            found |= whole
        return frozenset(found)

    return set(derived("start", ()))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=RULES)
def test_random_rules_derive_what_a_naive_twin_derives(found: tuple[list[tuple[str, ...]], ...]) -> None:
    """A rule inside itself with as long a text adds nothing: texts of n letters need none inside itself more than n times."""
    alternatives = [(name, symbols) for name, several in zip(NAMES, found, strict=True) for symbols in several]
    with pytest.MonkeyPatch.context() as less:
        less.setattr(unrolled, "MOST_PLACES", 3_000)
        less.setattr(unrolled, "MOST_STACKS", 3_000)
        try:
            automata = {depth: allowed(alternatives, depth) for depth in (0, 1, 4)}
        except TooLarge:
            reject()
    least = {depth: shallow(alternatives, depth, 4) for depth in (1, 0)}
    for text in texts("xy", 4):
        derived = naive(alternatives, text)
        assert automata[4].matches(text) == derived, text
        for depth in (1, 0):
            assert (text in least[depth]) <= automata[depth].matches(text) <= derived, (depth, text)
    assert bool(automata[4].states) == bool(automata[0].states)  # some text has a parse without a rule inside itself


def test_without_loops_a_long_list_is_too_deep() -> None:
    """The control: loops are what makes lists of any length possible."""
    lists = [("start", ("X",)), ("start", ("start", "Y", "X"))]
    plain = allowed(lists, 2, lambda found, start, patience: (found, {("start", "start")}))
    assert plain.matches("xyx" + "yx") and not plain.matches("x" + "yx" * 3)
    assert allowed(lists, 0).matches("x" + "yx" * 99)


PATTERNS: list[tuple[str, list[str], list[str]]] = [
    (r"/[a-c]x/i", ["ax", "CX"], ["dx", "a"]),
    (r"/a.c/s", ["a\nc", "aéc"], ["ac"]),
    (r"/a.c/", ["a😀c"], ["a\nc"]),
    (r"/\w\d/", ["é1", "_٣"], ["-1"]),
    (r"/[^\W\d]+/", ["aé"], ["a1"]),
    ("/a b # two\n/x", ["ab"], ["a b"]),
    (r"/(?i:a)b{2,3}/", ["Abb", "abbb"], ["aBB", "ab"]),
    (r'"a.c"i', ["a.C"], ["abc"]),
    (r'"é".."ü"', ["é", "ï"], ["e"]),
    (r"/[^\"\\]|\\u[0-9a-f]{4}/", ["x", "\\u00e9"], ['"', "\\"]),
]  # fmt: skip


def test_terminals_match_what_they_match_in_python() -> None:
    lines = [f'"{i}" T{i}' for i in range(len(PATTERNS))]
    grammar = f"start: {' | '.join(lines)}\n" + "\n".join(f"T{i}: {pattern}" for i, (pattern, *_) in enumerate(PATTERNS))
    for i, (_, matched, others) in enumerate(PATTERNS):
        for text in (*matched, *others):
            found = compiled(grammar, 0).matches(f"{i}{text}")
            assert found == parses(grammar, f"{i}{text}") == (text in matched), (i, text)


def test_escaped_strings_end_at_their_quote() -> None:
    grammar = """
start: STRING
STRING: ESCAPED_STRING | "'" _STRING_ESC_INNER "'"
%import common (ESCAPED_STRING, _STRING_ESC_INNER)
"""
    for text in texts('"\\a', 5):
        inner = text[1:-1].replace("\\\\", "").replace('\\"', "")
        assert compiled(grammar, 0).matches(text) == (parses(grammar, text) and '"' not in inner), text
    assert compiled(grammar, 0).matches(r"'it\'s'") and not compiled(grammar, 0).matches("'it's'")


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ('a: "b"', "has no rule `start`"),
        ("", "has no rule `start`"),
        ('start: "a', "line 1, column 8 is not in Lark's form"),
        ("start: b", "rule not defined|undefined rule|not defined"),
        ("start: B", "not defined"),
        ("start: /(?=a)a/", "has a look-around, which is not supported"),
        (r"start: /(a)\1/", "has a backreference"),
        (r"start: /a\b/", "has an anchor or a word boundary"),
        ("start: /a*?b/", "has a lazy repetition"),
        ("start: /a++b/", "has a possessive repetition"),
        ("start: /(a)?(?(1)b|c)/", "has a condition"),
        (r"start: /[^\s\S]a/", "a class without characters"),
        ("start: /a*/", "zero-width"),
        ("start: /[/", "."),
        ("start: A\n%declare A", "declares terminal A without an expression|not defined"),
        ("start: x\n%import .other.x", "imports from other.lark; only common, lark, python, unicode can be imported"),
        ('start: "a" start', ": matches no text; give every rule"),
        ("start: STRING\n%import python.STRING", "has a look-around"),
        ('start: _a{"x"}\n_a{x}: x _a{x} | x', None),
        ("start: \ud800", "not valid Unicode"),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused(grammar: str, says: str | None) -> None:
    if says is None:
        assert compile_grammar(grammar, 0).matches("xxx")
        return
    with pytest.raises(UsageError, match=says) as caught:
        compile_grammar(grammar, 2)
    assert str(caught.value).startswith("grammar") and "\n" not in str(caught.value) and caught.value.param == "grammar"


def test_large_grammars_are_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 5.0)
    endless = 'start: _a{"x"}\n_a{x}: x | _a{_b{x}}\n_b{x}: x x'  # a template that uses itself with ever longer texts
    for grammar, depth in ((endless, 1), (JSON, 30)):
        with pytest.raises(UsageError, match="grammar: needs too many states, or too much time; give a grammar_depth below"):
            compile_grammar(grammar, depth)
    monkeypatch.setattr(patience, "SECONDS", 60.0)
    for module, name in (
        (grammars, "MOST_STATES"),
        (unrolled, "MOST_STATES"),
        (unrolled, "MOST_PLACES"),
        (rules, "MOST_EDGES"),
    ):
        with monkeypatch.context() as less:
            less.setattr(module, name, 5)
            with pytest.raises(UsageError, match="use fewer rules, or simpler ones"):
                compile_grammar(DATES, 0)
    with monkeypatch.context() as less:
        less.setattr(unrolled, "MOST_STACKS", 5)
        with pytest.raises(UsageError, match="grammar_depth below 9"):
            compile_grammar(SUMS, 9)


def test_missing_libraries_name_their_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"grammar: needs package 'lark'; pip install .*\[structure\]"):
        compile_grammar(SUMS, 1)
