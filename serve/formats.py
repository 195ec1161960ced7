"""What an answer may be, as requests say it: text, a JSON object, or JSON of a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from dgemma.serve.bodies import Body

_PLAIN: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_FLAT: dict[str, Any] = {
    "anyOf": [_PLAIN, {"type": "array", "items": _PLAIN}, {"type": "object", "additionalProperties": _PLAIN}]
}
ANY_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": _FLAT}  # as deep as an automaton goes


class Plain(Body):
    """Any text."""

    type: Literal["text"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        return None


class AnyObject(Body):
    """Any JSON object whose values are plain, or arrays or objects of plain values."""

    type: Literal["json_object"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        return ANY_OBJECT


class NamedSchema(Body):
    """A schema, which is kept whether or not it is strict."""

    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class OfSchema(Body):
    """`response_format` of chat completions."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def schema_of_answer(self) -> dict[str, Any] | None:
        return self.json_schema.schema_


class OfResponse(NamedSchema):
    """`text.format` of responses."""

    type: Literal["json_schema"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        return self.schema_


ChatFormat = Annotated[Plain | AnyObject | OfSchema, Field(discriminator="type")]
TextFormat = Annotated[Plain | AnyObject | OfResponse, Field(discriminator="type")]


class TextOptions(Body):
    """`text` of responses."""

    format: TextFormat | None = None
