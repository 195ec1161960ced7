"""What a session hands out: the result of a generation, events of committed text, and one event per denoising step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from dgemma.core.messages import Message, ToolCall
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.engines.base import Array

StopReason = Literal["stop", "length", "context", "cancelled"]


class TokenLogprob(NamedTuple):
    """Natural log-probability of a committed token, from the step that last ran its position, of the tempered distribution.

    Args:
        token: its id.
        logprob: 0 where the token was given, −inf where all the likeliest ids were banned.
        top: likeliest ids and their log-probabilities, falling, as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds of one generation.

    Args:
        load_s: loading graphs that were not loaded before.
        prefill_s: encoding what the prefix lacked before the first canvas.
        denoise_s: all denoising steps, or all decode calls of the autoregressive baseline.
        commit_s: encoding committed canvases that another one follows.
        total_s: all of it, callbacks included.
        engine_s: time inside native calls.
        waited_s: waiting for others, where sessions share an engine.
    """

    load_s: float
    prefill_s: float
    denoise_s: float
    commit_s: float
    total_s: float
    engine_s: float
    waited_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """One generation.

    Args:
        text: decoded tokens, without thoughts, calls and markers; empty for a bundle without a tokenizer.
        tokens: committed ids up to, without, the first stop token, at most max_new_tokens.
        steps: denoising steps run, over all canvases (calls of `decode` for the autoregressive baseline).
        canvases: canvases committed.
        position_forwards: positions put through the stack, summed over all denoising steps (or calls of `decode`), and the
            re-encoding of committed canvases included; prefill and padding are not.
        prefill_position_forwards: positions that were encoded before the first canvas.
        stop_reason: stop, length, context or cancelled; stop for a stop token and for a stop string.
        entropies: of each token, nats of the tempered distribution that it is the likeliest of, in the last step that ran its
            position; 0 where it was given. Empty where tokens came from greedy decoding (decoder autoregressive, speculate).
        logprobs: of each token, where they were asked for.
        holes: what each hole of a template was filled with.
        stop_string: the stop string that the answer ended before, if it did.
        choice_probabilities: of each choice, where they were asked for; they sum to 1.
        loop: host, graph, or decode.
        pads: how many padding tokens `tokens` ends with where no stop token was given. Rates do not count them, and the prefix
            does not hold them.
        trajectory: every step, where `trace` was asked for.
        thinking: what stands in thought channels, where the chat template has them; joined by line breaks.
        tool_calls: calls of tools, where the chat template has them.
        warnings: what is wrong with the answer, one line each: why it is empty, which calls are malformed.
        behind: turns that others had before it could begin, where sessions share an engine.
    """

    text: str
    tokens: tuple[int, ...]
    steps: int
    canvases: int
    position_forwards: int
    prefill_position_forwards: int
    stop_reason: StopReason
    engine: str
    loop: str
    timings: Timings
    pads: int = 0
    trajectory: Trajectory | None = None
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    warnings: tuple[str, ...] = ()
    stop_string: str | None = None
    behind: int = 0
    holes: tuple[str, ...] = ()
    entropies: tuple[float, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    choice_probabilities: Mapping[str, float] | None = None

    @property
    def message(self) -> Message:
        """The answer as a turn of `messages`."""
        return Message(role="assistant", content=self.text, tool_calls=self.tool_calls, thinking=self.thinking)

    @property
    def count(self) -> int:
        """Committed tokens without the padding at the end."""
        return len(self.tokens) - self.pads

    @property
    def tokens_per_forward(self) -> float:
        """Committed tokens, `pads` aside, over denoising steps run; 0 when none ran."""
        return self.count / self.steps if self.steps else 0.0

    @property
    def position_forwards_per_token(self) -> float | None:
        """Position-forwards over committed tokens, `pads` aside; None without tokens; about 1 for greedy decoding."""
        return self.position_forwards / self.count if self.count else None

    @property
    def score(self) -> float | None:
        """Sum of `logprobs`; None where there are none."""
        return sum(one.logprob for one in self.logprobs) if self.logprobs else None

    def to_dict(self) -> dict[str, Any]:
        """JSON types, as `dgemma run --json` prints them."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "steps": self.steps,
            "canvases": self.canvases,
            "tokens_per_forward": self.tokens_per_forward,
            "stop_reason": self.stop_reason,
            "engine": self.engine,
            "loop": self.loop,
            "timings": asdict(self.timings),
            "position_forwards": self.position_forwards,
            "position_forwards_per_token": self.position_forwards_per_token,
            "prefill_position_forwards": self.prefill_position_forwards,
            "thinking": self.thinking,
            "tool_calls": [call.to_dict() for call in self.tool_calls],
            "warnings": list(self.warnings),
            "stop_string": self.stop_string,
            **({"holes": list(self.holes)} if self.holes else {}),
            **({"choice_probabilities": dict(self.choice_probabilities)} if self.choice_probabilities else {}),
            **({"logprobs": [_plain(one) for one in self.logprobs], "score": _finite(self.score)} if self.logprobs else {}),
        }


def _plain(one: TokenLogprob) -> dict[str, Any]:
    return {"id": one.token, "logprob": _finite(one.logprob), "top": [list(pair) for pair in one.top]}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class TextEvent:
    """Text that has just been committed and stays. Joined, the pieces are `Result.text`; if the chat template has channels or
    tools, they are that without white space at its ends.

    Args:
        text: what is new of the answer; characters are whole.
        thinking: what is new of `Result.thinking`; a thought comes once it has ended.
        tokens: all that were committed so far; a stop string may take back the last of them.
    """

    text: str
    thinking: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """One denoising step that has run. Arrays belong to the session: read them, do not write.

    Args:
        canvas_index: number of the canvas, from 0.
        step: denoising steps run on this canvas so far, from 1.
        remaining: steps remaining when it ran, T…1.
        committed: tokens of the canvases before this one.
        argmax: [N] int64, what would be committed now.
        canvas: [N] int64, the next step's input.
        entropy: [N] float32, nats of the tempered distribution.
        accepted: [N] bool.
        text: decodes committed tokens and the argmax canvas up to its stop token, as `Result.text` would show them; a call of a
            tool that has no end yet is left out.
        thinking: the same of `Result.thinking`.
        kinds: text, thought or call, of each of these tokens.
    """

    canvas_index: int
    step: int
    remaining: int
    committed: tuple[int, ...]
    argmax: Array = field(repr=False)
    canvas: Array = field(repr=False)
    entropy: Array = field(repr=False)
    accepted: Array = field(repr=False)
    text: Callable[[], str] = field(repr=False)
    thinking: Callable[[], str] = field(repr=False)
    kinds: Callable[[], Sequence[str]] = field(repr=False)
