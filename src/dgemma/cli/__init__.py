"""The command line. `dgemma --help` imports no command; a command's module is imported when the command is used.

Each module in `COMMANDS` has a function `run` with typer annotations; it returns the exit status, None meaning 0.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from dgemma.cli.terminal import abandon, prepare_streams
from dgemma.core.interrupts import INTERRUPTED, raise_again

# command → (module, one line of help)
COMMANDS = {
    "export": ("dgemma.cli.export", "Export a checkpoint to a bundle."),
    "quantize": ("dgemma.cli.quantize", "Quantize a checkpoint to integers, once for all engines."),
    "train": ("dgemma.cli.train", "Train a checkpoint from scratch, following a config file."),
    "adapt": ("dgemma.cli.adapt", "Turn a causal checkpoint into a denoiser."),
    "finetune": ("dgemma.cli.finetune", "Fine-tune a checkpoint on conversations: all weights, or a LoRA adapter."),
    "distill": ("dgemma.cli.distill", "Train a checkpoint to need fewer denoising steps."),
    "merge": ("dgemma.cli.merge", "Merge a LoRA adapter into its checkpoint."),
    "run": ("dgemma.cli.run", "Generate text from a bundle."),
    "chat": ("dgemma.cli.chat", "Chat with a bundle."),
    "serve": ("dgemma.cli.serve", "Serve bundles over HTTP: OpenAI's API, and a page that shows the canvas."),
    "replay": ("dgemma.cli.replay", "Replay a trace from `dgemma run --trace`, step by step."),
    "structure": ("dgemma.cli.structure", "Compile what an answer may be to a file, for any bundle and language."),
    "tokenize": ("dgemma.cli.tokenize", "Show the token ids of a text."),
    "inspect": ("dgemma.cli.inspect", "Check every file of a bundle and show what is in it."),
    "verify": ("dgemma.cli.verify", "Check a bundle; compare it with its golden trajectories or the float model."),
    "bench": ("dgemma.cli.bench", "Measure speed, memory and load time, and this machine's limits."),
    "eval": ("dgemma.cli.eval", "Score a bundle on MMLU, HellaSwag, GSM8K or your own questions."),
    "tune": ("dgemma.cli.tune", "Find the options that answer your own questions with the least work."),
    "plan": ("dgemma.cli.plan", "Predict size, memory and speed on a device, and recommend a configuration."),
    "reference": ("dgemma.cli.reference", "Compile the JAX reference for TPU v4."),
    "doctor": ("dgemma.cli.doctor", "Show what dgemma can use on this machine, and what is missing."),
    "completion": ("dgemma.cli.completion", "Print a script that completes commands and options in a shell."),
    "version": ("dgemma.cli.version", "Show versions of dgemma and of the installed engines."),
}

# Old names of options of run, chat and eval. They work for one more version; help does not show them.
_RENAMED = {"settle": "early-commit", "repair": "recheck", "canvas": "start-width"}

# Where a Python keyword and the command's parameter have different names: keyword → parameter.
_OTHER_NAMES = {
    "max_steps": "steps",
    "choices": "choice",
    "allow_hosts": "allow_host",
    "cors_origins": "cors_origin",
    "cache_bytes": "cache_memory",
    "memory_bytes": "memory",
    "timeout_s": "timeout",
}

# Parameters of Python that are given as files, which messages name as well.
_FILES = ("json_schema", "grammar")

_GLOBAL = "`dgemma -v COMMAND …` logs its work to stderr, with the time."

OK, CHECK_FAILED, BAD_INPUT, NO_READER, TERMINATED = 0, 1, 2, 141, 143
_CLOSED = "stdout is closed, so the output is lost; redirect it to a file, or to /dev/null"


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0 done, 1 a check did not hold, 2 bad input or output, 130 interrupted, 141 nobody reads stdout any more."""
    sys.exit(dispatch(list(sys.argv[1:] if argv is None else argv)))


