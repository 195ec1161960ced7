"""`dgemma chat`: a conversation. Ctrl-C while it answers takes the turn back; /reset forgets all; /exit ends."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from dgemma.cli.run import (
    AdaptiveOption,
    BundleArgument,
    CanvasOption,
    EngineOption,
    LoopOption,
    RepairOption,
    SeedOption,
    SettleOption,
    SpeculateOption,
    ThreadsOption,
    TokensOption,
    canvas_start,
    stats,
)
from dgemma.cli.terminal import show
from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.plural import counted
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

HELP = "Type a message. /reset forgets the conversation, /exit (or Ctrl-D) ends, Ctrl-C stops an answer."


def run(
    bundle: BundleArgument,
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
) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "adaptive": adaptive, "loop": loop, "settle": settle, "canvas": canvas_start(canvas),
        "repair": repair, "speculate": speculate,
    }  # fmt: skip
    with Session.load(bundle, engine=engine, threads=threads) as session:
        if session.tokenizer is None or session.manifest.chat is None:
            raise UsageError(f"{bundle}: has no chat template; use `dgemma run --raw` or --prompt-ids")
        interactive = sys.stdin.isatty()
        if interactive:
            print(HELP, file=sys.stderr)
        turn = 0
        while (line := _read("> " if interactive else "")) is not None:
            if line == "/exit":
                return
            if line == "/reset":
                session.reset()
                print("conversation forgotten", file=sys.stderr)
            elif line.startswith("/"):
                print(f"unknown command {line}; {HELP}", file=sys.stderr)
            elif line:
                result = answer(session, line, seed=seed + turn, **options)
                turn += result is not None


def answer(session: Session, line: str, *, seed: int, **options: Any) -> Result | None:
    """One turn, with options of `Session.generate`; None when there was no room for it or it was taken back, the prefix then
    being as before."""
    before = len(session.prefix_ids)
    live = sys.stdout.isatty()
    if live:
        from dgemma.cli.live import LiveCanvas
    try:
        with LiveCanvas(session) if live else nullcontext() as view:
            result = session.generate(line, seed=seed % (1 << 64), continue_=True, on_step=view, **options)
    except PromptTooLong as error:
        print(f"the context is full: {error}", file=sys.stderr)
        print("/reset forgets the conversation and goes on; a shorter message may still fit; /exit ends", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        session.rewind(before)
        print("stopped; this turn is taken back", file=sys.stderr)
        return None
    show(result.text)
    if live:
        print(stats(result), file=sys.stderr)
    if result.stop_reason == "context":
        print("the context is full, so the answer ends here; /reset forgets the conversation, /exit ends", file=sys.stderr)
    elif result.stop_reason == "length" and not result.pads:
        print(f"the answer was cut after {counted(result.count, 'token')}; see --max-new-tokens", file=sys.stderr)
    return result


def _read(prompt: str) -> str | None:
    """The next line without surrounding space, None at the end; Ctrl-C at the prompt ends the program."""
    try:
        return input(prompt).strip()
    except EOFError:
        return None
    except UnicodeDecodeError:
        raise UsageError("stdin is not UTF-8 text; convert it first") from None
