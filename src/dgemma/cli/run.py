"""`dgemma run`: one prompt, one answer. A terminal shows the canvas resolve; a pipe gets text as it is committed."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgemma.cli.answering import generate, generate_each, sample
from dgemma.cli.asked import AskedFlags, calling
from dgemma.cli.generation import DEFAULT, GenerationFlags, GuidanceFlags
from dgemma.cli.groups import grouped
from dgemma.cli.options import BundleArgument, EngineOption, JsonOption, TargetOption, ThreadsOption
from dgemma.cli.text_file import read_text
from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, DECODERS, GenerateOptions
from dgemma.core.profile import read_profile

if TYPE_CHECKING:
    from dgemma.core.trajectory import Trajectory
    from dgemma.runtime.result import Result
    from dgemma.runtime.session import Session

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class CanvasFlags:
    """What the first canvases hold before any step."""

    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEXT",
            help="The answer, with holes that the model fills, such as {{8}} for 8 tokens; the rest stays. Needs no prompt.",
        ),
    ] = None
    draft: Annotated[
        Path | None,
        typer.Option("--draft", metavar="FILE", help="Start from the text of FILE instead of noise; see --strength."),
    ] = None
    strength: Annotated[
        float, typer.Option("--strength", metavar="X", help="How much of the draft is noise, above 0 and at most 1.")
    ] = DEFAULT.strength

    def draft_text(self) -> str | None:
        """The text of --draft; raises UsageError."""
        return None if self.draft is None else read_text("--draft", self.draft).removesuffix("\n")


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """How many answers there are, what is told of them, and where."""

    n: Annotated[
        int,
        typer.Option("--n", metavar="K", help="Generate K answers with K seeds, and print the most frequent one."),
    ] = 1
    as_json: JsonOption = False
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json-lines", help="Print one JSON object per line: for each step, each committed text, and the result."
        ),
    ] = False
    logprobs: Annotated[
        int | None,
        typer.Option(
            "--logprobs", metavar="N", help="Add log-probabilities to the JSON, also those of the N likeliest tokens."
        ),
    ] = None
    choice_probabilities: Annotated[
        bool, typer.Option("--choice-probabilities", help="Add the probability of each --choice to the JSON.")
    ] = False
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the text only when it is complete.")] = False
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.npz", help="Write every denoising step to FILE.npz.")
    ] = None

    @property
    def form(self) -> str:
        """The form of an answer, as `answering.generate` names it."""
        return "json" if self.as_json else "lines" if self.json_lines else "whole" if self.no_stream else "text"

    def check(self, *, several_prompts: bool) -> None:
        """Whether that form can hold everything that is asked for; raises UsageError."""
        if self.as_json and self.json_lines:
            raise UsageError("give --json or --json-lines, not both")
        if self.form not in ("json", "lines"):
            for name, given in (("logprobs", self.logprobs is not None), ("choice_probabilities", self.choice_probabilities)):
                if given:
                    raise UsageError(Param(name), " needs an output that can hold it; give --json or --json-lines as well")
        if self.n != 1 and (self.form == "lines" or self.trace is not None):
            cure = "leave them out, or run once per seed"
            raise UsageError(f"--n gives several answers, which --json-lines and --trace cannot hold; {cure}")
        if several_prompts and (self.form == "json" or self.n != 1):
            raise UsageError("--prompts gives several answers, which --json and --n cannot hold; use --json-lines")
        if several_prompts and self.trace is not None:
            raise UsageError("--prompts gives several answers, which --trace cannot hold; run once for each prompt")
        if self.trace is not None:
            check_trace_path(self.trace)

    def save(self, result: Result) -> None:
        """Write the trace, if one is asked for; raises UsageError."""
        if self.trace is not None and result.trajectory is not None:
            save_trace(result.trajectory, self.trace)


@grouped
def run(
    bundle: BundleArgument,
    *,
    asked: AskedFlags,
    engine: EngineOption = None,
    target: TargetOption = AUTO,
    decoder: Annotated[
        str,
        typer.Option(
            "--decoder",
            metavar="diffusion|autoregressive|auto",
            help="How tokens are decoded. auto times a step and a token on this machine, and takes the faster decoder.",
        ),
    ] = DEFAULT.decoder,
    generation: GenerationFlags,
    canvas: CanvasFlags,
    guidance: GuidanceFlags,
    raw: Annotated[bool, typer.Option("--raw", help="Do not apply the chat template to the prompt.")] = False,
    threads: ThreadsOption = None,
    output: OutputFlags,
) -> int:
    from dgemma.runtime.session import Session as Opened

    _check_decoder(decoder)
    output.check(several_prompts=asked.prompts is not None)
    question = asked.read(bare=canvas.template is not None)
    profile = read_profile(generation.profile)
    options = generation.options(profile)
    options = replace(
        options,
        decoder=DEFAULT.decoder if decoder == AUTO else decoder,
        raw=raw,
        template=canvas.template,
        draft=canvas.draft_text(),
        strength=canvas.strength,
        guidance=guidance.options(),
        logprobs=output.logprobs,
        choice_probabilities=output.choice_probabilities,
        trace=output.trace is not None,
        tools=question.tools,
        structure=calling(options.structure, question.calls),
    )
    with Opened.load(bundle, engine=engine, threads=threads, target=target) as session:
        profile.warn_unless_for(session.bundle.digest)
        if decoder == AUTO:
            options = _quicker(session, options)
        if output.n != 1:
            return sample(session, question.prompt, options, question.conversation, output.n, output.as_json)
        if question.prompts is not None:
            return generate_each(session, question.prompts, options, output.form)
        return generate(session, question.prompt, options, question.conversation, output.form, output.save)


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
