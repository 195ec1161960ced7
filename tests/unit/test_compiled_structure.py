"""A file gives the answers of what it was compiled from, one source has one file, and no damaged one is read."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released_folder
import structures
from cli_checks import fails
from fake_bundle import BOS, START
from fake_structured import structured_session
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import STOP, Speaker, _ids, write_speaking, write_text

from dgemma.cli import dispatch
from dgemma.core import compiled_structure
from dgemma.core.compiled_structure import CompiledStructure, NotAStructure, decode, encode
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.structure import Structure
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session
from dgemma.runtime.structure import token_automaton
from dgemma.runtime.structure.byte_automaton import ByteAutomaton
from dgemma.runtime.structure.compiled import compile_structure
from dgemma.runtime.structure.languages import byte_automaton

PROMPT = [BOS, 50, 51, START]
SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "benchmarks/studies/schemas.json").read_text())
FORCED = [Structure(calls=structures.TOOLS), *(Structure(calls=[structures.tool("f", one)]) for one in structures.ODD.values())]
ALL = [
    *(Structure(regex=regex) for regex in (*structures.REGEXES, r"(?i)straße\p{Greek}", r"[a-z&&[^aeiou]]+", "")),
    *(Structure(json_schema=SCHEMAS[name]) for name in sorted(SCHEMAS)[::9]),
    *(Structure(grammar=grammar, grammar_depth=2) for grammar in (structures.SUMS, structures.JSON, structures.TABLE)),
    Structure(choices=["yes", "no", "é\n", "may|be"]),
    *FORCED,
]


def compiled(structure: Structure) -> CompiledStructure:
    found = compile_structure(structure, structures.FORM).compiled
    assert found is not None
    return found


def same(one: ByteAutomaton, other: ByteAutomaton) -> bool:
    """Whether two smallest automata differ only in the numbers of their states."""
    number, waiting = {one.start: other.start}, [one.start]
    while waiting:
        state = waiting.pop()
        if one.accepting[state] != other.accepting[number[state]]:
            return False
        for here, there in zip(one.table[state].tolist(), other.table[number[state]].tolist(), strict=True):
            if here != one.states and here not in number:
                waiting.append(here)
            if (here == one.states) != (there == other.states) or number.setdefault(here, there) != there:
                return False
    return one.states == other.states


def resealed(data: bytes) -> bytes:
    """With the checksum that it ought to have."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


@pytest.mark.parametrize("structure", ALL, ids=str)
def test_a_file_holds_the_automaton(structure: Structure, tmp_path: Path) -> None:
    own, made = byte_automaton(structure, tools=structures.FORM), compiled(structure)
    (tmp_path / "a.structure").write_bytes(made.data)
    read = Structure.read(tmp_path / "a.structure")
    assert same(own, byte_automaton(read, tools=structures.FORM))
    assert read == Structure(compiled=made) and hash(read) == hash(Structure(compiled=made)) and read.name == "structure"
    assert (read.choices, read.is_call) == (structure.choices, structure.is_call)
    assert compile_structure(read) is read and compiled(structure).data == made.data
    naive = sum(len(np.flatnonzero(np.diff(row))) + 1 for row in own.table[:-1])
    assert len(made.data) <= 2000 + 4 * naive


def test_automata_that_differ_are_told_apart() -> None:
    """The control of `same`."""
    for one, other in (("ab", "ac"), ("a|b", "ab"), ("a?", "a"), ("a*", "(aa)*")):
        assert not same(byte_automaton(Structure(regex=one)), byte_automaton(Structure(regex=other)))


def test_one_language_has_one_body() -> None:
    bodies = [compiled(Structure(**{name: one})).data.split(b"\n", 1)[1][:-32] for name, one in (
        ("regex", "yes|no"), ("regex", "no|yes"), ("choices", ["yes", "no"]), ("grammar", 'start: "yes" | "no"'))]  # fmt: skip
    assert len(set(bodies)) == 1


