"""A forced call is read as one call of an offered tool, whose arguments follow their schema, whatever the model would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import released_folder
from fake_bundle import BOS, START, N
from fake_structured import structured_session
from speaking import CALL, CALLED, QUOTE, STOP, Speaker, _ids, write_speaking, write_text
from structures import CLOCK, FORM, ODD, RESET, TOOLS, tool
from walks import walks

from dgemma.core import gemma_tools
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.structure import Structure
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session
from dgemma.runtime.structure import markers
from dgemma.runtime.structure.languages import byte_automaton

ALL: dict[str, Any] = json.loads((Path(__file__).parents[2] / "benchmarks/studies/schemas.json").read_text())
NOT_IN_CALLS = ('"type": [', '"additionalProperties": {')  # what templates do not declare, and keys of any name
OBJECTS = {
    name: schema
    for name, schema in ALL.items()
    if schema.get("type") == "object" and "properties" in schema and not any(one in json.dumps(schema) for one in NOT_IN_CALLS)
}


def read(said: bytes) -> tuple[str, dict[str, Any]]:
    begin, end, quote = (bytes([markers.byte(number)]) for number in range(3))
    assert said[:1] == begin and said[-1:] == end and begin not in said[1:] and end not in said[:-1]
    return gemma_tools.read_call([part.decode() for part in said[1:-1].split(quote)])


@pytest.mark.parametrize("name", [*OBJECTS, *ODD])
def test_what_is_written_is_read_as_a_call_that_follows_the_schema(name: str) -> None:
    schema = {**OBJECTS, **ODD}[name]
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    automaton = byte_automaton(Structure(calls=[tool("f", schema), RESET]), tools=FORM)
    called = set()
    for said in walks(automaton, 25):
        function, arguments = read(said)
        called.add(function)
        if function == "f":
            validator.validate(arguments)
            numbers = [v for v in arguments.values() if isinstance(v, int | float)]
            assert all(len(repr(number)) < 40 for number in numbers)
        else:
            assert (function, arguments) == ("reset", {})
    assert called == {"f", "reset"}


def test_keys_are_in_the_order_of_the_template() -> None:
    automaton = byte_automaton(Structure(calls=[tool("f", ODD["words"])]), tools=FORM)
    for said in walks(automaton, 5):
        assert list(read(said)[1]) == ["code", "Kind", "none", "text"]


def test_text_can_write_no_marker() -> None:
    """The control: neither the characters that stand for markers in an expression, nor what JSON escapes, ends a text."""
    automaton = byte_automaton(Structure(calls=[CLOCK]), tools=FORM)
    begin, end, quote = (bytes([markers.byte(number)]) for number in range(3))
    assert automaton.accepting[automaton.after(begin + b"call:clock{place:" + quote + b'a"\\,}' + quote + b"}" + end)]
    inside = automaton.after(begin + b"call:clock{place:" + quote)
    for number in range(3):
        assert automaton.after(markers.character(number).encode(), inside) == automaton.states
    assert automaton.after(b'"', automaton.after(begin + b"call:clock{place:")) == automaton.states


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            "'f': #/additionalProperties is not supported in a call",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "format": "hostname"}}},
            "'f': #/properties/a/format 'hostname'",
        ),
        ({"type": "object", "properties": {"a": {"type": "string", "contains": 1}}}, "'f': #/properties/a/contains is not"),
        ({"type": "object", "properties": {"a:b": {"type": "string"}}}, "'f': #/properties/a:b cannot stand in a call"),
        ({"type": "object", "properties": {"a": {"const": {"}": 1}}}}, "'f': #/properties/a: the value"),
        ({"type": "object", "properties": {"a": {"const": "\U0010fff0"}}}, "'f': #/properties/a: the value"),
        ({"type": "object", "properties": {"a": {"const": 10**50}}}, "'f': #/properties/a: the value"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[\U0010fff0-\U0010ffff]$"}}},
            "may match a character of Unicode's plane 16",
        ),
    ],
)
def test_what_no_call_can_follow_is_refused_by_name(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        byte_automaton(Structure(calls=[tool("f", parameters)]), tools=FORM)
    assert says in str(caught.value) and caught.value.param == "tools" and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("forced")
    (folder / "text").mkdir()
    return Bundle.open(write_speaking(folder / "b", write_text(folder / "text", released_folder.template())))


@pytest.mark.parametrize("wildness", [0.0, 6.0])
def test_an_answer_is_a_call(bundle: Bundle, wildness: float) -> None:
    session = Session(bundle, Speaker(bundle, _ids("I would rather talk about the weather."), stop=STOP, wildness=wildness))
    schemas = {one["function"]["name"]: one["function"].get("parameters", {}) for one in TOOLS}
    for seed, more in enumerate(({}, {"adaptive": False}, {"max_steps": 1}, {"temperature": 0}, {"system": "Be brief."})):
        for choice in ("required", "clock", "count", "reset"):
            result = session.generate("How late is it?", tools=TOOLS, tool_choice=choice, seed=seed, **more)
            (call,) = result.tool_calls
            assert result.text == "" and result.warnings == () and result.stop_reason == "stop"
            assert call.name == choice or choice == "required"
            jsonschema.validate(call.arguments, schemas[call.name])
            assert result.tokens[0] == CALL and result.tokens[-1] == CALLED


def test_a_call_that_the_model_would_make_stays_as_it_is(bundle: Bundle) -> None:
    said = [CALL, *_ids("call:clock{place:"), QUOTE, *_ids("Rome"), QUOTE, *_ids("}"), CALLED]
    session = Session(bundle, Speaker(bundle, said, stop=STOP))
    free = session.generate("How late is it?", tools=TOOLS)
    forced = session.generate("How late is it?", tools=TOOLS, tool_choice="required")
    assert free.tokens == forced.tokens == tuple(said) and len(said) > N
    assert session.sample("How late is it?", n=2, tools=TOOLS, tool_choice="clock").results[1].tool_calls == forced.tool_calls


def test_an_unforced_answer_calls_nothing(bundle: Bundle) -> None:
    """The control: the same model calls nothing where nothing makes it."""
    session = Session(bundle, Speaker(bundle, _ids("No."), stop=STOP))
    assert session.generate("How late is it?", tools=TOOLS).tool_calls == ()
    assert session.generate("How late is it?", tools=TOOLS, tool_choice="auto").text == "No."


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "required"}, "tool_choice 'required' needs tools"),
        ({"tool_choice": "horn", "tools": TOOLS}, "tool_choice 'horn' is no tool; choose one of auto, required, clock"),
        ({"tool_choice": "required", "tools": TOOLS, "regex": "a"}, "tool_choice makes the answer a call; leave regex out"),
        ({"tool_choice": "required", "tools": TOOLS, "think": True}, "leave think out"),
        ({"tool_choice": "required", "tools": TOOLS, "stop": "x"}, "leave stop out"),
        ({"tool_choice": "required", "tools": TOOLS, "loop": "graph"}, "tool_choice needs decoder diffusion and loop host"),
        ({"tool_choice": "required", "tools": TOOLS, "max_new_tokens": 3}, "max_new_tokens 3 is less than the"),
        ({"tool_choice": "required", "tools": [tool("a b")]}, "tools 'a b': the name 'a b' cannot stand in a call"),
    ],
)
def test_what_a_forced_call_cannot_go_with(bundle: Bundle, options: dict[str, Any], says: str) -> None:
    session = Session(bundle, Speaker(bundle, [], stop=STOP))
    with pytest.raises(UsageError, match=says):
        session.generate("How late is it?", **options)


def test_a_model_without_tools_cannot_be_made_to_call(tmp_path: Path) -> None:
    session = structured_session(tmp_path / "b")
    with pytest.raises(UsageError, match="does not support tools"):
        session.generate("x", tools=TOOLS, tool_choice="required")
    with pytest.raises(UsageError, match="does not support tools"):
        session.generate([BOS, 50, START], GenerateOptions(structure=Structure(calls=TOOLS)))
