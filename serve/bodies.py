"""JSON bodies: how they are read, and how a refusal names what is wrong.

A parameter that OpenAI's API has and this server has not is refused by name, unless its value asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dgemma.serve.errors import ApiError

NEVER = "is not supported; leave it out"

# Parameter → values that ask for nothing, and what is said of others. None always asks for nothing.
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0,), NEVER),
    "presence_penalty": ((0,), NEVER),
    "logprobs": ((False,), NEVER),
    "top_logprobs": ((0,), "is not supported here; /v1/chat/completions has it"),
    "response_format": (({"type": "text"},), "is not supported here; give text.format (responses), or regex, grammar, choices"),
    "reasoning_effort": (("none",), "has no levels here: thinking is on or off; give think: true or false instead"),
    "reasoning": (({}, {"effort": "none"}), "has no levels here: thinking is on or off; give think: true or false instead"),
    "modalities": ((["text"],), NEVER),
    "service_tier": (("auto", "default"), NEVER),
    "store": ((False,), "is not supported: nothing is stored; leave it out"),
    "background": ((False,), NEVER),
    "truncation": (("disabled",), "is not supported: nothing is dropped silently; leave it out"),
    "include": (([],), NEVER),
    "echo": ((False,), NEVER),
    "best_of": ((1,), NEVER),
    **dict.fromkeys((
        "audio", "prediction", "web_search_options", "verbosity", "functions", "function_call", "suffix",
        "previous_response_id", "conversation", "prompt", "max_tool_calls", "prompt_cache_key", "safety_identifier",
        "moderation", "prompt_cache_retention",
    ), ((), NEVER)),
}  # fmt: skip

_TAGS = {  # whose kinds pydantic names as parts of a path
    "response_format": ("text", "json_object", "json_schema"),
    "format": ("text", "json_object", "json_schema"),
    "tool_choice": ("function", "allowed_tools"),
}


class Body(BaseModel):
    """Objects whose keys are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


R = TypeVar("R", bound=BaseModel)


def read_json(data: bytes) -> dict[str, Any]:
    """An object. Raises ApiError."""
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON in UTF-8", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


def read(body: Mapping[str, Any], kind: type[R]) -> R:
    """A body, checked. Raises ApiError 400 naming the parameter."""
    given = {}
    for name, value in body.items():
        if value is None:
            continue
        if name in _UNSUPPORTED and name not in kind.model_fields:
            nothing, why = _UNSUPPORTED[name]
            if not any(_same(value, one) for one in nothing):
                raise ApiError(400, f"{name} {why}", param=name, code="unsupported_parameter")
            continue
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _refusal(error: ValidationError) -> ApiError:
    """The error that lies deepest: of a union, the branch that was meant; among several, a kind that is another."""
    errors = error.errors(include_url=False, include_input=False)
    found = max(errors, key=lambda one: (len(one["loc"]), one["type"] == "literal_error"))
    names = [part for part in found["loc"] if isinstance(part, int) or part.isidentifier()]
    kinds = ("str", "int", "float", "TextPart", "Table", "literal", "list")
    tags = [i for i, part in enumerate(names[1:], 1) if part in _TAGS.get(str(names[i - 1]), ())][:1]
    param = ".".join(str(part) for i, part in enumerate(names) if part not in kinds and i not in tags)[:200]
    if found["type"] == "extra_forbidden":
        return ApiError(
            400,
            f"{param or 'a parameter'} is not a parameter here; leave it out",
            param=param or None,
            code="unknown_parameter",
        )
    if found["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param, code="missing_parameter")
    text = str(found["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {text[:1].lower()}{text[1:]}"[:500], param=param or None, code="invalid_value")
