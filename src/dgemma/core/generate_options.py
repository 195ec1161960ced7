"""How one generation runs: everything that a caller may choose, validated where it is made.

It knows nothing of bundles: whether a bundle has the graphs and the positions that are asked for is the runtime's to check.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, NoReturn, Self, TypedDict, Unpack

from dgemma.core.compute_policy import ComputePolicy, StartWidth
from dgemma.core.errors import Param, UsageError, blaming, listed
from dgemma.core.guidance import GUIDANCE, Guidance
from dgemma.core.messages import read_tools
from dgemma.core.noise import key_from_seed
from dgemma.core.sampler_options import EntropyBound, LogitBias, SamplerOptions, Temperature
from dgemma.core.scalars import is_int
from dgemma.core.schedule import Schedule
from dgemma.core.structure import NOT_FORCED, Structure, either, forced
from dgemma.core.template import read_template

MAX_NEW_TOKENS = 256
LOOPS = ("host", "graph")
STRENGTH = 0.5
DIFFUSION, AUTOREGRESSIVE = "diffusion", "autoregressive"
DECODERS = (DIFFUSION, AUTOREGRESSIVE)
_RENAMED = {"settle": "early_commit", "repair": "recheck", "canvas": "start_width"}  # old keyword → new, for one version


class GenerateKeywords(TypedDict, total=False):
    """The keywords of `GenerateOptions.of`."""

    max_new_tokens: int
    seed: int
    min_tokens: int
    adaptive: bool
    loop: str
    decoder: str
    early_commit: float | None
    start_width: StartWidth
    recheck: bool
    speculate: bool
    temperature: Temperature
    max_steps: int | None
    entropy_bound: EntropyBound
    schedule: Schedule
    confidence: float | None
    stability: int | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    logit_bias: LogitBias
    ban: str | int | Sequence[str | int]
    logprobs: int | None
    stop: str | Sequence[str]
    fallback: str | None
    template: str | None
    draft: str | None
    strength: float
    regex: str | None
    json_schema: str | Mapping[str, Any] | None
    grammar: str | None
    grammar_depth: int | None
    choices: str | Sequence[str]
    structure: Structure | None
    choice_probabilities: bool
    guidance: float | None
    negative: str | Sequence[int] | None
    guidance_steps: str | Sequence[int] | None
    raw: bool
    trace: bool
    continue_: bool
    system: str | None
    think: bool
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """One generation.

    Args:
        max_new_tokens: K; at most ceil(K / N) canvases are denoised.
        min_tokens: K; no position among the first K of the answer takes a stop token or padding. It ends where the context
            does, all the same. Needs loop host, and steps that put out candidates.
        seed: of all noise, 0 … 2⁶⁴−1.
        adaptive: end a canvas early, once it is stable and certain; otherwise always run T steps.
        loop: host (one `denoise` call a step) or graph (one `generate` call a canvas); the tokens are the same.
        decoder: diffusion, or autoregressive: the same weights, one greedy token per call of `decode`. That has no noise, no
            steps and no canvases, so `seed`, `adaptive` and `loop` change nothing.
        compute: how much of a canvas is computed; None: every position in every step. Needs loop host.
        sampler: what differs from the sampler that the bundle was exported with.
        ban: ids that must not come up, or texts of one token, with or without a space before it.
        logprobs: give the log-probability of every token in `Result.logprobs`, and those of so many of the likeliest ids, 0 or
            more.
        stop: strings; the answer ends before the first that its text contains, over tokens and canvases. Thoughts and calls of
            tools are not text. Of a token that a stop string cuts, the beginning is in the text, not in the tokens.
        fallback: autoregressive: where the canvases say nothing but padding or a stop token, the answer is decoded instead.
        template: the answer, with holes such as {{8}} of 8 tokens, which the model fills; all else stays exactly. One canvas.
        draft: a text to begin the canvases with, instead of noise.
        strength: how much of the draft is noise, above 0 and at most 1: the share of its tokens, and of the steps that run.
        guidance: what steps are pushed away from, and how far. Needs loop host, and every position in every step.
        structure: what the answer may be; it always is that, unless it was cancelled.
        choice_probabilities: give the probability of each choice of the structure in `Result.choice_probabilities`, at a step
            for every beginning that choices have.
        raw: do not put a prompt that is text through the chat template.
        trace: record every step in `Result.trajectory`.
        continue_: go on from the prefix of earlier generations instead of an empty one. Of a whole conversation, what the
            prefix holds already is not encoded again.
        system: a system turn before the prompt or the messages.
        think: let the model think before it answers, where the chat template has a switch for it.
        tools: declarations `{"type": "function", "function": {"name", "description", "parameters"}}` of what it may call.
    Raises:
        UsageError.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    min_tokens: int = 0
    seed: int = 0
    adaptive: bool = True
    loop: str = "host"
    decoder: str = DIFFUSION
    compute: ComputePolicy | None = None
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    ban: str | int | Sequence[str | int] = ()
    logprobs: int | None = None
    stop: str | Sequence[str] = ()
    fallback: str | None = None
    template: str | None = None
    draft: str | None = None
    strength: float = STRENGTH
    structure: Structure | None = None
    choice_probabilities: bool = False
    guidance: Guidance | None = None
    raw: bool = False
    trace: bool = False
    continue_: bool = False
    system: str | None = None
    think: bool = False
    tools: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if not is_int(self.max_new_tokens, 1):
            raise UsageError(Param("max_new_tokens"), f" {self.max_new_tokens!r} must be an integer, 1 or more")
        if not is_int(self.seed):
            raise UsageError(Param("seed"), f" {self.seed!r} must be an integer")
        key_from_seed(int(self.seed))
        if self.loop not in LOOPS:
            raise UsageError(Param("loop"), f" {self.loop!r} is unknown; choose one of {', '.join(LOOPS)}")
        if self.system is not None and not (isinstance(self.system, str) and self.system.strip()):
            raise UsageError(Param("system"), " must be a non-empty string")
        if not isinstance(self.think, bool):
            raise UsageError(Param("think"), f" {self.think!r} must be True or False")
        with blaming("tools"):
            object.__setattr__(self, "tools", read_tools(self.tools))
        if self.raw and self.speaks:
            needs = listed(("system", "think", "tools"))
            raise UsageError(Param("raw"), " skips the chat template, which ", *needs, " need; leave it out")
        if self.decoder not in DECODERS:
            raise UsageError(Param("decoder"), f" {self.decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        if self.decoder == AUTOREGRESSIVE and (self.compute is not None or self.trace):
            self._need_diffusion(("trace",) if self.compute is None else self.compute.given)
        if self.decoder == AUTOREGRESSIVE and (self.loop != "host" or not self.adaptive):
            self._need_diffusion(("loop",) if self.loop != "host" else ("adaptive",))
        self._check_ends()
        if self.compute is not None and self.loop != "host":
            verb = " needs " if len(self.compute.given) == 1 else " need "
            why = " host: the fused graph runs every position in every step"
            raise UsageError(*listed(self.compute.given), verb, Param("loop"), why)

    def _need_diffusion(self, given: Sequence[str], why: str = "has no denoising steps") -> NoReturn:
        """Raises UsageError for what decoder autoregressive has not."""
        parts = *listed(given), " needs " if len(given) == 1 else " need ", Param("decoder")
        raise UsageError(*parts, f" diffusion: autoregressive decoding {why}")

    def _check_ends(self) -> None:
        """Sampler, stop strings and fallback; stop strings become a tuple."""
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
            raise UsageError(Param("stop"), f" {self.stop!r} must be non-empty strings")
        object.__setattr__(self, "stop", tuple(stops))
        if self.fallback not in (None, AUTOREGRESSIVE):
            raise UsageError(Param("fallback"), f" {self.fallback!r} is unknown; choose {AUTOREGRESSIVE}")
        self._check_given()
        self._check_least()
        self._check_candidates()
        self._check_structure()
        self._check_guidance()
        if self.decoder != AUTOREGRESSIVE:
            return
        if given := self.sampler.given:
            self._need_diffusion(given, "is greedy")
        if self.fallback is not None:
            self._need_diffusion(("fallback",), "is what it falls back to")

    def _check_candidates(self) -> None:
        """Bans, which become a tuple, and log-probabilities."""
        bans = (self.ban,) if isinstance(self.ban, (str, int)) else self.ban
        if (
            not isinstance(bans, Sequence)
            or isinstance(bans, bytes)
            or not all(is_int(one, 0) or (isinstance(one, str) and one) for one in bans)
        ):
            raise UsageError(Param("ban"), f" {self.ban!r} must be ids or non-empty texts")
        object.__setattr__(self, "ban", tuple(one if isinstance(one, str) else int(one) for one in bans))
        if self.ban and self.decoder == AUTOREGRESSIVE:
            self._need_diffusion(("ban",), "returns a single token, without candidates")
        speculate = self.compute is not None and self.compute.speculate
        greedy = [name for name, given in (("speculate", speculate), ("fallback", self.fallback)) if given]
        names = [name for name, given in (("ban", self.ban), ("logit_bias", self.sampler.bias)) if given]
        if greedy and names:
            why = ", whose tokens come from greedy decoding; leave one out"
            raise UsageError(*listed(names), " cannot be combined with ", *listed(greedy), why)
        if self.logprobs is None:
            return
        if not is_int(self.logprobs, 0):
            raise UsageError(Param("logprobs"), f" {self.logprobs!r} must be an integer, 0 or more")
        if self.decoder == AUTOREGRESSIVE or self.loop != "host":
            needs = Param("decoder"), " diffusion and ", Param("loop"), " host: the other graphs return only tokens"
            raise UsageError(Param("logprobs"), " needs ", *needs)
        if speculate:
            why = ", whose tokens come from greedy decoding; leave one out"
            raise UsageError(Param("logprobs"), " cannot be combined with ", Param("speculate"), why)

    def _check_least(self) -> None:
        """The least length."""
        least = Param("min_tokens")
        if not is_int(self.min_tokens, 0, int(self.max_new_tokens)):
            more = f" {self.min_tokens!r} must be an integer from 0 to "
            raise UsageError(least, more, Param("max_new_tokens"), f", {self.max_new_tokens}")
        if not self.min_tokens:
            return
        if self.decoder == AUTOREGRESSIVE or self.loop != "host":
            needs = Param("decoder"), " diffusion and ", Param("loop"), " host: otherwise only the likeliest id is taken"
            raise UsageError(least, " needs ", *needs)
        speculate = self.compute is not None and self.compute.speculate
        others = {"speculate": speculate, "fallback": self.fallback, "stop": self.stop, "template": self.template}
        if given := [name for name, value in others.items() if value]:
            raise UsageError(least, " cannot be combined with ", *listed(given), ", which can end it sooner; leave one out")

    def _check_given(self) -> None:
        """Template and draft."""
        strength = self.strength
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < strength <= 1:
            raise UsageError(Param("strength"), f" {strength!r} must be a number above 0 and at most 1")
        given = [name for name in ("template", "draft") if getattr(self, name) is not None]
        if strength != STRENGTH and "draft" not in given:
            why = " says how much of a draft is noise; give "
            raise UsageError(Param("strength"), why, Param("draft"), " as well, or leave it out")
        if not given:
            return
        if len(given) == 2:
            raise UsageError("give ", *listed(given, " or "), ", not both")
        if not isinstance(text := getattr(self, given[0]), str) or not text:
            raise UsageError(Param(given[0]), " must be non-empty text")
        if self.decoder == AUTOREGRESSIVE or self.loop != "host":
            needs = Param("decoder"), " diffusion and ", Param("loop"), " host: otherwise every canvas starts from noise"
            raise UsageError(Param(given[0]), " needs ", *needs)
        if self.compute is not None and (self.compute.start_width is not None or self.compute.speculate):
            others = [name for name in self.compute.given if name in ("start_width", "speculate")]
            raise UsageError(Param(given[0]), " fills the whole canvas; leave ", *listed(others), " out")
        if self.template is not None:
            read_template(self.template)
            if self.stop or self.fallback:
                others = ["stop"] * bool(self.stop) + ["fallback"] * bool(self.fallback)
                raise UsageError(Param("template"), " determines where the answer ends; leave ", *listed(others), " out")

    def _check_structure(self) -> None:
        """What an answer of a language cannot go with."""
        if self.choice_probabilities and (self.structure is None or not self.structure.choices):
            raise UsageError(Param("choice_probabilities"), " needs ", Param("choices"), "; give them, or leave it out")
        if self.structure is None:
            return
        if not isinstance(self.structure, Structure):
            raise UsageError(Param("structure"), f" {self.structure!r} must be a Structure, such as Structure.read(path)")
        name = Param(self.structure.name)
        if self.decoder == AUTOREGRESSIVE or self.loop != "host":
            why = " host: otherwise the probabilities of other ids are not known"
            raise UsageError(name, " needs ", Param("decoder"), " diffusion and ", Param("loop"), why)
        if self.compute is not None and (self.compute.start_width is not None or self.compute.speculate):
            others = ["start_width"] * (self.compute.start_width is not None) + ["speculate"] * self.compute.speculate
            raise UsageError(name, " needs the whole canvas from its first step on; leave ", *listed(others), " out")
        ends = [one for one in ("stop", "fallback", "template", "min_tokens") if getattr(self, one) not in (None, (), 0)]
        if ends:
            raise UsageError(name, " determines what the answer is and where it ends; leave ", *listed(ends), " out")
        steers = [one for one in self.sampler.given if one in ("top_k", "top_p", "min_p", "logit_bias")]
        steers += [one for one in ("ban", "logprobs") if getattr(self, one) not in (None, ())]
        if steers:
            raise UsageError(name, " takes the likeliest ids that fit instead of drawing; leave ", *listed(steers), " out")
        if self.think:
            raise UsageError(name, " covers the whole answer, thoughts included; leave ", Param("think"), " out")

    def _check_guidance(self) -> None:
        """What guidance cannot go with."""
        if self.guidance is None:
            return
        if not isinstance(self.guidance, Guidance):
            raise UsageError(Param("guidance"), f" {self.guidance!r} must be a Guidance")
        if self.decoder == AUTOREGRESSIVE or self.loop != "host":
            why = " host: the other graphs have no second pass"
            raise UsageError(Param("guidance"), " needs ", Param("decoder"), " diffusion and ", Param("loop"), why)
        if self.compute is not None:
            raise UsageError(
                Param("guidance"), " needs every position in every step; leave ", *listed(self.compute.given), " out"
            )

    @property
    def banned(self) -> tuple[str | int, ...]:
        """Ids and texts of `ban`."""
        return tuple(self.ban)  # type: ignore[arg-type]  # a tuple by now

    @property
    def speaks(self) -> bool:
        """Whether it says something about the conversation, which then is given whole."""
        return self.system is not None or self.think or bool(self.tools)

    @classmethod
    def of(cls, **keywords: Unpack[GenerateKeywords]) -> Self:
        """From the fields, with those of `ComputePolicy` and `SamplerOptions` in place of `compute` and `sampler`, those of
        `Structure` or `structure`, and the arguments of `Guidance.of` in place of `guidance`; and `tool_choice`: auto (the
        default) lets the model decide, required makes the answer a call of one of the tools, and a tool's name a call of that
        one. Raises UsageError."""
        given = _renamed(keywords)
        policy = ComputePolicy.of(**{f.name: given.pop(f.name) for f in fields(ComputePolicy) if f.name in given})
        sampler = SamplerOptions(**{f.name: given.pop(f.name) for f in fields(SamplerOptions) if f.name in given})
        calls = forced(given.get("tools", ()), given.pop("tool_choice", NOT_FORCED))
        language = Structure.of(**{f.name: given.pop(f.name) for f in fields(Structure) if f.name in given}, calls=calls)
        structure = either(given.pop("structure", None), language)
        guidance = Guidance.of(**{name: given.pop(name) for name in GUIDANCE if name in given})
        return cls(compute=policy, sampler=sampler, structure=structure, guidance=guidance, **given)


def _renamed(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords by their new names; raises UsageError for unknown ones and for two names of one."""
    for name in keywords.keys() - GenerateKeywords.__annotations__.keys() - _RENAMED.keys():
        near = get_close_matches(name, GenerateKeywords.__annotations__, n=1)
        cure = f"did you mean {near[0]}?" if near else f"choose from {', '.join(GenerateKeywords.__annotations__)}"
        raise UsageError(f"unknown keyword {name}; {cure}", param=name)
    for old in _RENAMED.keys() & keywords:
        if _RENAMED[old] in keywords:
            raise UsageError(f"{old} is the old name of {_RENAMED[old]}; give only {_RENAMED[old]}", param=old)
        warnings.warn(f"{old} is now called {_RENAMED[old]}", DeprecationWarning, stacklevel=5)  # of whoever calls `generate`
    return {_RENAMED.get(name, name): value for name, value in keywords.items()}
