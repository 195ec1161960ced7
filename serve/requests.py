"""What requests may hold. One model per endpoint: it checks bodies, and it is their schema in the published OpenAPI."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from dgemma.core.generate_options import GenerateKeywords, GenerateOptions
from dgemma.core.guidance import MOST
from dgemma.core.sampler import MOST_STEPS
from dgemma.core.schedule import HOTTEST
from dgemma.core.structure import DEEPEST, GRAMMAR_DEPTH, REQUIRED
from dgemma.serve.bodies import Body
from dgemma.serve.errors import ApiError
from dgemma.serve.formats import ChatFormat
from dgemma.serve.tools import CHOICE, Tool, ToolChoice, ToolUse

MOST_ANSWERS = 8
_ENDS = r"^[0-9]{1,3}(\.[0-9]{1,6})?:[0-9]{1,3}(\.[0-9]{1,6})?$"
_RANGE = r"^[0-9]{1,4}(:[0-9]{1,4})?$"
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, Field(min_length=1)]
BANS = -100  # of `logit_bias`, as OpenAI's API has it
Bias = Annotated[float, Field(ge=BANS, le=100)]
Number = Annotated[int, Field(ge=1, le=1_000_000)]
Nats = Annotated[float, Field(gt=0, le=1_000_000)]
_KEYWORDS = GenerateKeywords.__annotations__.keys() - {"system", "think", "tools", "tool_choice"}  # which are in the prompt


class Table(Body):
    """Values of every step, first step first."""

    temperature: list[Annotated[float, Field(ge=0, le=HOTTEST)]] = Field([], min_length=1, max_length=MOST_STEPS)
    entropy_bound: list[Nats] = Field([], min_length=1, max_length=MOST_STEPS)


class Generation(Body):
    """What all generations may be asked for; from `decoder` on, dgemma's own options."""

    model: str = Field(min_length=1, max_length=200, description="Name of a bundle, as /v1/models lists it.")
    stream: bool = Field(False, description="Send text as it is committed, as server-sent events.")
    temperature: Annotated[float, Field(ge=0, le=HOTTEST)] | Annotated[str, Field(pattern=_ENDS)] | None = Field(
        None, description="Temperature in every step; A:B from the first step to the last. Default: as exported."
    )
    top_p: float | None = Field(None, gt=0, le=1, description="Draw among the likeliest ids with this total probability.")
    top_k: Annotated[int, Field(ge=1, le=10_000)] | None = Field(None, description="Draw among this many of the likeliest ids.")
    min_p: float | None = Field(None, ge=0, le=1, description="Draw among ids at least this many times as likely as the first.")
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Bias] | None = Field(
        None,
        max_length=10_000,
        description="Id → what is added to its logit; -100 bans it. Only the likeliest ids can be lifted.",
    )
    ban: Text | Annotated[list[Annotated[int, Field(ge=0)] | Text], Field(max_length=1000)] | None = Field(
        None, description="Ids that are never written, or texts of one token."
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(None, description="Strings that end the text.")
    seed: int | None = Field(None, ge=0, lt=1 << 64, description="Seed of all noise; without it, one is drawn and reported.")
    user: str | None = Field(None, max_length=1000, description="Changes nothing.")
    metadata: dict[str, str] | None = Field(None, description="Changes nothing.")
    decoder: Literal["diffusion", "autoregressive"] | None = Field(None, description="How tokens are decoded.")
    loop: Literal["host", "graph"] | None = Field(None, description="Whether the model is called per step or per canvas.")
    adaptive: bool | None = Field(None, description="false: always run every denoising step.")
    early_commit: float | None = Field(None, gt=0, le=100, description="Nats below which a position is committed early.")
    start_width: Literal["auto"] | Number | None = Field(None, description="Positions of a canvas's first step.")
    recheck: bool | None = Field(None, description="Run all positions once more before a canvas is committed.")
    speculate: bool | None = Field(None, description="Canvases are drafts that the causal encoder checks.")
    max_steps: Annotated[int, Field(ge=1, le=10_000)] | None = Field(None, description="Most denoising steps per canvas.")
    entropy_bound: Nats | Annotated[str, Field(pattern=_ENDS)] | None = Field(
        None, description="Most nats accepted in a step, in total; A:B from the first step to the last."
    )
    schedule: Literal["linear", "cosine"] | Table | None = Field(
        None, description="How temperature and bound change from step to step: a shape, or the values of every step."
    )
    min_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(None, description="Fewest tokens of the answer.")
    confidence: float | None = Field(None, gt=0, le=100, description="Mean entropy in nats below which a canvas may end.")
    stability: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        None, description="Steps without a change before a canvas may end."
    )
    regex: Text | None = Field(
        None, description="Expression that matches the whole answer, in the syntax of Rust's regex crate."
    )
    grammar: Text | None = Field(None, description="Grammar of the whole answer, in Lark's form, with a rule `start`.")
    grammar_depth: Annotated[int, Field(ge=0, le=DEEPEST)] | None = Field(
        None, description=f"How many times a rule of the grammar may stand inside itself. Default: {GRAMMAR_DEPTH}."
    )
    choices: Annotated[list[Text], Field(min_length=2, max_length=1000)] | None = Field(
        None, description="The possible answers."
    )
    choice_probabilities: bool | None = Field(None, description="Report the probability of each choice.")
    guidance: Annotated[float, Field(ge=0, le=MOST)] | None = Field(
        None, description="How strongly steps are guided away from the negative prompt; 1 changes nothing."
    )
    negative: Text | None = Field(None, description="What guidance leads away from, in place of the last user turn.")
    guidance_steps: (
        Annotated[str, Field(pattern=_RANGE)]
        | Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
        | None
    ) = Field(None, description="First and last step of each canvas that are guided.")
    fallback: Literal["autoregressive"] | None = Field(None, description="Decode token by token if the answer is empty.")
    template: Text | None = Field(None, description="The answer, with holes that the model fills, such as {{8}} for 8 tokens.")
    draft: Text | None = Field(None, description="A text to start from instead of noise.")
    strength: float | None = Field(None, gt=0, le=1, description="How much of the draft is noise.")
    frames: bool = Field(False, description="In a stream, also send an event for every denoising step.")

    @field_validator("frames", "stream_options", check_fields=False)
    @classmethod
    def _streams(cls, value: Any, info: ValidationInfo) -> Any:
        if value and not info.data.get("stream"):
            raise ValueError("only applies to streams; give stream as well, or leave it out")
        return value

    @field_validator("strength")
    @classmethod
    def _drafts(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and not info.data.get("draft"):
            raise ValueError("says how much of a draft is noise; give draft as well, or leave it out")
        return value

    def most_tokens(self) -> int | None:
        """The limit of tokens that was asked for."""
        raise NotImplementedError

    def most_logprobs(self) -> int | None:
        """How many log-probabilities each token is to have beside its own; None: it has none."""
        return None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The schema that the answer is to be JSON of; None: it is text."""
        return None

    def must_call(self) -> list[dict[str, Any]]:
        """Tools of which the answer is to call one; none where it need not. Raises ApiError."""
        return []

    @property
    def is_structured(self) -> bool:
        """Whether the answer is to be of a language. Raises ApiError."""
        texts = (self.regex, self.grammar, self.choices, self.schema_of_answer())
        return any(one is not None for one in texts) or bool(self.must_call())

    def names(self) -> dict[str, str]:
        """Keywords of Python that this body has other fields for."""
        limits = ("max_completion_tokens", "max_output_tokens", "max_tokens")
        limit = next((name for name in limits if name in self.model_fields_set), limits[-1])
        logprobs = "top_logprobs" if "top_logprobs" in self.model_fields_set else "logprobs"
        schema = "text" if "text" in type(self).model_fields else "response_format"
        return {"max_new_tokens": limit, "logprobs": logprobs, "json_schema": schema}

    def options(self, room: int, seed: int, **more: Any) -> GenerateOptions:
        """For a prompt that leaves `room` tokens. Raises UsageError, ApiError."""
        keywords = {name: getattr(self, name) for name in self.model_fields_set & _KEYWORDS} | {
            "top_p": None if self.top_p == 1 else self.top_p,  # which cuts nothing, and clients send it unasked
            "min_p": self.min_p or None,
            "logit_bias": {int(i): -math.inf if value == BANS else value for i, value in (self.logit_bias or {}).items()}
            or None,
            "logprobs": self.most_logprobs(),
            "schedule": self.schedule.model_dump() if isinstance(self.schedule, Table) else self.schedule,
            "json_schema": self.schema_of_answer(),
        }
        given = {name: value for name, value in keywords.items() if value is not None}
        most = self.most_tokens()
        if calls := self.must_call():
            given |= {"tools": calls, "tool_choice": REQUIRED}
        limits = {"max_new_tokens": max(1, room) if most is None else most, "seed": seed}
        options = GenerateOptions.of(**{**given, **limits, **more})
        return replace(options, tools=()) if calls else options

    def first_seed(self) -> int:
        return secrets.randbits(32) if self.seed is None else self.seed


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextPart(Body):
    type: Literal["text"]
    text: str


class Function(Body):
    name: str = Field(min_length=1, max_length=200)
    arguments: str


class ToolCall(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    # What answers of OpenAI's API hold besides, and clients send back.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    provider_specific_fields: dict[str, Any] | None = Field(None, description="Changes nothing.")

    def to_dict(self) -> dict[str, Any]:
        """As `read_messages` takes it."""
        found = self.model_dump(exclude_none=True, exclude={"annotations", "provider_specific_fields"})
        return {"content": None, **found}


class ChatRequest(ToolUse, Generation):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    n: int = Field(1, ge=1, le=MOST_ANSWERS, description="Number of answers; each uses the next seed.")
    max_tokens: Number | None = None
    max_completion_tokens: Number | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice | None = Field(None, description=CHOICE)
    think: bool | None = Field(None, description="Let the model think before it answers.")
    logprobs: bool | None = Field(None, description="Report each token's log-probability; in a stream, in the last chunk.")
    response_format: ChatFormat | None = Field(
        None, description="Form of the answer: text, a JSON object, or JSON that follows a schema."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Also report this many of the likeliest ids in its place.")

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("adds to logprobs; give logprobs: true as well, or leave it out")
        return value

    def schema_of_answer(self) -> dict[str, Any] | None:
        return None if self.response_format is None else self.response_format.schema_of_answer()

    def most_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def most_tokens(self) -> int | None:
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ApiError(400, "give max_completion_tokens or max_tokens, not both", param="max_tokens", code="invalid_value")
        return self.max_completion_tokens or self.max_tokens


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)]


class CompletionRequest(Generation):
    """`/v1/completions`: prompts as they are, without the chat template."""

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=64)]
        | Annotated[list[Ids], Field(min_length=1, max_length=64)]
    )
    n: int = Field(1, ge=1, le=MOST_ANSWERS, description="Number of answers per prompt; each uses the next seed.")
    max_tokens: Number = 16
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(
        None, ge=0, le=5, description="Report each token's log-probability, and those of this many likeliest ids."
    )

    def most_logprobs(self) -> int | None:
        return self.logprobs

    def most_tokens(self) -> int | None:
        return self.max_tokens

    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        whole: list[Any] = self.prompt
        return [whole] if isinstance(whole[0], int) else whole
