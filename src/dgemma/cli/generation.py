"""Groups of generation options that commands share, and what their values mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from dgemma.cli.options import ProfileOption, SeedOption, TokensOption
from dgemma.cli.text_file import read_text
from dgemma.core.compute_policy import ComputePolicy, StartWidth
from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.guidance import Guidance
from dgemma.core.profile import NO_PROFILE, Profile
from dgemma.core.sampler_options import SamplerOptions
from dgemma.core.schedule import SHAPES, ScheduleTable, parse_table
from dgemma.core.structure import GRAMMAR_DEPTH, Structure, either

DEFAULT = GenerateOptions()


@dataclass(frozen=True, kw_only=True)
class ComputeFlags:
    """What of a canvas is computed."""

    early_commit: Annotated[
        float | None,
        typer.Option(
            "--early-commit",
            metavar="NATS",
            help="Keep a position's token once its entropy is below NATS, and stop computing the position.",
        ),
    ] = None
    start_width: Annotated[
        str | None,
        typer.Option(
            "--start-width",
            metavar="auto|N",
            help="Start each canvas with N positions (auto: a sixteenth of it), and double it until a stop token appears.",
        ),
    ] = None
    recheck: Annotated[
        bool,
        typer.Option(
            "--recheck", help="Run all positions once more before a canvas is committed, and continue if any changes."
        ),
    ] = False
    speculate: Annotated[
        bool,
        typer.Option(
            "--speculate",
            help="Treat canvases as drafts that the causal encoder checks. The text is that of greedy decoding.",
        ),
    ] = False

    def policy(self, profile: Profile = NO_PROFILE) -> ComputePolicy | None:
        """What they say together, and a profile where they say nothing; None: the stock loop. Raises UsageError."""
        return profile.compute(
            early_commit=self.early_commit,
            start_width=_width(self.start_width),
            recheck=self.recheck,
            speculate=self.speculate,
        )


@dataclass(frozen=True, kw_only=True)
class SamplerFlags:
    """How tokens are drawn and accepted, and when a canvas is done."""

    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature",
            metavar="A[:B]",
            help="Temperature of the first step, and what it falls to after the last. 0 is greedy. Default: the bundle's.",
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="T", help="Most denoising steps per canvas. Default: the exported number."),
    ] = None
    entropy_bound: Annotated[
        str | None,
        typer.Option(
            "--entropy-bound",
            metavar="NATS[:NATS]",
            help="In each step, accept positions up to NATS of entropy in total. Two values: in the first and the last step. "
            "Default: the bundle's.",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="linear|cosine|FILE",
            help="How temperature and entropy bound change from the first step to the last, or a .json or .toml table with "
            "their values for every step.",
        ),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence", metavar="NATS", help="End a canvas only when its mean entropy is below NATS. Default: the bundle's."
        ),
    ] = None
    stability: Annotated[
        int | None,
        typer.Option(
            "--stability",
            metavar="STEPS",
            help="End a canvas only when its likeliest tokens have not changed for STEPS steps. Default: the bundle's.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", help="Draw only among the K likeliest tokens of a position, 16 at most."),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="Draw only among the likeliest tokens with a total probability of P."),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", metavar="P", help="Draw only among tokens at least P times as likely as the likeliest."),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            "--logit-bias", metavar="ID=B", help="Add B to the logit of token ID; -inf bans it. May be given several times."
        ),
    ] = None

    def options(self, profile: Profile = NO_PROFILE) -> SamplerOptions:
        """What they say, and a profile where they say nothing; raises UsageError."""
        return profile.sampler(
            temperature=self.temperature,
            max_steps=self.steps,
            entropy_bound=self.entropy_bound,
            schedule=_schedule(self.schedule),
            confidence=self.confidence,
            stability=self.stability,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            logit_bias=[_bias(text) for text in self.logit_bias or ()] or None,
        )


@dataclass(frozen=True, kw_only=True)
class LanguageFlags:
    """The language of the answer, to be compiled."""

    regex: Annotated[
        str | None,
        typer.Option("--regex", metavar="R", help="Give an answer that the regular expression R matches as a whole."),
    ] = None
    json_schema: Annotated[
        Path | None,
        typer.Option("--json-schema", metavar="FILE", help="Give an answer in JSON that follows the schema in FILE."),
    ] = None
    grammar: Annotated[
        Path | None,
        typer.Option("--grammar", metavar="FILE", help="Give an answer that follows the grammar in FILE, in Lark's form."),
    ] = None
    grammar_depth: Annotated[
        int | None,
        typer.Option(
            "--grammar-depth",
            metavar="D",
            help=f"Let rules of --grammar stand inside themselves at most D times. Default: {GRAMMAR_DEPTH}.",
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(
            "--choice", metavar="A|B", help="Give one of these answers; may be given several times.", show_default=False
        ),
    ] = None

    def structure(self) -> Structure | None:
        """What they say; None where that is nothing. Raises UsageError."""
        choices = [text for said in self.choice or () for text in said.split("|")]
        schema = None if self.json_schema is None else read_text("--json-schema", self.json_schema)
        grammar = None if self.grammar is None else read_text("--grammar", self.grammar)
        depth = self.grammar_depth
        return Structure.of(regex=self.regex, json_schema=schema, grammar=grammar, grammar_depth=depth, choices=choices)


@dataclass(frozen=True, kw_only=True)
class StructureFlags:
    """The language of the answer."""

    language: LanguageFlags
    structure: Annotated[
        Path | None,
        typer.Option("--structure", metavar="FILE", help="Give an answer of the structure that `dgemma structure` compiled."),
    ] = None

    def read(self) -> Structure | None:
        """What they say; None where that is nothing. Raises UsageError."""
        return either(None if self.structure is None else Structure.read(self.structure), self.language.structure())


@dataclass(frozen=True, kw_only=True)
class GuidanceFlags:
    """What steps are pushed away from."""

    guidance: Annotated[
        float | None,
        typer.Option("--guidance", metavar="S", help="How strongly steps are guided away from --negative; 1 changes nothing."),
    ] = None
    negative: Annotated[
        str | None,
        typer.Option(
            "--negative",
            metavar="TEXT",
            help="The prompt that --guidance leads away from. Default: the same prompt, without uncertain positions.",
        ),
    ] = None
    guidance_steps: Annotated[
        str | None,
        typer.Option(
            "--guidance-steps", metavar="A:B", help="Guide only steps A to B of a canvas, counted from 1. Default: all."
        ),
    ] = None

    def options(self) -> Guidance | None:
        """What they say; None where that is nothing. Raises UsageError."""
        return Guidance.of(guidance=self.guidance, negative=self.negative, guidance_steps=self.guidance_steps)


@dataclass(frozen=True, kw_only=True)
class GenerationFlags:
    """What `dgemma run` and `dgemma chat` both take."""

    loop: Annotated[
        str,
        typer.Option(
            "--loop",
            metavar="host|graph",
            help="host calls the model once per step, graph once per canvas. Both give the same tokens.",
        ),
    ] = DEFAULT.loop
    seed: SeedOption = DEFAULT.seed
    max_new_tokens: TokensOption = DEFAULT.max_new_tokens
    min_tokens: Annotated[
        int, typer.Option("--min-tokens", metavar="K", help="Allow no stop token and no padding among the first K tokens.")
    ] = DEFAULT.min_tokens
    adaptive: Annotated[
        bool,
        typer.Option("--adaptive/--fixed-steps", help="End a canvas once it is stable and certain, or always run every step."),
    ] = DEFAULT.adaptive
    compute: ComputeFlags
    profile: ProfileOption = None
    sampler: SamplerFlags
    ban: Annotated[
        list[str] | None,
        typer.Option("--ban", metavar="TEXT", help="Never write TEXT, which must be one token. May be given several times."),
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End the answer before TEXT; may be given several times.")
    ] = None
    fallback: Annotated[
        str | None,
        typer.Option(
            "--fallback", metavar="autoregressive", help="If the canvases give only padding, decode token by token instead."
        ),
    ] = None
    structured: StructureFlags
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="A system turn before the conversation.", show_default=False)
    ] = None
    think: Annotated[
        bool, typer.Option("--think", help="Let the model think before it answers. Thoughts are not part of the text.")
    ] = False

    def options(self, profile: Profile, default: GenerateOptions = DEFAULT) -> GenerateOptions:
        """`default` with what they say in its place, and a profile where they say nothing; raises UsageError."""
        return replace(
            default,
            loop=self.loop,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            min_tokens=self.min_tokens,
            adaptive=self.adaptive,
            compute=self.compute.policy(profile),
            sampler=self.sampler.options(profile),
            ban=self.ban or (),
            stop=self.stop or (),
            fallback=self.fallback,
            structure=self.structured.read(),
            system=self.system,
            think=self.think,
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
        raise UsageError(Param("schedule"), f" {path}: cannot be read ({error}); correct the file") from None
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


def _width(text: str | None) -> StartWidth:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]  # narrowed to the literal
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"--start-width {text[:20]!r}: must be auto, or a number of positions, such as 32")
    return int(text)
