"""`dgemma completion`: a shell script with the commands and options of this version; completing starts no Python."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from dgemma.core.errors import UsageError

SHELLS = {
    "bash": 'eval "$(dgemma completion bash)"',
    "zsh": 'eval "$(dgemma completion zsh)"',
    "fish": "dgemma completion fish | source",
}


def run(
    shell: Annotated[
        str, typer.Argument(metavar="bash|zsh|fish", help='The shell. Put `eval "$(dgemma completion bash)"` into ~/.bashrc.')
    ],
) -> None:
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell[:20]!r}; choose one of {', '.join(SHELLS)}")
    print(fish(options()) if shell == "fish" else bash(options(), zsh=shell == "zsh"))


def options() -> dict[str, tuple[str, dict[str, str]]]:
    """Command → its line of help, and its options with theirs; a command whose packages are not installed has none."""
    from dgemma.cli import COMMANDS

    found = {}
    for name, (module, text) in COMMANDS.items():
        try:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(import_module(module).run)
            parameters = typer.main.get_command(app).params
        except ModuleNotFoundError:
            parameters = []
        named = {
            o: getattr(p, "help", None) or "" for p in parameters for o in (*p.opts, *p.secondary_opts) if o.startswith("-")
        }
        found[name] = (text, {**named, "--help": "Show this message and exit."})
    return found


def bash(commands: dict[str, tuple[str, dict[str, str]]], *, zsh: bool = False) -> str:
    """For bash, and for zsh with its emulation of bash's completion; words that are no options complete as files."""
    cases = "\n".join(f'    {name}) words="{" ".join(named)}" ;;' for name, (_, named) in commands.items())
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{head}_dgemma() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(commands)} -v --help" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=()
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _dgemma dgemma"""


def fish(commands: dict[str, tuple[str, dict[str, str]]]) -> str:
    """For fish, with help beside each word."""
    lines = ["complete -c dgemma -e"]
    for name, (text, named) in commands.items():
        lines.append(f"complete -c dgemma -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
        for option, what in named.items():
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"complete -c dgemma -n '__fish_seen_subcommand_from {name}' {kind} -d {_quoted(what)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
