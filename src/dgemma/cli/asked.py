"""What `dgemma run` is asked: a prompt, a conversation, several prompts, or a template alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgemma.cli.messages_file import read_conversation
from dgemma.cli.text_file import read_text
from dgemma.core.errors import UsageError
from dgemma.core.messages import Message


@dataclass(frozen=True, kw_only=True)
class Asked:
    """At most one of the first three is there; none where a template needs no prompt."""

    prompt: str | list[int] | None = None
    prompts: list[str] | None = None
    conversation: tuple[Message, ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()


def read(prompt: str | None, prompt_ids: str | None, messages: Path | None, prompts: Path | None, *, bare: bool) -> Asked:
    """What the four options say, else what stdin does; nothing where `bare`, which a template alone may be.

    Raises:
        UsageError: two of them are given, none of them, or one that cannot be read.
    """
    given = {"-p": prompt, "--prompt-ids": prompt_ids, "--messages": messages, "--prompts": prompts}
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise UsageError(f"give either {named[0]} or {named[1]}, not both")
    if messages is not None:
        conversation, tools = read_conversation(messages)
        return Asked(conversation=conversation, tools=tools)
    if prompts is not None:
        return Asked(prompts=_lines(prompts))
    if prompt_ids is not None:
        return Asked(prompt=_ids(prompt_ids))
    return Asked(prompt=prompt if prompt is not None or bare else _stdin())


def _lines(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    lines = [line.strip() for line in read_text("--prompts", path).splitlines()]
    if not any(lines):
        raise UsageError(f"--prompts {path}: has no prompt; write one on each line")
    return [line for line in lines if line]


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--prompt-ids {text[:60]!r}: must be integers separated by commas, such as 1,2,3") from None


def _stdin() -> str:
    if sys.stdin.isatty():
        raise UsageError("no prompt; give -p TEXT, --prompt-ids, or text on stdin")
    try:
        text = sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text; convert it first") from None
    if not text:
        raise UsageError("no prompt: stdin is empty; give -p TEXT, --prompt-ids, or text on stdin")
    return text
