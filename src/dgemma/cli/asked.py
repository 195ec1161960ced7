"""What `dgemma run` is asked: a prompt, a conversation, several prompts, or only a template."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dgemma.cli.messages_file import read_conversation
from dgemma.cli.text_file import read_text
from dgemma.core.errors import UsageError
from dgemma.core.messages import Message
from dgemma.core.structure import NOT_FORCED, Structure, forced


@dataclass(frozen=True, kw_only=True)
class Asked:
    """At most one of the first three is there; none where a template needs no prompt."""

    prompt: str | list[int] | None = None
    prompts: list[str] | None = None
    conversation: tuple[Message, ...] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()  # tools of which the answer is to call one


@dataclass(frozen=True, kw_only=True)
class AskedFlags:
    """Where what is asked comes from: one of these, else stdin."""

    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", metavar="TEXT", help="The prompt. Default: read standard input.")
    ] = None
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="The prompt as token ids, used exactly as given.")
    ] = None
    messages: Annotated[
        Path | None,
        typer.Option(
            "--messages",
            metavar="FILE",
            help="A conversation instead of a prompt: a JSON list of messages, or an object with messages and tools.",
        ),
    ] = None
    tool_choice: Annotated[
        str,
        typer.Option(
            "--tool-choice",
            metavar="auto|required|NAME",
            help="Whether the answer must call a tool of --messages, or the tool NAME.",
        ),
    ] = NOT_FORCED
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="One prompt per line of FILE. Each is answered separately, with the same seed."
        ),
    ] = None

    def read(self, *, bare: bool) -> Asked:
        """What they say, else what stdin does; nothing where `bare`, which a template alone may be.

        Raises:
            UsageError: two of them are given, none of them, or one that cannot be read.
        """
        given = {
            "-p": self.prompt,
            "--prompt-ids": self.prompt_ids,
            "--messages": self.messages,
            "--prompts": self.prompts,
        }
        if len(named := [name for name, value in given.items() if value is not None]) > 1:
            raise UsageError(f"give either {named[0]} or {named[1]}, not both")
        if self.messages is not None:
            conversation, tools = read_conversation(self.messages)
            return Asked(conversation=conversation, tools=tools, calls=forced(tools, self.tool_choice))
        if self.tool_choice != NOT_FORCED:
            raise UsageError("--tool-choice needs tools, which --messages gives; give it, or leave --tool-choice out")
        if self.prompts is not None:
            return Asked(prompts=_lines(self.prompts))
        if self.prompt_ids is not None:
            return Asked(prompt=_ids(self.prompt_ids))
        return Asked(prompt=self.prompt if self.prompt is not None or bare else _stdin())


def calling(structure: Structure | None, calls: Sequence[Mapping[str, Any]]) -> Structure | None:
    """Of an answer that is to be one of these calls, if there are any; raises UsageError where it is to be something else."""
    if not calls:
        return structure
    return Structure(calls=calls) if structure is None else replace(structure, calls=calls)


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
