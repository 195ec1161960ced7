"""`dgemma structure`: compile a structure once, for programs that cannot compile it, such as apps with the Java library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.generation import LanguageFlags
from dgemma.cli.groups import grouped
from dgemma.cli.messages_file import read_declarations
from dgemma.core.errors import TokenizerError, UsageError
from dgemma.core.shipped import bundle_path
from dgemma.core.structure import NOT_FORCED, REQUIRED, Structure, forced


@grouped
def run(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="A bundle that is to use the structure: --tools needs it, and the limits of its tokenizer are checked.",
            show_default=False,
            parser=bundle_path,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    language: LanguageFlags,
    tools: Annotated[
        Path | None,
        typer.Option("--tools", metavar="FILE", help="Give a call of a tool of FILE, a JSON list of declarations."),
    ] = None,
    tool_choice: Annotated[
        str, typer.Option("--tool-choice", metavar="required|NAME", help="Which tool of --tools is called: any, or NAME.")
    ] = REQUIRED,
) -> None:
    from dgemma.benchmarks.report import write_whole
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.structure.compiled import compile_structure
    from dgemma.runtime.structure.languages import Languages
    from dgemma.runtime.tokenizer import load_tokenizer

    if tools is not None and bundle is None:
        raise UsageError("--tools needs the bundle whose model is to call them; give BUNDLE")
    structure = _asked(language, tools, tool_choice)
    form = size = tokenizer = None
    if bundle is not None:
        opened = Bundle.open(bundle, by_record=True)
        chat, size, tokenizer = opened.manifest.chat, opened.manifest.model.vocab_size, load_tokenizer(opened)
        form = chat.roles.tools if chat is not None and chat.roles is not None else None
        if tokenizer is None:
            raise TokenizerError(f"{bundle}: has no tokenizer, which structure needs; name another bundle, or none")
    compiled = compile_structure(structure, form)
    if tokenizer is not None and size is not None:
        Languages(tokenizer, size, form).compiled(compiled)
    assert compiled.compiled is not None
    write_whole(out, compiled.compiled.data, "--out")
    print(f"{out}: {compiled.compiled}")


def _asked(language: LanguageFlags, tools: Path | None, tool_choice: str) -> Structure:
    """Raises UsageError where that is nothing, or two things."""
    structure = language.structure()
    if tools is None:
        if tool_choice != REQUIRED:
            raise UsageError("--tool-choice needs --tools; give it, or leave --tool-choice out")
        if structure is None:
            raise UsageError("give one of --regex, --json-schema, --grammar, --choice and --tools")
        return structure
    if structure is not None:
        raise UsageError("--tools makes the answer a call; give nothing else that says what it is")
    if tool_choice == NOT_FORCED:
        raise UsageError(f"--tool-choice {NOT_FORCED} forces no call; give {REQUIRED}, or the name of a tool")
    return Structure(calls=forced(read_declarations(tools), tool_choice))
