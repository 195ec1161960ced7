"""structure.json is what the runtime says, and Java's tables of classes are outlines-core's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import load

HERE = Path(__file__).parent
JAVA = HERE.parents[1] / "android_demo/runtime/src/main/java/org/dgemma/runtime/structure/PerlClasses.java"
VECTORS: dict[str, Any] = json.loads((HERE / "structure.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def make() -> Any:
    return load(HERE / "make_structure_vectors.py")


def test_the_generator_asks_for_what_the_file_holds(make: Any) -> None:
    assert VECTORS["format"] == 1
    assert [entry[0] for entry in VECTORS["automata"]] == list(make.regexes())
    assert [entry[0] for entry in VECTORS["refused"]] == make.REFUSED and VECTORS["large"] == make.LARGE
    schemas = [*json.loads(make.SCHEMAS.read_text(encoding="utf-8")).values(), *make.MORE_SCHEMAS, *make.REFUSED_SCHEMAS]
    assert [entry[0] for entry in VECTORS["schemas"]] == [json.dumps(value) for value in schemas]


def test_the_runtime_says_it(make: Any) -> None:
    """Every ninth of the automata, for each takes a process of its own."""
    for regex, states, digest in VECTORS["automata"][::9]:
        automaton = make.compile_regex(regex)
        assert (automaton.states, make.digest(automaton)) == (states, digest), regex
    for regex, message in VECTORS["refused"][::9]:
        assert make.refusal(regex) == message
    for entry in VECTORS["schemas"][::9]:
        assert json.loads(json.dumps(make.schema(json.loads(entry[0])))) == entry
    for entry in VECTORS["vocabularies"]:
        assert make.vocabulary(entry) == entry


def test_automata_that_differ_have_different_digests(make: Any) -> None:
    digests = [make.digest(make.compile_regex(regex)) for regex in ("a|b", "a|c", "ab", "ab?")]
    assert len(set(digests)) == 4 and make.digest(make.compile_regex("[ab]")) == digests[0]


def ranges(text: str) -> Iterator[list[str]]:
    """The numbers of each constant."""
    for block in re.findall(r"CodePoints\.read\((.*?)\);", text, re.S):
        yield "".join(re.findall(r'"([^"]*)"', block)).split()


def test_javas_classes_are_those_of_the_library(make: Any) -> None:
    assert list(ranges(JAVA.read_text(encoding="utf-8"))) == list(ranges("\n".join(make.classes())))
