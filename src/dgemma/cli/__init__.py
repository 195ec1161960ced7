"""The command line. `dgemma --help` imports nothing; a command's module is imported when that command is asked for.

Each module in `COMMANDS` has a function `run` with typer annotations; it returns the exit status, None meaning 0.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any

# command → (module, one line of help)
COMMANDS = {
    "export": ("dgemma.cli.export", "Lower a checkpoint to a bundle."),
    "quantize": ("dgemma.cli.quantize", "Quantize a checkpoint to integers, once for all engines."),
    "run": ("dgemma.cli.run", "Generate text from a bundle."),
    "chat": ("dgemma.cli.chat", "Talk to a bundle, turn by turn."),
    "inspect": ("dgemma.cli.inspect", "Hash every file of a bundle and show what is in it."),
    "verify": ("dgemma.cli.verify", "Hash a bundle's files; compare it with its golden trajectories or with the float model."),
    "bench": ("dgemma.cli.bench", "Measure a bundle: speed, memory and load time, against what the machine can do."),
    "eval": ("dgemma.cli.eval", "Score a bundle on MMLU, HellaSwag, GSM8K or your own questions, with what answers cost."),
    "plan": ("dgemma.cli.plan", "Predict size, memory and speed on a device, and recommend a configuration."),
    "reference": ("dgemma.cli.reference", "Compile the JAX reference for TPU v4."),
    "version": ("dgemma.cli.version", "Show versions of dgemma and of the installed engines."),
}

OK, CHECK_FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `dgemma`: exits with 0 done, 1 a check did not hold, 2 bad input, 130 interrupted."""
    sys.exit(dispatch(list(sys.argv[1:] if argv is None else argv)))


def dispatch(argv: list[str]) -> int:
    """Run one command line and return its exit status; errors are one line on stderr."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started this process
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line(warnings.showwarning)
            return _dispatch(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except (OSError, MemoryError) as error:
        return _fail(_reason(error))


def _terminated(*_: object) -> None:
    """A polite kill unwinds, so that half-written folders are removed."""
    raise SystemExit(TERMINATED)


def _dispatch(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("--help", "-h"):
        print(usage(), flush=True)
        return OK
    name = "version" if name == "--version" else name
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    return _invoke(name, rest)


def usage() -> str:
    lines = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    head = ["Usage: dgemma COMMAND [ARGS]...", "", "DiffusionGemma, lowered ahead of time for phones and laptops.", ""]
    return "\n".join([*head, "Commands:", *lines, "", "`dgemma COMMAND --help` shows a command's options."])


def _invoke(name: str, args: list[str]) -> int:
    import typer

    from dgemma.core.errors import DgemmaError

    module, text = COMMANDS[name]
    try:
        run: Callable[..., Any] = import_module(module).run
        app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
        app.command(name, help=text)(_until_reader_leaves(run))
        status = typer.main.get_command(app).main(args, prog_name=f"dgemma {name}", standalone_mode=False)
    except DgemmaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _missing(name, error)
    except typer.Abort:
        return _fail("interrupted", INTERRUPTED)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        describe = getattr(error, "format_message", None)  # the argument parser's errors
        if describe is None:
            raise
        return _fail(f"{describe()} (see dgemma {name} --help)")
    if status == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return int(status or OK)


def _until_reader_leaves(run: Callable[..., Any]) -> Callable[..., Any]:
    """A reader that has gone, as in `dgemma run … | head -1`, is no error; typer would exit with 1."""

    @wraps(run)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            status = run(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK
        return status

    return wrapper


def _missing(name: str, error: ModuleNotFoundError) -> int:
    package = (error.name or "").split(".")[0]
    if package == "dgemma":
        raise error
    extra = "export" if name in ("export", "quantize", "verify") else "onnx"
    return _fail(f"`dgemma {name}` needs package {package!r}; pip install 'dgemma[{extra}]'")


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
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return status