def test_a_file_says_where_it_came_from(tmp_path: Path) -> None:
    text = structures.SUMS
    path = tmp_path / "sums.lark"
    path.write_text(text)
    assert dispatch(["structure", "--grammar", str(path), "--grammar-depth", "1", "--out", str(tmp_path / "a")]) == 0
    head = json.loads((tmp_path / "a").read_bytes().split(b"\n", 1)[0])
    assert head["source"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (head["kind"], head["grammar_depth"]) == ("grammar", 1)
    assert str(Structure.read(tmp_path / "a")).startswith("structure grammar, depth 1, ")
    assert json.loads(compiled(FORCED[0]).data.split(b"\n", 1)[0])["tools"] == ["clock", "count", "reset"]


@pytest.mark.parametrize("wildness", [0.0, 6.0])
def test_answers_are_those_of_compiling_on_the_spot(wildness: float, tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b", list(range(200, 240)), wildness=wildness, seed=3)
    again = structured_session(tmp_path / "c", list(range(200, 240)), wildness=wildness, seed=3)
    for structure in ALL[: -len(FORCED) : 3]:
        read = compile_structure(structure)
        for seed, options in enumerate(structures.WAYS[:3]):
            told: dict[str, Any] = {"seed": seed, "max_new_tokens": 200, "trace": True, **options}
            one = session.generate(PROMPT, structure=structure, **told)
            other = again.generate(PROMPT, structure=read, **told)
            assert (one.text, one.tokens, one.steps) == (other.text, other.tokens, other.steps)
            assert one.trajectory is not None and other.trajectory is not None
            assert np.array_equal(one.trajectory.canvas_out, other.trajectory.canvas_out)


def test_choices_keep_their_probabilities() -> None:
    structure = Structure(choices=["elbat", "chair"])
    with Session.load("tiny", threads=1) as session:
        options: dict[str, Any] = {"choice_probabilities": True}
        one = session.generate("Reverse the word table.", structure=structure, **options)
        other = session.generate("Reverse the word table.", structure=compile_structure(structure), **options)
    assert one.choice_probabilities == other.choice_probabilities != {}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "text").mkdir()
    return Bundle.open(write_speaking(folder / "b", write_text(folder / "text", released_folder.template())))


def test_forced_calls(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(structures.TOOLS))
    made, args = tmp_path / "a", ["structure", str(bundle.path), "--tools", str(tmp_path / "tools.json"), "--out"]
    assert dispatch([*args, str(made)]) == 0
    assert f"{made}: call of clock or count or reset, " in capsys.readouterr().out
    assert dispatch([*args, str(tmp_path / "count"), "--tool-choice", "count"]) == 0
    read, count = Structure.read(made), Structure.read(tmp_path / "count")
    for seed in range(4):
        one, other = (
            Session(bundle, Speaker(bundle, _ids("I would rather not."), stop=STOP, wildness=6.0, seed=seed)) for _ in range(2)
        )
        forced = one.generate("How late is it?", tools=structures.TOOLS, tool_choice="required", seed=seed)
        found = other.generate("How late is it?", tools=structures.TOOLS, structure=read, seed=seed)
        assert found.tokens == forced.tokens and found.tool_calls == forced.tool_calls and len(found.tool_calls) == 1
    assert one.generate("How late is it?", tools=structures.TOOLS, structure=count).tool_calls[0].name == "count"
    with pytest.raises(UsageError, match="structure is a call of a tool, and this bundle does not support tools"):
        structured_session(tmp_path / "b").generate("x", structure=read)
    made_by = read.compiled
    assert made_by is not None
    other_form = Structure(compiled=encode({**made_by.head, "null": "nil"}, made_by.table, made_by.accepting, 0))
    with pytest.raises(UsageError, match="structure is a call as another bundle writes it; compile it for this bundle"):
        one.generate("How late is it?", tools=structures.TOOLS, structure=other_form)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"regex": "a"}, "give structure or regex, not both"),
        ({"loop": "graph"}, "structure needs decoder diffusion and loop host"),
        ({"stop": "x"}, "structure determines what the answer is and where it ends; leave stop out"),
        ({"top_k": 3, "ban": "x"}, "structure takes the likeliest ids that fit instead of drawing; leave top_k and ban out"),
        ({"think": True}, "structure covers the whole answer, thoughts included; leave think out"),
        ({"choice_probabilities": True}, "choice_probabilities needs choices; give them, or leave it out"),
        ({"tools": structures.TOOLS, "tool_choice": "required"}, "give structure or tool_choice, not both"),
        ({"structure": "a.structure"}, "structure 'a.structure' must be a Structure, such as Structure.read"),
        ({"max_new_tokens": 2}, "max_new_tokens 2 is less than the 3 tokens that structure takes at least"),
    ],
)
def test_what_a_structure_cannot_go_with(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b")
    with pytest.raises(UsageError) as caught:
        session.generate(PROMPT, **{"structure": compile_structure(Structure(regex="aaa")), **options})
    assert says in str(caught.value)
    with pytest.raises(UsageError, match="give one of regex, json_schema, grammar and choices, not structure and regex"):
        Structure(regex="a", compiled=compiled(Structure(regex="b")))
    with pytest.raises(UsageError, match="not structure and choices"):
        Structure(choices=["a", "b"], compiled=compiled(Structure(regex="b")))


@cache
def small() -> list[bytes]:
    return [compiled(one).data for one in (Structure(regex="a(b|é)*c"), Structure(choices=["yes", "no"]), FORCED[0])]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damaged_file_is_read(data: st.DataObject) -> None:
    """The checksum finds all of it, and without it there is a valid automaton, or a reason why there is none."""
    held = data.draw(st.sampled_from(small()))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(held))] * 2)))
    damaged = held[:start] + data.draw(st.binary(max_size=8)) + held[end if data.draw(st.booleans()) else start :]
    if damaged != held:
        with pytest.raises(NotAStructure):
            decode(damaged)
    with suppress(NotAStructure):
        found = decode(resealed(damaged))
        assert found.table.min() >= 0 and found.table.max() == found.head["states"] and found.accepting.any()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_anything_else_is_no_structure(data: bytes) -> None:
    for said in (data, b'{"dgemma_structure": 1}\n' + data, b"[" * 100_000 + b"\n" + data):
        with pytest.raises(NotAStructure):
            decode(said)


