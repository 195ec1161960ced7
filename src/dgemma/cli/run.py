"""`dgemma run`: one prompt, one answer. On a terminal the canvas is seen resolving; in a pipe only text comes out."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgemma.cli.options import (
    AdaptiveOption,
    BundleArgument,
    EarlyCommitOption,
    EngineOption,
    JsonOption,
    LoopOption,
    RecheckOption,
    SeedOption,
    SpeculateOption,
    StartWidthOption,
    SystemOption,
    ThinkOption,
    ThreadsOption,
    TokensOption,
    compute_policy,
)
from dgemma.cli.terminal import answer, dim, folded, print_json, show, stats
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.messages import Message, read_messages, read_tools

if TYPE_CHECKING:
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.result import Result

DEFAULT = GenerateOptions()


def run(
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt. Default: read standard input.")] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="The prompt as token ids, used exactly as given.")
    ] = None,
    engine: EngineOption = None,
    loop: LoopOption = DEFAULT.loop,
    seed: SeedOption = DEFAULT.seed,
    max_new_tokens: TokensOption = DEFAULT.max_new_tokens,
    adaptive: AdaptiveOption = DEFAULT.adaptive,
    early_commit: EarlyCommitOption = None,
    start_width: StartWidthOption = None,
    recheck: RecheckOption = False,
    speculate: SpeculateOption = False,
    threads: ThreadsOption = None,
    system: SystemOption = None,
    think: ThinkOption = False,
    messages: Annotated[
        Path | None,
        typer.Option(
            "--messages",
            metavar="FILE",
            help="A conversation instead of a prompt: a JSON list of messages, or an object with messages and tools.",
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not apply the chat template to the prompt.")] = False,
    as_json: JsonOption = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.npz", help="Write every denoising step to FILE.npz.")
    ] = None,
) -> None:
    from dgemma.runtime.session import Session

    if messages is not None and (prompt is not None or prompt_ids is not None):
        raise UsageError("give either --messages or a prompt, not both")
    conversation, tools = (None, tuple[dict[str, Any], ...]()) if messages is None else read_conversation(messages)
    given = _prompt(prompt, prompt_ids) if messages is None else None
    if trace is not None:
        check_trace_path(trace)
    options = GenerateOptions(
        max_new_tokens=max_new_tokens,
        seed=seed,
        adaptive=adaptive,
        loop=loop,
        raw=raw,
        trace=trace is not None,
        compute=compute_policy(early_commit, start_width, recheck, speculate),
        system=system,
        think=think,
        tools=tools,
    )
    with Session.load(bundle, engine=engine, threads=threads) as session:
        live = not as_json and sys.stdout.isatty() and session.tokenizer is not None
        if live:
            from dgemma.cli.live import LiveCanvas
        with LiveCanvas(session) if live else nullcontext() as view:
            result = session.generate(given, options, messages=conversation, on_step=view)
        if trace is not None and result.trajectory is not None:
            save_trace(result.trajectory, trace)
        if as_json:
            print_json(result.to_dict())
        else:
            if live and result.thinking:
                print(dim(folded(result.thinking)), file=sys.stderr)
            show(answer(result) if session.tokenizer else ",".join(map(str, result.tokens)))
            for line in (*result.warnings, *([why] if (why := empty(result)) else [])):
                print(line, file=sys.stderr)
            if live:
                print(stats(result), file=sys.stderr)


def empty(result: Result) -> str | None:
    """Why an answer without tokens is empty."""
    why = "the model gave only padding" if result.pads else "the model ended it at once"
    return None if result.count else f"the answer is empty: {why}"


def read_conversation(path: Path) -> tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]:
    """Messages and tools of a file; raises UsageError."""
    values: Any
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--messages {path}: cannot be read ({error.strerror or error}); name a JSON file") from None
    except (ValueError, RecursionError):
        raise UsageError(f"--messages {path}: is not JSON in UTF-8; write a list of objects with role and content") from None
    tools: object = ()
    if isinstance(values, dict):
        if unknown := sorted(values.keys() - {"messages", "tools"}):
            raise UsageError(f"--messages {path}: unknown key {unknown[0]!r}; an object has messages and tools")
        tools = values.get("tools") or ()
        values = values.get("messages")
    try:
        return read_messages(values), read_tools(tools)
    except UsageError as error:
        raise UsageError(f"--messages {path}: {error}") from None


def check_trace_path(path: Path) -> None:
    """Refuse a path that cannot be written before any work is done; raises UsageError."""
    if path.suffix != ".npz":
        raise UsageError(f"--trace {path}: must end in .npz")
    if path.is_dir():
        raise UsageError(f"--trace {path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"--trace {path}: folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--trace {path}: folder {path.parent} cannot be written; choose another")


def save_trace(trajectory: Trajectory, path: Path) -> None:
    """Write beside the file and rename, so that a reader never sees half of one."""
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        trajectory.save(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UsageError(f"--trace {path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _prompt(prompt: str | None, prompt_ids: str | None) -> str | list[int]:
    if prompt is not None and prompt_ids is not None:
        raise UsageError("give -p or --prompt-ids, not both")
    if prompt_ids is not None:
        try:
            return [int(part) for part in prompt_ids.split(",") if part.strip()]
        except ValueError:
            raise UsageError(f"--prompt-ids {prompt_ids[:60]!r}: must be integers separated by commas, such as 1,2,3") from None
    if prompt is not None:
        return prompt
    if sys.stdin.isatty():
        raise UsageError("no prompt; give -p TEXT, --prompt-ids, or text on stdin")
    try:
        text = sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text; convert it first") from None
    if not text:
        raise UsageError("no prompt: stdin is empty; give -p TEXT, --prompt-ids, or text on stdin")
    return text
