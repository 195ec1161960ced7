"""What the site takes from the program instead of from a page: the command line's reference, and pictures of other folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dgemma.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
# Pictures of other folders, with the step out of docs/ that a link in the repository needs and the site has not.
_OUTSIDE = re.compile(r"\.\./((?:\.\./)*)((?:benchmarks|android_demo)/[\w/-]+\.png)")
_COMMANDS = "<!-- commands -->"
# What a page says only to readers of the repository, where the generated part is missing.
_REPOSITORY = re.compile(r"<!-- repository -->.*?<!-- /repository -->\n*", re.DOTALL)
EXIT_STATUS = """\
Exit status: 0 success; 1 a check failed; 2 bad input (one line on stderr names the file or option and says what to do); 130
interrupted; 143 terminated."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pages are written for a reader of the repository; the site has pictures beside them and the commands in their place."""
    markdown = _REPOSITORY.sub("", markdown)
    for _, name in _OUTSIDE.findall(markdown):
        if (ROOT / name).is_file() and not files.get_file_from_path(name):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    found = _OUTSIDE.sub(r"\1\2", markdown)
    return found.replace(_COMMANDS, command_line()) if _COMMANDS in found else found


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Readers' browsers fetch nothing from another server."""
    if found := re.search(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', output):
        raise PluginError(f"{page.file.src_uri}: {found[0]} is fetched from elsewhere; put the file under docs/assets")
    return output


def command_line() -> str:
    """Every command with its arguments and options, as the program declares them."""
    parts = [EXIT_STATUS]
    for name, (module, text) in COMMANDS.items():
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name, help=text)(import_module(module).run)
        parts += list(_command(name, text, typer.main.get_command(app)))
    return "\n\n".join(parts)


def _command(name: str, text: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    yield f"## dgemma {name}"
    yield text
    yield f"```\ndgemma {name} {' '.join([*(_metavar(p) for p in arguments), '[OPTIONS]'])}\n```"
    if rows := [(f"`{_metavar(p)}`", _text(p)) for p in arguments]:
        yield _table("argument", rows)
    if rows := [(_names(p), _text(p)) for p in options]:
        yield _table("option", rows)


def _metavar(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).upper().strip("{}[]")
    return name if parameter.required else f"[{name}]"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.secondary_opts:
        return names + " / " + ", ".join(f"`{name}`" for name in option.secondary_opts)
    return names if option.is_flag else f"{names} `{option.metavar or option.name.upper()}`".replace("|", "\\|")


def _text(parameter: Any) -> str:
    notes = ["required"] if parameter.required and parameter.param_type_name == "option" else []
    default = parameter.default
    if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
        notes.append(f"default `{default}`")
    ending = f" ({', '.join(notes)})" if notes else ""
    return f"{parameter.help or ''}{ending}".replace("|", "\\|")


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)])