def raw(automaton: list[tuple[int, list[tuple[int, int, int]]]], **changes: Any) -> bytes:
    """A file by hand: of every state whether it accepts, and its ranges."""
    head = {"dgemma_structure": 1, "kind": "regex", "source": "0" * 64, "states": len(automaton), **changes}
    body = json.dumps({name: value for name, value in head.items() if value is not None}).encode() + b"\n"
    body += b"".join((2 * len(ranges) + accepts).to_bytes(2, "little") for accepts, ranges in automaton)
    body += b"".join(bytes([a, b]) + to.to_bytes(2, "little") for _, ranges in automaton for a, b, to in ranges)
    return body + hashlib.sha256(body).digest()


AB = [(0, [(97, 98, 1)]), (1, [])]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (raw(AB)[:-1], "is damaged: its checksum is wrong; compile it again"),
        (raw(AB)[:40], "is not a compiled structure; `dgemma structure` writes one"),
        (b"", "is not a compiled structure"),
        (raw(AB, dgemma_structure=2), "has format 2, and this version reads 1; compile it again with this version"),
        (raw(AB, dgemma_structure=True), "has format True"),
        (raw(AB, kind="schema"), "its kind is none of regex, json_schema, grammar, choices, call"),
        (raw(AB, kind=[]), "its kind is none of"),
        (raw(AB, kind="grammar"), "its head must have dgemma_structure, kind, source, states, grammar_depth"),
        (raw(AB, kind="grammar", grammar_depth=True), "grammar_depth is no int"),
        (raw(AB, kind="choices", choices=["a", ""]), "choices must be texts"),
        (raw(AB, more=1), "its head must have dgemma_structure, kind, source, states;"),
        (raw(AB, source=None), "its head must have"),
        (raw(AB, source="x"), "its source is no SHA-256"),
        (raw(AB, states=3), "its length is wrong"),
        (raw(AB, states=1), "its length is wrong"),
        (raw(AB, states=0), "it must have 1 to 20000 states"),
        (raw(AB, states=10**9), "it must have 1 to 20000 states"),
        (raw([(0, [(97, 98, 2)]), (1, [])]), "a transition is outside its 2 states or 245 bytes"),
        (raw([(0, [(97, 245, 1)]), (1, [])]), "a transition is outside its 2 states or 245 bytes"),
        (raw([(0, [(99, 98, 1)]), (1, [])]), "its transitions are out of order"),
        (raw([(0, [(97, 98, 1), (98, 99, 1)]), (1, [])]), "its transitions are out of order"),
        (raw([(0, [(97, 98, 1)]), (0, [])]), "no accepting state can be reached from a state"),
        (raw([(1, [(97, 98, 1)]), (0, [(97, 97, 1)])]), "no accepting state can be reached from a state"),
        (raw([(1, [(97, 97, 0)]), (1, [])]), "a state cannot be reached"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        Structure.read(tmp_path / "a")
    assert says in str(caught.value) and f"structure {tmp_path / 'a'}: " in str(caught.value)
    assert caught.value.param == "structure" and "\n" not in str(caught.value)


def test_a_file_by_hand_is_read() -> None:
    """The control."""
    assert decode(raw(AB)).head["kind"] == "regex"
    assert len(decode(raw([(0, [(97, 97, i + 1)]) for i in range(19_999)] + [(1, [])])).table) == 20_001


def test_what_is_too_large_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = compiled(Structure(regex="[ab]c")).data
    monkeypatch.setattr(compiled_structure, "LARGEST", len(data) - 1)
    with pytest.raises(NotAStructure, match="has more than"):
        decode(data)
    with pytest.raises(UsageError, match="regex: has more than"):
        compile_structure(Structure(regex="[ab]c"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, args = tmp_path / "a", ["structure", "--out", str(tmp_path / "a")]
    assert dispatch([*args, "tiny", "--choice", "yes|no"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: choices (2), 5 states, ")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert dispatch(["inspect", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"structure     {out}: choices (2), 5 states, ")
    assert dispatch(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"] == ["yes", "no"]
    assert dispatch(["run", "tiny", "-p", "x", "--structure", str(out)]) == 0
    assert capsys.readouterr().out in ("yes\n", "no\n")
    fails(capsys, args, "give one of --regex, --json-schema, --grammar, --choice and --tools")
    fails(capsys, [*args, "--regex", "a", "--choice", "a|b"], "give one of --regex, ")
    fails(capsys, [*args, "--regex", "("], "--regex '(': has unbalanced parentheses")
    fails(capsys, [*args, "--tools", "x"], "--tools needs the bundle whose model is to call them; give BUNDLE")
    fails(capsys, [*args, "--regex", "a", "--tool-choice", "f"], "--tool-choice needs --tools")
    with monkeypatch.context() as limits:
        limits.setattr(token_automaton, "MOST_EDGES", 2)
        fails(capsys, [*args, "tiny", "--regex", "[a-z]+"], "structure is too large for this vocabulary: ")
    fails(capsys, ["structure", "--regex", "a", "--out", str(tmp_path)], "--out ", "cannot be written")
    (tmp_path / "half").write_bytes(out.read_bytes()[:-1])
    fails(capsys, ["inspect", str(tmp_path / "half")], f"structure {tmp_path / 'half'}: is damaged: its checksum is wrong")
    fails(
        capsys, ["run", "tiny", "-p", "x", "--structure", str(out), "--choice", "a|b"], "give --structure or --choice, not both"
    )
    fails(capsys, ["run", "tiny", "-p", "x", "--structure", str(tmp_path)], f"--structure {tmp_path}: cannot be read (Is a dir")
    assert Structure.read(out).choices == ("yes", "no")
    assert GenerateOptions(structure=Structure.read(out), choice_probabilities=True).structure == Structure.read(out)
