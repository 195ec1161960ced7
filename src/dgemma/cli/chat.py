"""`dgemma chat`: a conversation. Ctrl-C while it answers takes the turn back; /reset forgets all; /exit ends."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace

from dgemma.cli.options import (
    AdaptiveOption,
    BundleArgument,
    EarlyCommitOption,
    EngineOption,
    LoopOption,
    RecheckOption,
    SeedOption,
    SpeculateOption,
    StartWidthOption,
    ThreadsOption,
    TokensOption,
    compute_policy,
)
from dgemma.cli.terminal import show, stats
from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.plural import counted
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

HELP = "Type a message. /reset forgets the conversation, /exit (or Ctrl-D) ends, Ctrl-C stops an answer."
DEFAULT = GenerateOptions(continue_=True)


def run(
    bundle: BundleArgument,
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
) -> None:
    options = replace(
        DEFAULT, max_new_tokens=max_new_tokens, seed=seed, adaptive=adaptive, loop=loop,
        compute=compute_policy(early_commit, start_width, recheck, speculate),
    )  # fmt: skip
    with Session.load(bundle, engine=engine, threads=threads) as session:
        if session.tokenizer is None or session.manifest.chat is None:
            raise UsageError(f"{bundle}: has no chat template; use `dgemma run --raw` or --prompt-ids")
        interactive = sys.stdin.isatty()
        if interactive:
            print(HELP, file=sys.stderr)
        while (line := _read("> " if interactive else "")) is not None:
            if line == "/exit":
                return
            if line == "/reset":
                session.reset()
                print("conversation forgotten", file=sys.stderr)
            elif line.startswith("/"):
                print(f"unknown command {line}; {HELP}", file=sys.stderr)
            elif line and answer(session, line, options) is not None:
                options = replace(options, seed=(options.seed + 1) % (1 << 64))


def answer(session: Session, line: str, options: GenerateOptions) -> Result | None:
    """One turn; None when there was no room for it or it was taken back, the prefix then being as before."""
    before = len(session.prefix_ids)
    live = sys.stdout.isatty()
    if live:
        from dgemma.cli.live import LiveCanvas
    try:
        with LiveCanvas(session) if live else nullcontext() as view:
            result = session.generate(line, options, on_step=view)
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