def dispatch(argv: list[str]) -> int:
    """Run one command line and return its exit status; errors are one line on stderr."""
    closed = sys.stdout is None
    prepare_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line(warnings.showwarning)
            return _dispatch(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # as in `dgemma run … | head -1`: no word, and the status of a program that SIGPIPE ends
        abandon("stdout")
        return NO_READER
    except (OSError, MemoryError) as error:
        _flush_or_abandon()
        lost = closed and isinstance(error, OSError) and error.errno == errno.EBADF
        return _fail(_CLOSED if lost else _reason(error))


def _flush_or_abandon() -> None:
    """Give up what stdout still holds where it cannot be written: the interpreter would try again at exit, and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        abandon("stdout")


def _terminated(*_: object) -> None:
    """SIGTERM unwinds, so that half-written folders are removed: graceful termination."""
    raise SystemExit(TERMINATED)


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in ("-v", "--verbose"):
        _log()
        argv = argv[1:]
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("--help", "-h"):
        print(usage(), flush=True)
        return OK
    name = "version" if name == "--version" else name
    if name == "help":
        if not rest:
            print(usage(), flush=True)
            return OK
        name, rest = rest[0], ["--help"]
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}{_nearest(name)}; choose one of {', '.join(COMMANDS)}")
    return _invoke(name, rest)


def _log() -> None:
    """Say on stderr what is done, with the time: bundles checked, graphs loaded, weights packed."""
    import logging

    logging.basicConfig(format="%(asctime)s.%(msecs)03d %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("dgemma").setLevel(logging.INFO)


def _nearest(name: str) -> str:
    """The command that was probably meant, in brackets; nothing where none is like it."""
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), COMMANDS, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def usage() -> str:
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    head = ["Usage: dgemma [-v] COMMAND [ARGS]...", "", "DiffusionGemma, lowered ahead of time for phones and laptops.", ""]
    return "\n".join([*head, "Commands:", *lines, "", "`dgemma help COMMAND` shows a command's options.", _GLOBAL])


def _invoke(name: str, args: list[str]) -> int:
    from dgemma.core.errors import DgemmaError

    spelling: dict[str, str] = {}
    try:
        import typer
    except ModuleNotFoundError as error:
        return _missing(name, error)
    module, text = COMMANDS[name]
    try:
        settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
        seen: list[str] = []  # names of options: each once where it is declared, and then as they are given

        def renamed(option: str) -> str:
            seen.append(option)
            return _RENAMED.get(option, option)

        if name in ("run", "chat", "eval"):
            settings["token_normalize_func"] = renamed
        app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=settings)
        app.command(name, help=text)(import_module(module).run)
        command = typer.main.get_command(app)
        for one in command.params:
            if one.param_type_name == "argument":  # whose Python type newer versions of typer would show
                one.display_type_rich = lambda ctx: None  # type: ignore[attr-defined]
        spelling, files = _spelling(command.params), dict[str, str]()
        with command.make_context(f"dgemma {name}", args) as context:  # not `main`, which turns a broken pipe into status 1
            files = {name: str(file) for name in _FILES if (file := context.params.get(name)) is not None}
            _tell_renamed(seen)
            raise_again()
            status = command.invoke(context)
    except typer.Exit as end:  # --help
        status = end.exit_code
    except DgemmaError as error:
        return _fail(error.spelled({**spelling, **_with_file(error, spelling, files)}))
    except ModuleNotFoundError as error:
        return _missing(name, error)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        describe = getattr(error, "format_message", None)  # the argument parser's errors
        if describe is None:
            raise
        return _fail(f"{_told(describe(), name, spelling.values())} (see dgemma {name} --help)")
    sys.stdout.flush()
    return int(status or OK)


def _told(said: str, name: str, options: Iterable[str]) -> str:
    """What the argument parser says, in our words, and with what was probably meant."""
    if name == "run" and "unexpected extra argument" in said:
        said += "; give the prompt with -p, in quotes"
    unknown = re.match(r"No such option: (--[\w-]+)", said)
    if unknown and (longer := [option for option in options if option.startswith(unknown[1])]):
        said = f"No such option: {unknown[1]} (did you mean {' or '.join(longer)}?)"
    for kind, ours in (("integer", "an integer"), ("number", "a number")):
        said = re.sub(rf"Input should be a valid {kind}\b.*", f"must be {ours}", said)
    return said


def _spelling(declared: Sequence[Any]) -> dict[str, str]:
    """Parameters as Python calls them → options as they are typed; a switch is meant by what turns it off."""
    options = [one for one in declared if one.param_type_name == "option"]
    typed = {one.name: max(one.secondary_opts or one.opts, key=len) for one in options}
    return {**typed, **{name: typed[option] for name, option in _OTHER_NAMES.items() if option in typed}}


def _with_file(error: Any, spelling: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """The option that a message begins with, together with the file that was given, if it takes one."""
    first = str(next(iter(error.parts), ""))
    return {first: f"{spelling[first]} {files[first]}"} if first in error.params and first in files else {}


def _tell_renamed(seen: Sequence[str]) -> None:
    """One line for every old name; raises UsageError where the new one is given, too."""
    from dgemma.core.errors import UsageError

    for old in dict.fromkeys(option for option in seen if option in _RENAMED):
        new = _RENAMED[old]
        if seen.count(new) > 1:
            raise UsageError(f"--{old} is the old name of --{new}; give only --{new}")
        print(f"warning: --{old} is now called --{new}", file=sys.stderr)


def _missing(name: str, error: ModuleNotFoundError) -> int:
    from dgemma.core.install import extra_with, pip_install

    package = (error.name or "").split(".")[0]
    if package == "dgemma":
        raise error
    usual = {
        "export": "export",
        "quantize": "export",
        "verify": "export",
        "reference": "reference",
        "tune": "tune",
        **dict.fromkeys(("finetune", "distill", "merge"), "train"),
    }.get(name, "onnx")
    return _fail(f"`dgemma {name}` needs package {package!r}; {pip_install(extra_with(package, usual))}")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return "out of memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__


def _one_line(others: Callable[..., None]) -> Callable[..., None]:
    """Shows our warnings as one line without the place in the code, and leaves those of libraries to `others`."""

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        from dgemma.core.errors import DgemmaWarning

        if isinstance(message, DgemmaWarning):
            print("warning: " + " ".join(str(message).split()), file=sys.stderr)
        else:
            others(message, *where, **more)

    return show


def _fail(message: str, status: int = BAD_INPUT) -> int:
    try:
        print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    except OSError:  # nobody reads it; the status tells
        abandon("stderr")
    return status
