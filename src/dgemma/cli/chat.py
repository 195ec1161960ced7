"""`dgemma chat`: a conversation. Ctrl-C while it answers takes the turn back; lines that begin with / are commands."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace

from dgemma.cli.options import (
    AdaptiveOption,
    BundleArgument,
    ConfidenceOption,
    EarlyCommitOption,
    EngineOption,
    EntropyBoundOption,
    FallbackOption,
    LoopOption,
    RecheckOption,
    SeedOption,
    SpeculateOption,
    StabilityOption,
    StartWidthOption,
    StepsOption,
    StopOption,
    SystemOption,
    TemperatureOption,
    ThinkOption,
    ThreadsOption,
    TokensOption,
    compute_policy,
)
from dgemma.cli.terminal import answer as said
from dgemma.cli.terminal import dim, folded, show, stats
from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.messages import Message
from dgemma.core.plural import counted
from dgemma.core.sampler_options import SamplerOptions
from dgemma.runtime.prompt import conversation_ids
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

HELP = (
    "Type a message. /system TEXT and /think on|off change how it answers, /reset forgets the conversation, /help shows "
    "this, /exit (or Ctrl-D) ends, Ctrl-C stops an answer."
)
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
    temperature: TemperatureOption = None,
    steps: StepsOption = None,
    entropy_bound: EntropyBoundOption = None,
    confidence: ConfidenceOption = None,
    stability: StabilityOption = None,
    stop: StopOption = None,
    fallback: FallbackOption = None,
    threads: ThreadsOption = None,
    system: SystemOption = None,
    think: ThinkOption = False,
) -> None:
    options = replace(
        DEFAULT,
        max_new_tokens=max_new_tokens,
        seed=seed,
        adaptive=adaptive,
        loop=loop,
        compute=compute_policy(early_commit, start_width, recheck, speculate),
        sampler=SamplerOptions(
            temperature=temperature,
            max_steps=steps,
            entropy_bound=entropy_bound,
            confidence=confidence,
            stability=stability,
        ),
        stop=stop or (),
        fallback=fallback,
        system=system,
        think=think,
    )
    with Session.load(bundle, engine=engine, threads=threads) as session:
        if session.tokenizer is None or session.manifest.chat is None:
            raise UsageError(f"{bundle}: has no chat template; use `dgemma run --raw` or --prompt-ids")
        check(session, options)
        interactive = sys.stdin.isatty()
        if interactive:
            print(HELP, file=sys.stderr)
        turns: list[Message] = []
        while (line := _read("> " if interactive else "")) is not None:
            if line == "/exit":
                return
            if line.startswith("/"):
                options = _command(session, line, options, turns)
            elif line and answer(session, line, options, turns) is not None:
                options = replace(options, seed=(options.seed + 1) % (1 << 64))


def check(session: Session, options: GenerateOptions) -> None:
    """Whether the chat template has what the options say; raises UsageError."""
    if session.tokenizer is not None and options.speaks:
        turns = [Message(role="user", content="x")]
        conversation_ids(session.manifest, session.tokenizer, turns, system=options.system, think=options.think)


def _command(session: Session, line: str, options: GenerateOptions, turns: list[Message]) -> GenerateOptions:
    """What a line that begins with / does; the options from then on."""
    name, _, text = line.partition(" ")
    text, changed = text.strip(), options
    if line == "/reset":
        session.reset()
        turns.clear()
        says = "conversation forgotten"
    elif line == "/help":
        says = HELP
    elif name == "/system":
        changed = replace(options, system=text or None)
        says = "the system turn is set" if text else "the system turn is removed"
    elif name == "/think" and text in ("on", "off"):
        changed = replace(options, think=text == "on")
        says = f"thinking is {text}"
    elif name == "/think":
        says = "/think takes on or off"
    else:
        says = f"unknown command {line}; {HELP}"
    try:
        check(session, changed)
    except UsageError as error:
        changed, says = options, str(error).partition(";")[0]  # without the cure, which is for the command line
    print(says, file=sys.stderr)
    return changed


def answer(session: Session, line: str, options: GenerateOptions, turns: list[Message]) -> Result | None:
    """One turn, added to the turns before; None when there was no room for it or it was taken back, all then being as before.

    Where the chat template has roles of its own, the whole conversation is given, for it drops thoughts of earlier turns.
    """
    before = len(session.prefix_ids)
    live = sys.stdout.isatty()
    if live:
        from dgemma.cli.live import LiveCanvas
    asked = Message(role="user", content=line)
    whole = session.manifest.chat is not None and session.manifest.chat.roles is not None
    try:
        with LiveCanvas(session) if live else nullcontext() as view:
            if whole:
                result = session.generate(None, options, messages=[*turns, asked], on_step=view)
            else:
                result = session.generate(line, options, on_step=view)
    except PromptTooLong as error:
        print(f"the context is full: {error}", file=sys.stderr)
        print("a shorter message may still fit; /reset forgets the conversation, /exit ends it", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        session.rewind(min(before, len(session.prefix_ids)))
        print("stopped; this turn was taken back", file=sys.stderr)
        return None
    turns += [asked, replace(result.message, thinking="")]
    if result.thinking:
        print(dim(folded(result.thinking)), file=sys.stderr)
    show(said(result))
    for warning in result.warnings:
        print(warning, file=sys.stderr)
    if live:
        print(stats(result), file=sys.stderr)
    if result.stop_reason == "context":
        print("the context is full, so the answer ends here; /reset forgets the conversation, /exit ends it", file=sys.stderr)
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
