"""What is served, as OpenAPI 3.1: request schemas come from the models that check the bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from dgemma import __version__
from dgemma.serve.bodies import Body

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_USAGE = {
    "type": "object",
    "required": ["total_tokens", "steps", "position_forwards", "seed"],
    "properties": {
        name: {"type": "integer", "minimum": 0}
        for name in ("prompt_tokens", "completion_tokens", "total_tokens", "steps", "canvases", "position_forwards", "seed")
    },
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "dgemma"],
    "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "dgemma": {"type": "object"}},
}
_STATUSES = {
    "400": "Something in the request cannot be used.",
    "401": "The API key is missing or wrong.",
    "403": "The Host or the Origin is refused.",
    "404": "There is no such model.",
    "405": "The method is not allowed here.",
    "408": "The request did not arrive in time.",
    "413": "The body is too long.",
    "415": "The body is not JSON.",
    "429": "Too many requests are waiting; Retry-After says when to retry.",
    "500": "The server failed.",
    "503": "Not available now; Retry-After says when to retry.",
    "504": "The answer took too long.",
}


def _answer(kind: str, *required: str, **properties: Any) -> dict[str, Any]:
    names = ["id", "object", "model", "usage", *required]
    return {
        "type": "object",
        "required": names,
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "model": {"type": "string"},
            "usage": {"$ref": "#/components/schemas/Usage"},
            **properties,
        },
    }


_CHOICES = {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["index", "finish_reason"]}}
_ANSWERS = {
    "/v1/chat/completions": _answer("chat.completion", "choices", choices=_CHOICES),
    "/v1/completions": _answer("text_completion", "choices", choices=_CHOICES),
    "/v1/responses": _answer("response", "output", "status", output={"type": "array"}, status={"type": "string"}),
}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors(*statuses: str) -> dict[str, Any]:
    error = _json({"$ref": "#/components/schemas/Error"})
    return {status: {"description": _STATUSES[status], "content": error} for status in statuses}


def document(bodies: Mapping[str, type[Body]], models: Sequence[str]) -> dict[str, Any]:
    """Of a server whose endpoints take these bodies, for these models."""
    refs, schemas = models_json_schema(
        [(body, "validation") for body in bodies.values()], ref_template="#/components/schemas/{model}"
    )
    for body in bodies.values():
        schema = schemas["$defs"][body.__name__]
        schema["properties"]["model"]["enum"] = list(models)
        for name in schema["properties"].keys() - set(schema["required"]):  # null is as good as nothing
            schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}
    paths: dict[str, Any] = {}
    for path, body in bodies.items():
        stream = {"text/event-stream": {"schema": {"type": "string"}}}
        paths[path] = {
            "post": {
                "operationId": path.removeprefix("/v1/").replace("/", "_"),
                "summary": (body.__doc__ or path).splitlines()[0],
                "requestBody": {"required": True, "content": _json(refs[(body, "validation")])},
                "responses": {
                    "200": {"description": "The answer.", "content": {**_json(_ANSWERS[path]), **stream}},
                    **_errors(*_STATUSES),
                },
            }
        }
    listed = {"type": "object", "required": ["object", "data"], "properties": {"data": {"type": "array", "items": _MODEL}}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    for path, schema, errors in (
        ("/v1/models", listed, ("401", "403", "405")),
        ("/v1/models/{name}", _MODEL, ("401", "403", "404", "405")),
        ("/health", {"type": "object", "required": ["status"]}, ("403", "405", "503")),
    ):
        found = {"200": {"description": "What there is.", "content": _json(schema)}, **_errors(*errors)}
        paths[path] = {"get": {"operationId": path.strip("/").replace("/", "_"), "responses": found}}
        if "{" in path:
            paths[path]["get"]["parameters"] = [name]
    return {
        "openapi": "3.1.0",
        "info": {"title": "dgemma", "version": __version__, "description": "OpenAI's API over text-diffusion models."},
        "paths": paths,
        "components": {
            "schemas": {**schemas["$defs"], "Error": _ERROR, "Usage": _USAGE},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
