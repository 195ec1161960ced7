"""`/v1/chat/completions` and `/v1/completions`: what a request asks of a model, and answers in OpenAI's form."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from dgemma.core.errors import blaming
from dgemma.core.generate_options import AUTOREGRESSIVE, GenerateOptions
from dgemma.core.messages import OPENING_ROLES
from dgemma.runtime.result import Result
from dgemma.runtime.samples import check_several
from dgemma.serve.errors import ApiError
from dgemma.serve.jobs import Ask, Done, Event, Frame, Piece
from dgemma.serve.logprobs import of_chat, of_completion
from dgemma.serve.models import Model
from dgemma.serve.requests import ChatRequest, CompletionRequest, Generation
from dgemma.serve.streams import DONE, KEEP_ALIVE, event

Cancelled = Callable[[], bool]  # whether nobody waits for an answer any more
FRAME = "dgemma.frame"  # the type of events that hold a denoising step


def chat_ids(
    model: Model, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], think: bool | None
) -> tuple[int, ...]:
    """Ids of a conversation. Raises ApiError, UsageError, TokenizerError, PromptTooLong."""
    facts = model.facts()
    if not facts["chat"]:
        raise ApiError(400, f"model {model.name} has no chat template; use /v1/completions", param="model", code="no_chat")
    for given, key, param in ((bool(tools), "tools", "tools"), (bool(think), "thinking", "think")):
        if given and not facts[key]:
            raise ApiError(
                400,
                f"{param}: model {model.name} does not support {key}; leave it out",
                param=param,
                code="unsupported_parameter",
            )
    if model.single_turns and sum(message["role"] == "user" for message in messages) > 1:
        raise ApiError(
            400,
            f"model {model.name} knows only single turns and would answer later ones wrongly; send only the last message",
            param="messages",
            code="single_turns",
        )
    options = GenerateOptions(tools=tools, think=bool(think), decoder=AUTOREGRESSIVE)  # as in `completion_asks`
    return model.loaded.prompt_ids(None, options, messages=messages)


def negative_ids(
    model: Model,
    body: Generation,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    think: bool | None,
) -> tuple[int, ...] | None:
    """Ids of the negative prompt, if there is one: behind the system turn that the messages begin with, with the same tools.

    Raises as `chat_ids`.
    """
    if body.negative is None:
        return None
    opening = [message for message in messages[:1] if message["role"] in OPENING_ROLES]
    with blaming("negative"):
        return chat_ids(model, [*opening, {"role": "user", "content": body.negative}], tools, think)


def asks(
    model: Model,
    body: Generation,
    prompts: Sequence[tuple[int, ...]],
    n: int,
    negative: Sequence[int] | None,
    cancelled: Cancelled,
) -> list[Ask]:
    """A generation for each answer to each prompt. Raises ApiError, UsageError, PromptTooLong, and Cancelled where `cancelled`
    says so while a structure is compiled."""
    first, found = body.first_seed(), list[Ask]()
    guided = {} if negative is None else {"negative": negative}
    for ids in prompts:
        for number in range(n):
            options = body.options(model.manifest.context - len(ids), (first + number) % (1 << 64), **guided)
            if n > 1:
                check_several(options)
            if options.structure is not None and getattr(body, "think", None):  # which is in the prompt, and no option any more
                text = "think: a structured answer has no thoughts before it; leave think out"
                raise ApiError(400, text, param="think", code="invalid_value")
            model.loaded.prompt_ids(ids, options, cancelled=cancelled)
            found.append(Ask(index=len(found), ids=ids, options=options))
    return found


def chat_asks(model: Model, body: ChatRequest, cancelled: Cancelled) -> list[Ask]:
    said = [message.to_dict() for message in body.messages], body.declared(), body.think
    return asks(model, body, [chat_ids(model, *said)], body.n, negative_ids(model, body, *said), cancelled)


def completion_asks(model: Model, body: CompletionRequest, cancelled: Cancelled) -> list[Ask]:
    raw = GenerateOptions(raw=True, decoder=AUTOREGRESSIVE)  # room is checked with the real options
    prompts = [model.loaded.prompt_ids(prompt, raw) for prompt in body.prompts()]
    with blaming("negative"):
        negative = None if body.negative is None else model.loaded.prompt_ids(body.negative, raw)
    return asks(model, body, prompts, body.n, negative, cancelled)


def usage(done: Sequence[Done]) -> dict[str, Any]:
    """OpenAI's figures, and behind them dgemma's own."""
    results = [one.result for one in done]
    prompt = sum({one.ask.ids: len(one.ask.ids) for one in done}.values())
    completion = sum(result.count for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": done[0].kept if done else 0},
        "completion_tokens_details": {"reasoning_tokens": sum(one.thoughts for one in done)},
        "steps": sum(result.steps for result in results),
        "canvases": sum(result.canvases for result in results),
        "position_forwards": sum(result.position_forwards for result in results),
        "prefill_position_forwards": sum(result.prefill_position_forwards for result in results),
        "seed": int(done[0].ask.options.seed) if done else 0,
        "waited_turns": max((result.behind for result in results), default=0),
        "waited_s": round(sum(result.timings.waited_s for result in results), 4),
        "generation_s": round(sum(result.timings.total_s - result.timings.waited_s for result in results), 4),
    }


def finish_reason(result: Result) -> str:
    if result.tool_calls:
        return "tool_calls"
    return "stop" if result.stop_reason == "stop" else "length"


def tool_calls(result: Result) -> list[dict[str, Any]]:
    """Calls with ids of their own: those of a result are the same in every answer."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in result.tool_calls
    ]


