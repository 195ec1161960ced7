"""`dgemma run`: one prompt, one answer. On a terminal the canvas is seen resolving; in a pipe only text comes out."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dgemma.cli.terminal import print_json, show
from dgemma.core.errors import UsageError
from dgemma.core.plural import counted
from dgemma.core.shipped import bundle_path

if TYPE_CHECKING:
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.result import Result

BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", help="A folder made by `dgemma export`, or tiny, which is shipped.", show_default=False,
        parser=bundle_path,
    ),
]  # fmt: skip
EngineOption = Annotated[str | None, typer.Option("--engine", help="onnx or executorch; else the first that is installed.")]
LoopOption = Annotated[str, typer.Option("--loop", help="host: a call per step; graph: a call per canvas.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all noise, 0 to 2^64-1.")]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", metavar="K", help="At most K tokens.")]
AdaptiveOption = Annotated[
    bool, typer.Option("--adaptive/--fixed-steps", help="Stop a canvas once it is settled, or always run all steps.")
]
SettleOption = Annotated[
    float | None,
    typer.Option("--settle", metavar="NATS", help="Positions whose entropy falls below leave the forward: less work."),
]
CanvasOption = Annotated[
    str | None, typer.Option("--canvas", metavar="auto|N", help="Positions that a canvas starts with; it grows as it must.")
]
RepairOption = Annotated[
    bool, typer.Option("--repair", help="With --settle or --canvas: run all positions once more before a commit.")
]
SpeculateOption = Annotated[
    bool, typer.Option("--speculate", help="Canvases are drafts, checked in one causal pass: the text of greedy decoding.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads of the engine.")]


def run(
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt; without it, stdin is read.")] = None,
    prompt_ids: Annotated[str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="Token ids, taken verbatim.")] = None,
    engine: EngineOption = None,
    loop: LoopOption = "host",
    seed: SeedOption = 0,
    max_new_tokens: TokensOption = 256,
    adaptive: AdaptiveOption = True,
    settle: SettleOption = None,
    canvas: CanvasOption = None,
    repair: RepairOption = False,
    speculate: SpeculateOption = False,
    threads: ThreadsOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not put the prompt through the chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trace: Annotated[Path | None, typer.Option("--trace", metavar="FILE.npz", help="Write the trajectory.")] = None,
) -> None:
    from dgemma.runtime.session import Session

    given = _prompt(prompt, prompt_ids)
    if trace is not None:
        check_trace_path(trace)
    with Session.load(bundle, engine=engine, threads=threads) as session:
        live = not as_json and sys.stdout.isatty() and session.tokenizer is not None
        if live:
            from dgemma.cli.live import LiveCanvas
        with LiveCanvas(session) if live else nullcontext() as view:
            result = session.generate(
                given, max_new_tokens=max_new_tokens, seed=seed, adaptive=adaptive, loop=loop, settle=settle,
                canvas=canvas_start(canvas), repair=repair, speculate=speculate, raw=raw, trace=trace is not None, on_step=view,
            )  # fmt: skip
        if trace is not None and result.trajectory is not None:
            save_trace(result.trajectory, trace)
        if as_json:
            print_json(result.to_dict())
        else:
            show(result.text if session.tokenizer else ",".join(map(str, result.tokens)))
            if result.count == 0:
                why = "the model gave only padding" if result.pads else "the model ended it at once"
                print(f"the answer is empty: {why}", file=sys.stderr)
            if live:
                print(stats(result), file=sys.stderr)


def canvas_start(canvas: str | None) -> int | Literal["auto"] | None:
    """What `--canvas` says; raises UsageError."""
    if canvas is None or canvas == "auto":
        return canvas  # type: ignore[return-value]  # narrowed to the literal
    if not canvas.isdecimal() or len(canvas) > 9:
        raise UsageError(f"--canvas {canvas[:20]!r}: must be auto, or a number of positions, such as 32")
    return int(canvas)


def stats(result: Result) -> str:
    """One line of figures about a generation."""
    timings = result.timings
    busy = timings.prefill_s + timings.denoise_s + timings.commit_s
    return (
        f"[{result.engine}, {result.loop}] {counted(result.count, 'token')} in {counted(result.steps, 'step')}, "
        f"{result.tokens_per_forward:.1f} tokens/forward, {result.count / max(busy, 1e-9):.0f} tokens/s, "
        f"stop: {result.stop_reason}"
    )


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
            raise UsageError(f"--prompt-ids {prompt_ids[:60]!r}: must be integers with commas between, such as 1,2,3") from None
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
