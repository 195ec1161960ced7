"""One generation on the command line: text as it is committed, JSON, or everything at the end; Ctrl-C keeps what there is."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from dgemma.cli import OK
from dgemma.cli.terminal import answer, calls, dim, folded, print_json, printable, show, stats
from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import DIFFUSION, GenerateOptions
from dgemma.core.interrupts import INTERRUPTED
from dgemma.core.messages import Message
from dgemma.core.plural import counted
from dgemma.runtime.result import Result, StepEvent, TextEvent
from dgemma.runtime.samples import Samples
from dgemma.runtime.session import Session


def generate(
    session: Session,
    prompt: str | Sequence[int] | None,
    options: GenerateOptions,
    messages: Sequence[Message] | None,
    output: str,
    save: Callable[[Result], None],
) -> int:
    """Generate, and print: "text" as it is committed, "whole" at the end, "json" an object, "lines" an object for each event.

    Returns the exit status: that of an interrupted program once Ctrl-C has ended the generation; a second Ctrl-C ends the
    program at once.

    Args:
        save: gets the result before it is printed; with "text" in a pipe, the text has been printed by then.
    Raises:
        PromptTooLong, UsageError, TokenizerError, EngineError.
    """
    canvases = options.decoder == DIFFUSION and session.tokenizer is not None
    live = output in ("text", "whole") and sys.stdout.isatty() and canvases
    if live:
        from dgemma.cli.live import LiveCanvas
    streams = output == "text" and not live and session.tokenizer is not None
    on_text = _print_text if streams else _print_line if output == "lines" else None
    with cancelling(session) as asked, LiveCanvas(session) if live else nullcontext() as view:
        on_step = _print_line if output == "lines" else view
        result = session.generate(prompt, options, messages=messages, on_step=on_step, on_text=on_text)
    save(result)
    if output == "json":
        print_json(result.to_dict())
    elif output == "lines":
        print_json({"event": "result", **result.to_dict()})
    elif asked.is_set() and not result.tokens:
        pass
    elif streams:
        called = calls(result)
        show("\n".join(["", *called] if result.text or not called else called))  # the text has no line break yet
    else:
        if live and result.thinking:
            print(dim(folded(result.thinking)), file=sys.stderr)
        show(answer(result) if session.tokenizer else ",".join(map(str, result.tokens)))
    if output in ("text", "whole"):
        for line in result.warnings:
            print(line, file=sys.stderr)
        if live:
            print(stats(result), file=sys.stderr)
    if asked.is_set():
        print(f"interrupted after {counted(result.count, 'token')}", file=sys.stderr)
    return INTERRUPTED if asked.is_set() else OK


def generate_each(session: Session, prompts: Sequence[str], options: GenerateOptions, output: str) -> int:
    """`generate` for each prompt, until Ctrl-C. A line on stderr tells which one; with "lines", an object on stdout.

    Raises as `generate` does, naming the prompt.
    """
    for number, prompt in enumerate(prompts, 1):
        if output == "lines":
            print_json({"event": "prompt", "number": number, "prompt": prompt})
        else:
            print(dim(f"[{number} of {len(prompts)}] {printable(prompt)}"), file=sys.stderr)
        try:
            status = generate(session, prompt, options, None, output, lambda _: None)
        except (PromptTooLong, UsageError) as error:
            raise type(error)(f"prompt {number} of {len(prompts)}: ", *error.parts) from None
        if status != OK:
            return status
    return OK


def sample(
    session: Session,
    prompt: str | Sequence[int] | None,
    options: GenerateOptions,
    messages: Sequence[Message] | None,
    n: int,
    as_json: bool,
) -> int:
    """Generate n answers; print the first of those that most agree with, and how many that are. Returns the exit status.

    Ctrl-C ends it with the answers that are whole; where there is none, with what was committed of the first.
    """
    with cancelling(session) as asked:
        samples = session.sample(prompt, options, n=n, messages=messages)
    whole = tuple(result for result in samples.results if result.stop_reason != "cancelled")
    if whole:
        samples = Samples(results=whole)
    best = samples.best
    if as_json:
        each = [{"text": r.text, "tokens": list(r.tokens), "steps": r.steps} for r in samples.results]
        print_json({**best.to_dict(), "agreement": samples.agreement, "samples": each})
    elif whole or best.tokens:
        show(answer(best) if session.tokenizer else ",".join(map(str, best.tokens)))
        for line in best.warnings:
            print(line, file=sys.stderr)
    if whole and not as_json:
        same, count = next(iter(samples.votes.values())), len(whole)
        print(f"{same} of {counted(count, 'answer')} {'say' if same > 1 else 'says'} this", file=sys.stderr)
    if asked.is_set():
        print(f"interrupted after {len(whole)} of {counted(n, 'answer')}", file=sys.stderr)
    return INTERRUPTED if asked.is_set() else OK


@contextmanager
def cancelling(session: Session) -> Iterator[threading.Event]:
    """Ctrl-C ends the generation before its next step, and sets the event; a second one is as it was before."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def cancel(number: int, frame: FrameType | None) -> None:
        asked.set()
        session.cancel()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _print_text(event: TextEvent) -> None:
    print(printable(event.text) if sys.stdout.isatty() else event.text, end="", flush=True)


def _print_line(event: TextEvent | StepEvent) -> None:
    values: dict[str, Any]
    if isinstance(event, TextEvent):
        values = {"event": "text", "text": event.text, "thinking": event.thinking, "tokens": len(event.tokens)}
    else:
        values = {
            "event": "step",
            "canvas": event.canvas_index,
            "step": event.step,
            "remaining": event.remaining,
            "committed": len(event.committed),
            "accepted": int(event.accepted.sum()),
            "entropy": float(event.entropy.mean()),
        }
    print_json(values)
