"""Messages of a conversation and declarations of tools, in the form that OpenAI's API and transformers take them, checked.

It knows nothing of templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgemma.core.errors import Param, UsageError

OPENING_ROLES = ("system", "developer")
ROLES = ("system", "developer", "user", "assistant", "tool")
_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "thinking", "reasoning", "reasoning_content")


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that the model asks for; `id` is what the result names in `tool_call_id`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a message holds it."""
        plain: dict[str, Any] = {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return plain if self.id is None else {"id": self.id, **plain}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. `content` is text; a tool's may be an object. `thinking` is dropped once another user's turn follows."""

    role: str
    content: str | dict[str, Any] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    thinking: str = ""


def read_messages(values: object) -> tuple[Message, ...]:
    """Messages of a list of objects with `role` and `content`; raises UsageError naming the message."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise UsageError(Param("messages"), " must be a list of at least one object with role and content")
    messages = tuple(_message(value, f"message {number}") for number, value in enumerate(values, 1))
    for number, message in enumerate(messages):
        if message.role == "tool" and not _follows_call(messages[:number]):
            raise UsageError(f"message {number + 1}: a tool's result must follow the assistant's message with its call")
    return messages


def read_tools(values: object) -> tuple[dict[str, Any], ...]:
    """Declarations `{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`; raises UsageError."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError(Param("tools"), " must be a list of declarations")
    tools = []
    for number, value in enumerate(values, 1):
        function = value.get("function") if isinstance(value, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UsageError(f'tool {number}: must be an object such as {{"type": "function", "function": {{"name": "f"}}}}')
        if not isinstance(function.get("description", ""), str):
            raise UsageError(f"tool {number}: description must be a string")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise UsageError(f"tool {number}: parameters must be an object, a JSON schema")
        _check_schema(parameters or {}, f"tool {number}")
        _check_response(function.get("response"), f"tool {number}")
        tools.append(json.loads(json.dumps(value)) if _is_json(value) else _no_json(f"tool {number}"))
    return tuple(tools)


def _message(value: object, where: str) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: must be an object with role and content")
    if unknown := sorted(set(value) - set(_KEYS)):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; choose from {', '.join(_KEYS)}")
    if (role := value.get("role")) not in ROLES:
        raise UsageError(f"{where}: role {role!r} is unknown; choose one of {', '.join(ROLES)}")
    calls = value.get("tool_calls") or ()
    if calls and (role != "assistant" or isinstance(calls, str) or not isinstance(calls, Sequence)):
        raise UsageError(f"{where}: tool_calls must be a list, in an assistant's message")
    content = value.get("content")
    if content is None and (calls or role == "assistant"):
        content = ""
    if role == "tool" and isinstance(content, Mapping) and _is_json(content):
        content = dict(content)
    elif isinstance(content, Sequence) and not isinstance(content, str) and content:
        content = _joined(content, where)
    elif not isinstance(content, str):
        raise UsageError(f"{where}: content must be a string" + (" or an object" if role == "tool" else ""))
    texts = {key: value.get(key) for key in _KEYS[3:]}
    if wrong := [key for key, text in texts.items() if text is not None and not isinstance(text, str)]:
        raise UsageError(f"{where}: {wrong[0]} must be a string")
    return Message(
        role=str(role),
        content=content,
        tool_calls=tuple(_call(call, where) for call in calls),
        tool_call_id=texts["tool_call_id"],
        name=texts["name"],
        thinking=texts["thinking"] or texts["reasoning"] or texts["reasoning_content"] or "",
    )


def _joined(parts: Sequence[object], where: str) -> str:
    """Text of a content's parts `{"type": "text", "text": …}`, several each trimmed, as Gemma's template joins them."""
    texts: list[str] = []
    for number, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise UsageError(f"{where}: content part {number} has type {kind!r}; only text parts are supported")
        if not isinstance(part, Mapping) or not isinstance(text := part.get("text"), str):
            raise UsageError(f"{where}: text of content part {number} must be a string")
        texts.append(text)
    return texts[0] if len(texts) == 1 else "".join(text.strip() for text in texts)


def _call(value: object, where: str) -> ToolCall:
    """Arguments may be an object, or its JSON text, as OpenAI's API gives them."""
    if isinstance(value, ToolCall):
        return value
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(f'{where}: a tool call must have the form {{"function": {{"name": "f", "arguments": {{}}}}}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping) or not _is_json(arguments):
        raise UsageError(f"{where}: arguments of {function['name']!r} must be an object of JSON values")
    name = value.get("id")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{where}: the id of a tool call must be a string")
    return ToolCall(name=function["name"], arguments=dict(arguments), id=name)


def _follows_call(before: Sequence[Message]) -> bool:
    spoken = next((message for message in reversed(before) if message.role != "tool"), None)
    return spoken is not None and bool(spoken.tool_calls)


def _check_response(response: object, where: str) -> None:
    if response is not None and not isinstance(response, Mapping):
        raise UsageError(f"{where}: response must be an object")
    for key in ("description", "type"):
        if response is not None and not isinstance(response.get(key) or "", str):
            raise UsageError(f"{where}: {key} of the response must be a string")


def _check_schema(schema: Mapping[str, Any], where: str) -> None:
    """What a declaration writes out must have the kinds that JSON schema gives it."""
    for key, kind in (("properties", Mapping), ("items", Mapping), ("required", list | tuple), ("type", str | list | tuple)):
        value = schema.get(key)
        fits = value is None or isinstance(value, kind)
        if key == "type" and isinstance(value, list | tuple):
            fits = bool(value) and all(isinstance(one, str) for one in value)
        if not fits:
            raise UsageError(f"{where}: {key!r} of a schema must be {_KINDS[key]}")
    for value in (schema.get("properties") or {}).values():
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: every property must be an object")
        _check_schema(value, where)
    if schema.get("items"):
        _check_schema(schema["items"], where)


_KINDS = {"properties": "an object", "items": "an object", "required": "a list", "type": "a string, or a list of them"}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _no_json(where: str) -> dict[str, Any]:
    raise UsageError(f"{where}: must hold only JSON values")
