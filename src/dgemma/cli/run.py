"""`dgemma run`: one prompt, one answer. On a terminal the canvas is seen resolving; a pipe gets text as it is committed."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgemma.cli.answering import generate, generate_each, sample
from dgemma.cli.messages_file import read_conversation
from dgemma.cli.options import (
    AdaptiveOption,
    BanOption,
    BundleArgument,
    ChoiceOption,
    ConfidenceOption,
    DraftOption,
    EarlyCommitOption,
    EngineOption,
    EntropyBoundOption,
    FallbackOption,
    JsonOption,
    JsonSchemaOption,
    LogitBiasOption,
    LoopOption,
    MinPOption,
    RecheckOption,
    RegexOption,
    SeedOption,
    SpeculateOption,
    StabilityOption,
    StartWidthOption,
    StepsOption,
    StopOption,
    StrengthOption,
    SystemOption,
    TargetOption,
    TemperatureOption,
    TemplateOption,
    ThinkOption,
    ThreadsOption,
    TokensOption,
    TopKOption,
    TopPOption,
    compute_policy,
    sampler_options,
    structure,
)
from dgemma.cli.text_file import read_text
from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, DECODERS, GenerateOptions

if TYPE_CHECKING:
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.result import Result
    from dgemma.runtime.session import Session

DEFAULT = GenerateOptions()
AUTO = "auto"


def run(
    bundle: BundleArgument,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt. Default: read standard input.")] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="The prompt as token ids, used exactly as given.")
    ] = None,
    engine: EngineOption = None,
    target: TargetOption = AUTO,
    decoder: Annotated[
        str,
        typer.Option(
            "--decoder",
            metavar="diffusion|autoregressive|auto",
            help="How tokens come about. auto measures a step and a token on this machine, and takes the quicker decoder.",
        ),
    ] = DEFAULT.decoder,
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
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    logit_bias: LogitBiasOption = None,
    ban: BanOption = None,
    stop: StopOption = None,
    fallback: FallbackOption = None,
    template: TemplateOption = None,
    draft: DraftOption = None,
    strength: StrengthOption = DEFAULT.strength,
    regex: RegexOption = None,
    json_schema: JsonSchemaOption = None,
    choice: ChoiceOption = None,
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
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="A prompt on each line of FILE, each answered by itself, with one seed."
        ),
    ] = None,
    n: Annotated[
        int,
        typer.Option("--n", metavar="K", help="Generate K answers, with K seeds, and print the one that most of them give."),
    ] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Do not apply the chat template to the prompt.")] = False,
    as_json: JsonOption = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print a JSON object on a line for each step, committed text and the result.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option("--logprobs", metavar="N", help="Put log-probabilities into the JSON, and those of N likely tokens."),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the text once it is whole.")] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.npz", help="Write every denoising step to FILE.npz.")
    ] = None,
) -> int:
    from dgemma.runtime.session import Session as Opened

    _check_decoder(decoder)
    if n != 1 and (json_lines or trace is not None):
        raise UsageError(
            "--n gives several answers, which --json-lines and --trace cannot hold; leave them out, or run once a seed"
        )
    if logprobs is not None and not (as_json or json_lines):
        raise UsageError(Param("logprobs"), " says more than text can hold; give --json or --json-lines as well")
    if as_json and json_lines:
        raise UsageError("give --json or --json-lines, not both")
    if messages is not None and (prompt is not None or prompt_ids is not None):
        raise UsageError("give either --messages or a prompt, not both")
    if prompts is not None:
        _check_alone({"-p": prompt, "--prompt-ids": prompt_ids, "--messages": messages, "--trace": trace})
        if as_json or n != 1:
            raise UsageError("--prompts gives several answers, which --json and --n cannot hold; use --json-lines")
    conversation, tools = (None, tuple[dict[str, Any], ...]()) if messages is None else read_conversation(messages)
    bare = template is not None and prompt is None and prompt_ids is None
    several = None if prompts is None else read_prompts(prompts)
    given = _prompt(prompt, prompt_ids) if messages is None and several is None and not bare else None
    if trace is not None:
        check_trace_path(trace)
    options = GenerateOptions(
        max_new_tokens=max_new_tokens,
        seed=seed,
        adaptive=adaptive,
        loop=loop,
        decoder=DEFAULT.decoder if decoder == AUTO else decoder,
        raw=raw,
        trace=trace is not None,
        compute=compute_policy(early_commit, start_width, recheck, speculate),
        sampler=sampler_options(temperature, steps, entropy_bound, confidence, stability, (top_k, top_p, min_p), logit_bias),
        ban=ban or (),
        logprobs=logprobs,
        stop=stop or (),
        fallback=fallback,
        template=template,
        draft=None if draft is None else read_text("--draft", draft).removesuffix("\n"),
        strength=strength,
        structure=structure(regex, json_schema, choice),
        system=system,
        think=think,
        tools=tools,
    )
    with Opened.load(bundle, engine=engine, threads=threads, target=target) as session:
        if decoder == AUTO:
            options = _quicker(session, options)
        if n != 1:
            return sample(session, given, options, conversation, n, as_json)
        output = "json" if as_json else "lines" if json_lines else "whole" if no_stream else "text"

        def save(result: Result) -> None:
            if trace is not None and result.trajectory is not None:
                save_trace(result.trajectory, trace)

        if several is not None:
            return generate_each(session, several, options, output)
        return generate(session, given, options, conversation, output, save)


def _check_alone(others: dict[str, object]) -> None:
    """Whether nothing is given that --prompts cannot go with; raises UsageError."""
    if given := [name for name, value in others.items() if value is not None]:
        raise UsageError(f"give either --prompts or {given[0]}, not both")


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not empty; raises UsageError."""
    lines = [line.strip() for line in read_text("--prompts", path).splitlines()]
    if not any(lines):
        raise UsageError(f"--prompts {path}: has no prompt; write one on each line")
    return [line for line in lines if line]


def _check_decoder(decoder: str) -> None:
    if decoder not in (*DECODERS, AUTO):
        raise UsageError(f"--decoder {decoder[:20]!r}: choose one of {', '.join((*DECODERS, AUTO))}")


def _quicker(session: Session, options: GenerateOptions) -> GenerateOptions:
    """With the decoder that would answer sooner, told in one line; diffusion where the options need it."""
    denoises = options.loop != DEFAULT.loop or not options.adaptive or options.logprobs is not None
    steers = (options.compute, options.trace, options.sampler.given, options.template, options.draft, options.ban)
    if denoises or any((*steers, options.structure)):
        print("decoder diffusion: the other options need it", file=sys.stderr)
        return options
    choice = session.choose_decoder(options.max_new_tokens)
    print(choice, file=sys.stderr)
    return replace(options, decoder=AUTOREGRESSIVE, fallback=None) if choice.decoder == AUTOREGRESSIVE else options


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
