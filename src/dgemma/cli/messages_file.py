"""A conversation in a file: a JSON list of messages, or an object with messages and tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.core.errors import UsageError
from dgemma.core.messages import Message, read_messages, read_tools


def read_conversation(path: Path, option: str = "--messages") -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """Messages and tools of a file; raises UsageError, which names the option."""
    values = _json(path, option, "a list of objects with role and content")
    tools: object = ()
    if isinstance(values, dict):
        if unknown := sorted(values.keys() - {"messages", "tools"}):
            raise UsageError(f"{option} {path}: unknown key {unknown[0]!r}; an object has messages and tools")
        tools = values.get("tools") or ()
        values = values.get("messages")
    try:
        return read_messages(values), read_tools(tools)
    except UsageError as error:
        raise UsageError(f"{option} {path}: ", *error.parts) from None


def read_declarations(path: Path) -> tuple[dict[str, Any], ...]:
    """Tools of the file of `--tools`; raises UsageError."""
    values = _json(path, "--tools", "a list of declarations")
    try:
        return read_tools(values)
    except UsageError as error:
        raise UsageError(f"--tools {path}: ", *error.parts) from None


def _json(path: Path, option: str, form: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror or error}); name a JSON file") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{option} {path}: is not JSON in UTF-8; write {form}") from None


def write_conversation(path: Path, messages: Sequence[Message]) -> None:
    """Write messages as `read_conversation` reads them, whole or not at all; raises UsageError."""
    from dgemma.benchmarks.report import write_whole

    turns = [
        {"role": m.role, "content": m.content, **({"tool_calls": [c.to_dict() for c in m.tool_calls]} if m.tool_calls else {})}
        for m in messages
    ]
    write_whole(path, (json.dumps({"messages": turns}, indent=1, ensure_ascii=False) + "\n").encode(), "/save")
