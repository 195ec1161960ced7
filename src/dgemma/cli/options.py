"""Arguments and options that several commands share, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.text_file import read_text
from dgemma.core.compute_policy import ComputePolicy, StartWidth
from dgemma.core.errors import Param, UsageError
from dgemma.core.profile import NO_PROFILE, Profile
from dgemma.core.sampler_options import SamplerOptions
from dgemma.core.schedule import SHAPES, ScheduleTable, parse_table
from dgemma.core.shipped import bundle_path
from dgemma.core.structure import Structure

BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="A folder written by `dgemma export`, or tiny, the bundle that ships with dgemma.",
        show_default=False,
        parser=bundle_path,
    ),
]
PromptOption = Annotated[str | None, typer.Option("-p", "--prompt", help="The prompt. Default: read standard input.")]
PromptIdsOption = Annotated[
    str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="The prompt as token ids, used exactly as given.")
]
DecoderOption = Annotated[
    str,
    typer.Option(
        "--decoder",
        metavar="diffusion|autoregressive|auto",
        help="How tokens come about. auto measures a step and a token on this machine, and takes the quicker decoder.",
    ),
]
MessagesOption = Annotated[
    Path | None,
    typer.Option(
        "--messages",
        metavar="FILE",
        help="A conversation instead of a prompt: a JSON list of messages, or an object with messages and tools.",
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", metavar="FILE", help="A prompt on each line of FILE, each answered by itself, with one seed."),
]
SamplesOption = Annotated[
    int,
    typer.Option("--n", metavar="K", help="Generate K answers, with K seeds, and print the one that most of them give."),
]
RawOption = Annotated[bool, typer.Option("--raw", help="Do not apply the chat template to the prompt.")]
JsonLinesOption = Annotated[
    bool, typer.Option("--json-lines", help="Print a JSON object on a line for each step, committed text and the result.")
]
LogprobsOption = Annotated[
    int | None,
    typer.Option("--logprobs", metavar="N", help="Put log-probabilities into the JSON, and those of N likely tokens."),
]
NoStreamOption = Annotated[bool, typer.Option("--no-stream", help="Print the text once it is whole.")]
TraceOption = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE.npz", help="Write every denoising step to FILE.npz.")
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="onnx or executorch. Default: the first of them in the bundle that is installed.")
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="auto|cpu|qnn",
        help="What runs the model: auto takes a Snapdragon's NPU where the bundle and this machine have it; qnn insists, and "
        "runs in an emulator on x86-64.",
    ),
]
LoopOption = Annotated[
    str, typer.Option("--loop", help="host calls the model once per step, graph once per canvas. Both give the same tokens.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of all noise, 0 to 2^64-1.")]
TokensOption = Annotated[int, typer.Option("--max-new-tokens", metavar="K", help="Generate at most K tokens.")]
MinTokensOption = Annotated[
    int, typer.Option("--min-tokens", metavar="K", help="Let no stop token and no padding stand before K tokens.")
]
AdaptiveOption = Annotated[
    bool,
    typer.Option("--adaptive/--fixed-steps", help="End a canvas once it is stable and certain, or always run every step."),
]
EarlyCommitOption = Annotated[
    float | None,
    typer.Option(
        "--early-commit",
        metavar="NATS",
        help="Keep a position's token once its entropy is below NATS, and stop computing the position.",
    ),
]
StartWidthOption = Annotated[
    str | None,
    typer.Option(
        "--start-width",
        metavar="auto|N",
        help="Start each canvas with N positions (auto: a sixteenth of it), and double it until a stop token appears.",
    ),
]
RecheckOption = Annotated[
    bool,
    typer.Option("--recheck", help="Run all positions once more before a canvas is committed, and continue if any changes."),
]
SpeculateOption = Annotated[
    bool,
    typer.Option(
        "--speculate",
        help="Treat canvases as drafts that the causal encoder checks. The text is that of greedy decoding.",
    ),
]
TemperatureOption = Annotated[
    str | None,
    typer.Option(
        "--temperature",
        metavar="A[:B]",
        help="Temperature of the first step, and what it falls to after the last. Default: the bundle's. 0 is greedy.",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", metavar="T", help="Denoising steps for one canvas at most. Default: the exported number."),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Options of a profile, as `dgemma tune` writes it. Those that are given as well take the place of its own.",
    ),
]
EntropyBoundOption = Annotated[
    str | None,
    typer.Option(
        "--entropy-bound",
        metavar="NATS[:NATS]",
        help="Accept positions up to NATS of entropy together in each step; from the first step to the last. Default: the "
        "bundle's.",
    ),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="linear|cosine|FILE",
        help="How temperature and entropy bound go from the first step to the last, or a .json or .toml table of every step.",
    ),
]
ConfidenceOption = Annotated[
    float | None,
    typer.Option(
        "--confidence", metavar="NATS", help="End a canvas only when its mean entropy is below NATS. Default: the bundle's."
    ),
]
StabilityOption = Annotated[
    int | None,
    typer.Option(
        "--stability",
        metavar="STEPS",
        help="End a canvas only when its likeliest tokens have not changed for STEPS steps. Default: the bundle's.",
    ),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", metavar="K", help="Draw only among the K likeliest tokens of a position, 16 at most.")
]
TopPOption = Annotated[
    float | None, typer.Option("--top-p", metavar="P", help="Draw only among the likeliest tokens that have probability P.")
]
MinPOption = Annotated[
    float | None,
    typer.Option("--min-p", metavar="P", help="Draw only among tokens at least P times as likely as the likeliest."),
]
LogitBiasOption = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias", metavar="ID=B", help="Add B to the logit of token ID; -inf bans it. May be given several times."
    ),
]
BanOption = Annotated[
    list[str] | None,
    typer.Option("--ban", metavar="TEXT", help="Never write TEXT, which must be one token. May be given several times."),
]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before TEXT; may be given several times.")
]
FallbackOption = Annotated[
    str | None,
    typer.Option(
        "--fallback", metavar="autoregressive", help="If the canvases give only padding, decode token by token instead."
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="TEXT",
        help="The answer, with holes such as {{8}} of 8 tokens, which the model fills; all else stays. Needs no prompt.",
    ),
]
DraftOption = Annotated[
    Path | None, typer.Option("--draft", metavar="FILE", help="Begin with the text of FILE in place of noise; see --strength.")
]
StrengthOption = Annotated[
    float, typer.Option("--strength", metavar="X", help="How much of the draft is noise, above 0 and at most 1.")
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="S", help="Push every step away from --negative, S times as far as from there to the prompt."
    ),
]
NegativeOption = Annotated[
    str | None,
    typer.Option(
        "--negative",
        metavar="TEXT",
        help="A prompt for --guidance to push away from. Default: the same without what is unsure.",
    ),
]
GuidanceStepsOption = Annotated[
    str | None,
    typer.Option("--guidance-steps", metavar="A:B", help="Guide steps A to B of a canvas alone, counted from 1. Default: all."),
]
RegexOption = Annotated[
    str | None, typer.Option("--regex", metavar="R", help="Give an answer that the regular expression R matches whole.")
]
JsonSchemaOption = Annotated[
    Path | None, typer.Option("--json-schema", metavar="FILE", help="Give an answer that is JSON of the schema in FILE.")
]
ChoiceOption = Annotated[
    list[str] | None,
    typer.Option("--choice", metavar="A|B", help="Give one of these answers; may be given several times.", show_default=False),
]
ChoiceProbabilitiesOption = Annotated[
    bool, typer.Option("--choice-probabilities", help="Put the probability of each --choice into the JSON.")
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="A system turn before the conversation.", show_default=False)
]
ThinkOption = Annotated[
    bool, typer.Option("--think", help="Let the model think before it answers. Thoughts are not part of the text.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Threads that the engine uses. Default: its own choice.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def sampler_options(
    temperature: str | None,
    steps: int | None,
    entropy_bound: str | None,
    schedule: str | None,
    confidence: float | None,
    stability: int | None,
    cut: tuple[int | None, float | None, float | None] = (None, None, None),
    logit_bias: list[str] | None = None,
    profile: Profile = NO_PROFILE,
) -> SamplerOptions:
    """What those options say, `cut` --top-k, --top-p and --min-p, and a profile where they say nothing; raises UsageError."""
    top_k, top_p, min_p = cut
    return profile.sampler(
        temperature=temperature,
        max_steps=steps,
        entropy_bound=entropy_bound,
        schedule=_schedule(schedule),
        confidence=confidence,
        stability=stability,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        logit_bias=[_bias(text) for text in logit_bias or ()] or None,
    )


def _schedule(text: str | None) -> str | ScheduleTable | None:
    """A shape's name, or the table of a file; raises UsageError."""
    if text is None or text in SHAPES:
        return text
    path = Path(text)
    if path.suffix not in (".json", ".toml"):
        raise UsageError(Param("schedule"), f" {text[:60]!r} must be {', '.join(SHAPES)}, or a .json or .toml file")
    try:
        values = parse_table(read_text("--schedule", path), toml=path.suffix == ".toml")
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(Param("schedule"), f" {path}: cannot be read ({error}); mend the file") from None
    try:
        return ScheduleTable.of(values)
    except UsageError as error:
        raise UsageError(Param("schedule"), f" {path}", *error.parts[1:]) from None


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise UsageError(f"--logit-bias {text[:40]!r}: must be ID=B, such as 17=-5 or 17=-inf") from None


def structure(regex: str | None, json_schema: Path | None, choice: list[str] | None) -> Structure | None:
    """What the three options say; None where that is nothing. Raises UsageError."""
    choices = [text for said in choice or () for text in said.split("|")]
    if json_schema is None:
        return Structure.of(regex=regex, choices=choices)
    schema = read_text("--json-schema", json_schema)
    try:
        return Structure.of(regex=regex, json_schema=schema, choices=choices)
    except UsageError as error:
        if error.param != "json_schema":
            raise
        raise UsageError(Param("json_schema"), f" {json_schema}", *error.parts[1:]) from None


def compute_policy(
    early_commit: float | None, start_width: str | None, recheck: bool, speculate: bool, profile: Profile = NO_PROFILE
) -> ComputePolicy | None:
    """What the four options say together, and a profile where they say nothing; raises UsageError."""
    return profile.compute(early_commit=early_commit, start_width=_width(start_width), recheck=recheck, speculate=speculate)


def _width(text: str | None) -> StartWidth:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]  # narrowed to the literal
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"--start-width {text[:20]!r}: must be auto, or a number of positions, such as 32")
    return int(text)
