"""`dgemma run`: one prompt, one answer. On a terminal the canvas is seen resolving; a pipe gets text as it is committed."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dgemma.cli.answering import generate, generate_each, sample
from dgemma.cli.asked import read
from dgemma.cli.options import (
    AdaptiveOption,
    BanOption,
    BundleArgument,
    ChoiceOption,
    ChoiceProbabilitiesOption,
    ConfidenceOption,
    DecoderOption,
    DraftOption,
    EarlyCommitOption,
    EngineOption,
    EntropyBoundOption,
    FallbackOption,
    GuidanceOption,
    GuidanceStepsOption,
    JsonLinesOption,
    JsonOption,
    JsonSchemaOption,
    LogitBiasOption,
    LogprobsOption,
    LoopOption,
    MessagesOption,
    MinPOption,
    MinTokensOption,
    NegativeOption,
    NoStreamOption,
    ProfileOption,
    PromptIdsOption,
    PromptOption,
    PromptsOption,
    RawOption,
    RecheckOption,
    RegexOption,
    SamplesOption,
    ScheduleOption,
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
    TraceOption,
    compute_policy,
    sampler_options,
    structure,
)
from dgemma.cli.text_file import read_text
from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, DECODERS, GenerateOptions
from dgemma.core.guidance import Guidance
from dgemma.core.profile import read_profile

if TYPE_CHECKING:
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.result import Result
    from dgemma.runtime.session import Session

DEFAULT = GenerateOptions()
AUTO = "auto"


def run(
    bundle: BundleArgument,
    prompt: PromptOption = None,
    prompt_ids: PromptIdsOption = None,
    engine: EngineOption = None,
    target: TargetOption = AUTO,
    decoder: DecoderOption = DEFAULT.decoder,
    loop: LoopOption = DEFAULT.loop,
    seed: SeedOption = DEFAULT.seed,
    max_new_tokens: TokensOption = DEFAULT.max_new_tokens,
    min_tokens: MinTokensOption = DEFAULT.min_tokens,
    adaptive: AdaptiveOption = DEFAULT.adaptive,
    early_commit: EarlyCommitOption = None,
    start_width: StartWidthOption = None,
    recheck: RecheckOption = False,
    speculate: SpeculateOption = False,
    profile: ProfileOption = None,
    temperature: TemperatureOption = None,
    steps: StepsOption = None,
    entropy_bound: EntropyBoundOption = None,
    schedule: ScheduleOption = None,
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
    guidance: GuidanceOption = None,
    negative: NegativeOption = None,
    guidance_steps: GuidanceStepsOption = None,
    regex: RegexOption = None,
    json_schema: JsonSchemaOption = None,
    choice: ChoiceOption = None,
    choice_probabilities: ChoiceProbabilitiesOption = False,
    threads: ThreadsOption = None,
    system: SystemOption = None,
    think: ThinkOption = False,
    messages: MessagesOption = None,
    prompts: PromptsOption = None,
    n: SamplesOption = 1,
    raw: RawOption = False,
    as_json: JsonOption = False,
    json_lines: JsonLinesOption = False,
    logprobs: LogprobsOption = None,
    no_stream: NoStreamOption = False,
    trace: TraceOption = None,
) -> int:
    from dgemma.runtime.session import Session as Opened

    _check_decoder(decoder)
    output = _output(as_json, json_lines, no_stream)
    if logprobs is not None and output not in ("json", "lines"):
        raise UsageError(Param("logprobs"), " says more than text can hold; give --json or --json-lines as well")
    if choice_probabilities and output not in ("json", "lines"):
        cure = " are more than text can hold; give --json or --json-lines as well"
        raise UsageError(Param("choice_probabilities"), cure)
    _check_several(output, n, trace, prompts)
    asked = read(prompt, prompt_ids, messages, prompts, bare=template is not None)
    if trace is not None:
        check_trace_path(trace)
    said = read_profile(profile)
    options = GenerateOptions(
        max_new_tokens=max_new_tokens,
        min_tokens=min_tokens,
        seed=seed,
        adaptive=adaptive,
        loop=loop,
        decoder=DEFAULT.decoder if decoder == AUTO else decoder,
        raw=raw,
        trace=trace is not None,
        compute=compute_policy(early_commit, start_width, recheck, speculate, said),
        sampler=sampler_options(
            temperature, steps, entropy_bound, schedule, confidence, stability, (top_k, top_p, min_p), logit_bias, said
        ),
        ban=ban or (),
        logprobs=logprobs,
        stop=stop or (),
        fallback=fallback,
        template=template,
        draft=None if draft is None else read_text("--draft", draft).removesuffix("\n"),
        strength=strength,
        guidance=Guidance.of(guidance=guidance, negative=negative, guidance_steps=guidance_steps),
        structure=structure(regex, json_schema, choice),
        choice_probabilities=choice_probabilities,
        system=system,
        think=think,
        tools=asked.tools,
    )
    with Opened.load(bundle, engine=engine, threads=threads, target=target) as session:
        said.warn_unless_for(session.bundle.digest)
        if decoder == AUTO:
            options = _quicker(session, options)
        if n != 1:
            return sample(session, asked.prompt, options, asked.conversation, n, as_json)

        def save(result: Result) -> None:
            if trace is not None and result.trajectory is not None:
                save_trace(result.trajectory, trace)

        if asked.prompts is not None:
            return generate_each(session, asked.prompts, options, output)
        return generate(session, asked.prompt, options, asked.conversation, output, save)


def _output(as_json: bool, json_lines: bool, no_stream: bool) -> str:
    """The form of the answer; raises UsageError."""
    if as_json and json_lines:
        raise UsageError("give --json or --json-lines, not both")
    return "json" if as_json else "lines" if json_lines else "whole" if no_stream else "text"


def _check_several(output: str, n: int, trace: Path | None, prompts: Path | None) -> None:
    """Whether several answers have a form that can hold them; raises UsageError."""
    if n != 1 and (output == "lines" or trace is not None):
        raise UsageError(
            "--n gives several answers, which --json-lines and --trace cannot hold; leave them out, or run once a seed"
        )
    if prompts is not None and (output == "json" or n != 1):
        raise UsageError("--prompts gives several answers, which --json and --n cannot hold; use --json-lines")
    if prompts is not None and trace is not None:
        raise UsageError("--prompts gives several answers, which --trace cannot hold; run once for each prompt")


def _check_decoder(decoder: str) -> None:
    if decoder not in (*DECODERS, AUTO):
        raise UsageError(f"--decoder {decoder[:20]!r}: choose one of {', '.join((*DECODERS, AUTO))}")


def _quicker(session: Session, options: GenerateOptions) -> GenerateOptions:
    """With the decoder that would answer sooner, told in one line; diffusion where the options need it."""
    denoises = options.loop != DEFAULT.loop or not options.adaptive or options.logprobs is not None or options.min_tokens > 0
    steers = (options.compute, options.trace, options.sampler.given, options.template, options.draft, options.ban)
    if denoises or any((*steers, options.structure, options.guidance)):
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
