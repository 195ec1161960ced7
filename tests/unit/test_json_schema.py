"""JSON schemas as expressions: what they match is valid JSON of the schema; what they cannot keep is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from walks import walks

from dgemma.core.errors import UsageError
from dgemma.core.structure import Structure
from dgemma.runtime.structure import json_values
from dgemma.runtime.structure.languages import byte_automaton, expression

SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "benchmarks/studies/schemas.json").read_text())
EXAMPLES = {
    "person": '{"name": "Paula", "city": "Zurich", "age": 30}',
    "address": '{"street":"A \\"b\\"", "number":12,"postcode": "01234", "city": "Zürich", "country": "CH"}',
    "optional_fields": '{"id": 3, "score": -1.5e3}',
    "all_optional": '{"south": true, "west": false}',
    "any_of": '{"answer": ["a","b"]}',
    "tagged_union": '{"kind": "square", "side": 0.5}',
    "word_counts": '{"a": 1, "b": 20}',
    "point": "[1, -2.5]",
    "mixed_enum": '["a", 1]',
    "tags": '["x"]',
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_schema_matches_is_valid(name: str) -> None:
    structure = Structure(json_schema=SCHEMAS[name])
    automaton, pattern = byte_automaton(structure), re.compile(expression(structure))
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=checker)
    for text in map(bytes.decode, walks(automaton, 25)):
        validator.validate(json.loads(text))
        assert pattern.fullmatch(text)
    if name in EXAMPLES:
        assert automaton.matches(EXAMPLES[name]) and not automaton.matches(EXAMPLES[name] + " ")


def test_a_text_that_is_not_valid_is_no_match() -> None:
    """The control of the test above."""
    automaton = byte_automaton(Structure(json_schema=SCHEMAS["person"]))
    right = EXAMPLES["person"]
    assert automaton.matches(right)
    for text in (right.replace("30", "131"), right.replace('"city": "Zurich", ', ""), right.replace("au", 'a"u')):
        assert not automaton.matches(text)


REFUSED: list[tuple[Any, str]] = [
    ({}, "# has no type"),
    (True, "# is true"),
    ({"type": "any"}, '#/type "any" is unknown'),
    ({"type": "object", "properties": {"a": {}}}, "#/properties/a has no type"),
    ({"type": "object"}, "does not describe its properties"),
    ({"type": "object", "properties": {}, "required": ["x"]}, "names 'x', which is not a property"),
    ({"type": "object", "properties": {}, "minProperties": 1}, "#/minProperties is not supported for object"),
    ({"type": "array"}, "does not describe its items"),
    ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "#/uniqueItems is not supported"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, "minItems above maxItems"),
    ({"type": "array", "prefixItems": [{"type": "null"}]}, 'needs "items": false'),
    ({"type": "string", "maxLength": -1}, "#/maxLength -1 must be an integer"),
    ({"type": "string", "maxLength": 20001}, "#/maxLength 20001 must be an integer from 0 to 20000"),
    ({"type": "string", "format": ["date"]}, "#/format \"['date']\" is not supported; choose from date"),
    ({"type": "object", "properties": {"a\nb": {"type": "x"}}}, '#/properties/a b/type "x" is unknown'),
    ({"type": "array", "prefixItems": [{"type": "null"}], "items": False, "maxItems": 0}, "exactly as many items"),
    ({"type": "string", "format": "regex"}, "#/format 'regex' is not supported; choose from date"),
    ({"type": "string", "pattern": "a"}, "must begin with ^ and end with $"),
    ({"type": "string", "pattern": "^.*$"}, "may match a quote"),
    ({"type": "string", "pattern": r"^\p{L}$"}, r"has \p"),
    ({"type": "string", "pattern": "^(?=a)a$"}, "has (?="),
    ({"type": "string", "pattern": "^[a[b]$"}, "inside a class"),
    ({"type": "string", "pattern": "^[a&&b]$"}, "inside a class"),
    ({"type": "string", "pattern": "^a$", "maxLength": 3}, "pattern and a length"),
    ({"type": "integer", "multipleOf": 2}, "#/multipleOf is not supported"),
    ({"type": "integer", "minimum": 0.5}, "must be a whole number"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum above its maximum"),
    ({"type": "number", "minimum": -1}, "a number can have a minimum of 0 or more"),
    ({"not": {"type": "null"}}, "#/not is not supported"),
    ({"allOf": [{"type": "null"}, {"type": "null"}]}, "only one is supported"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "use anyOf"),
    ({"anyOf": []}, "must be a list of schemas"),
    ({"enum": []}, "allows no value"),
    ({"type": "string", "enum": [1]}, "allows no value"),
    ({"enum": ["a"], "minLength": 1}, "#/minLength is not supported beside enum"),
    ({"$ref": "http://x/y"}, "is not in this file"),
    ({"$ref": "#/$defs/a"}, "points to nothing"),
    ({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "refers to itself"),
    ({"type": "string", "nullable": True}, "#/nullable is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "says"), REFUSED, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_what_cannot_be_kept_is_refused_by_name(schema: Any, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        expression(Structure(json_schema=schema))
    assert str(caught.value).startswith("json_schema ") and "\n" not in str(caught.value)


def test_deep_schemas_are_refused() -> None:
    schema: Any = {"type": "null"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    with pytest.raises(UsageError, match="deep"):
        expression(Structure(json_schema=schema))


@pytest.mark.parametrize(("low", "high"), [(0, 9), (7, 7), (18, 130), (95, 1203), (None, -3), (-12, 5), (40, None), (-7, None)])
def test_integers_in_bounds(low: int | None, high: int | None) -> None:
    pattern = re.compile(json_values.integer(low, high, "here"))
    for value in range(-1500, 1500):
        within = (low is None or value >= low) and (high is None or value <= high)
        assert bool(pattern.fullmatch(str(value))) == within, value


@pytest.mark.parametrize("excludes", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("low", "high"), [(0, None), (0, 5), (3, 4), (9, 12), (2, None)])
def test_numbers_in_bounds(low: int, high: int | None, excludes: tuple[bool, bool]) -> None:
    pattern = re.compile(json_values.number(low, high, excludes, "here"))
    for hundredths in range(0, 1500, 5):
        for text in {f"{hundredths / 100:.2f}", str(hundredths / 100), str(hundredths // 100)}:
            value = float(text)
            above = value > low if excludes[0] else value >= low
            below = high is None or (value < high if excludes[1] else value <= high)
            assert bool(pattern.fullmatch(text)) == (above and below), text


def test_dates_are_days_that_there_are() -> None:
    pattern = re.compile(json_values.FORMATS["date"])
    checker = jsonschema.FormatChecker(["date"])
    for year in (1899, 1900, 1996, 2000, 2023, 2024, 2100):
        for month in range(14):
            for day in range(33):
                text = f"{year}-{month:02}-{day:02}"
                assert bool(pattern.fullmatch(text)) == checker.conforms(text, "date"), text


def test_literals_match_themselves() -> None:
    text = "".join(map(chr, range(32, 127))) + "é😀\n"
    assert re.fullmatch(json_values.literal(text), text)
    assert byte_automaton(Structure(choices=[text, "other"])).matches(text)