class ChatForm:
    """Answers of one request to `/v1/chat/completions`."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, model: Model, body: ChatRequest | CompletionRequest) -> None:
        self._tokenizer = model.loaded.tokenizer
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": f"dgemma-{model.digest[:12]}",
        }

    def whole(self, done: Sequence[Done]) -> dict[str, Any]:
        choices = [self._choice(one) for one in done]
        return {"object": self.kind, **self._head, "choices": choices, "usage": usage(done)}

    async def stream(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        """Chunks; an error is the last event, for nothing that was sent is taken back."""
        done, begun = list[Done](), set[int]()
        try:
            async for one in events:
                if isinstance(one, Frame):
                    yield event({**self._chunk(), "choices": [], FRAME: {"choice": one.index, **one.canvas}}, FRAME)
                    continue
                if not isinstance(one, Piece | Done):
                    yield KEEP_ALIVE
                    continue
                parts = [] if one.index in begun else self._opening(one.index)
                begun.add(one.index)
                if isinstance(one, Piece):
                    parts.append(self._part(one.index, self._text(one)))
                else:
                    done.append(one)
                    parts += self._ending(one)
                yield b"".join(map(event, parts))
        except ApiError as error:
            yield event(error.body)
            return
        last = event({**self._chunk(), "choices": [], "usage": usage(done)}) if self._usage else b""
        yield last + DONE

    def _chunk(self) -> dict[str, Any]:
        return {"object": self.chunk_kind, **self._head, **({"usage": None} if self._usage else {})}

    def _part(self, index: int, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **more}
        return {**self._chunk(), "choices": [choice]}

    def _logprobs(self, result: Result) -> dict[str, Any] | None:
        return of_chat(result, self._tokenizer)

    def _opening(self, index: int) -> list[dict[str, Any]]:
        return [self._part(index, {"role": "assistant", "content": ""})]

    def _text(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.event.thinking:
            delta |= {"reasoning": piece.event.thinking, "reasoning_content": piece.event.thinking}
        if piece.event.text:
            delta["content"] = piece.event.text
        return delta

    def _ending(self, done: Done) -> list[dict[str, Any]]:
        calls = [{"index": number, **call} for number, call in enumerate(tool_calls(done.result))]
        parts = [self._part(done.index, {"tool_calls": [call]}) for call in calls]
        logprobs = self._logprobs(done.result)
        return [*parts, self._part(done.index, {}, finish_reason(done.result), logprobs=logprobs, **more(done.result))]

    def _choice(self, done: Done) -> dict[str, Any]:
        result, calls = done.result, tool_calls(done.result)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not result.text else result.text,
            "refusal": None,
        }
        if result.thinking:
            message |= {"reasoning": result.thinking, "reasoning_content": result.thinking}
        if calls:
            message["tool_calls"] = calls
        head = {"index": done.index, "message": message, "logprobs": self._logprobs(result)}
        return {**head, "finish_reason": finish_reason(result), **more(result)}


class CompletionForm(ChatForm):
    """Answers of one request to `/v1/completions`."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def _part(self, index: int, delta: Mapping[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": index, "text": delta.get("content", ""), "logprobs": None, "finish_reason": finish, **more}
        return {**self._chunk(), "choices": [choice]}

    def _logprobs(self, result: Result) -> dict[str, Any] | None:
        return of_completion(result, self._tokenizer)

    def _opening(self, index: int) -> list[dict[str, Any]]:
        return []

    def _ending(self, done: Done) -> list[dict[str, Any]]:
        logprobs = self._logprobs(done.result)
        return [self._part(done.index, {}, finish_reason(done.result), logprobs=logprobs, **more(done.result))]

    def _choice(self, done: Done) -> dict[str, Any]:
        choice = {"index": done.index, "text": done.result.text, "logprobs": self._logprobs(done.result)}
        return {**choice, "finish_reason": finish_reason(done.result), **more(done.result)}


def more(result: Result) -> dict[str, Any]:
    """The stop string that was met, what a template's holes were filled with, how probable choices are, and what is wrong with
    an answer."""
    found: dict[str, Any] = {} if result.stop_string is None else {"stop_reason": result.stop_string}
    if result.holes:
        found["holes"] = list(result.holes)
    if result.choice_probabilities:
        found["choice_probabilities"] = dict(result.choice_probabilities)
    if result.warnings:
        found["warnings"] = list(result.warnings)
    return found
