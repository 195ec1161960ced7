"""`dgemma chat`: a conversation, with a line editor on a terminal, and otherwise one message per line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.asked import calling
from dgemma.cli.conversation import COMMANDS, HELP, Conversation
from dgemma.cli.generation import GenerationFlags
from dgemma.cli.groups import grouped
from dgemma.cli.messages_file import read_declarations
from dgemma.cli.options import BundleArgument, EngineOption, ThreadsOption
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.profile import read_profile
from dgemma.core.structure import NOT_FORCED, forced
from dgemma.runtime.session import Session

EDITING = "Enter sends, Alt+Enter starts a new line, the arrow keys bring back earlier lines, Ctrl-C clears the line."
DEFAULT = GenerateOptions(continue_=True)


@grouped
def run(
    bundle: BundleArgument,
    *,
    tools: Annotated[
        Path | None,
        typer.Option(
            "--tools", metavar="FILE", help="A JSON list of tools that the model may call. Calls are shown; nothing runs them."
        ),
    ] = None,
    tool_choice: Annotated[
        str,
        typer.Option(
            "--tool-choice",
            metavar="auto|required|NAME",
            help="Whether every answer must call a tool of --tools, or the tool NAME.",
        ),
    ] = NOT_FORCED,
    engine: EngineOption = None,
    generation: GenerationFlags,
    threads: ThreadsOption = None,
) -> None:
    if tools is None and tool_choice != NOT_FORCED:
        raise UsageError("--tool-choice needs --tools; give it, or leave --tool-choice out")
    profile = read_profile(generation.profile)
    declared = () if tools is None else read_declarations(tools)
    options = generation.options(profile, DEFAULT)
    options = replace(options, tools=declared, structure=calling(options.structure, forced(declared, tool_choice)))
    with Session.load(bundle, engine=engine, threads=threads) as session:
        profile.warn_unless_for(session.bundle.digest)
        if session.tokenizer is None or session.manifest.chat is None:
            raise UsageError(f"{bundle}: has no chat template; use `dgemma run --raw` or --prompt-ids")
        talk = Conversation(session, options)
        talk.check(options)
        interactive = sys.stdin.isatty()
        if interactive:
            print(f"{HELP}\n{EDITING}", file=sys.stderr)
        if talk.single:
            print("this model knows only single turns, so each message starts afresh", file=sys.stderr)
        read = _editor() if interactive else _read
        while (line := read()) is not None:
            line = line.strip()
            if line in ("/exit", "/quit"):
                return
            try:
                if line.startswith("/"):
                    talk.command(line)
                elif line:
                    talk.answer(line)
            except KeyboardInterrupt:  # before an answer began, or after it
                print("interrupted; /exit or Ctrl-D ends the chat", file=sys.stderr)


def _editor() -> Callable[[], str | None]:
    """Reads a message with history, several lines, and completed commands; None at Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        "> ",
        multiline=True,
        key_bindings=keys,
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_while_typing=False,
        prompt_continuation="  ",
    )

    def read() -> str | None:
        while True:
            try:
                return session.prompt(handle_sigint=False)  # a terminal sends Ctrl-C as a key
            except KeyboardInterrupt:  # the line is gone, and that is all
                print("/exit or Ctrl-D ends the chat", file=sys.stderr)
            except EOFError:
                return None

    return read


def _read() -> str | None:
    """The next line of stdin; None at its end."""
    try:
        return input()
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text; convert it first") from None
