"""`/v1/responses`: the same generations in the form of OpenAI's newer API. Nothing is stored between requests."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from dgemma.serve import chat
from dgemma.serve.bodies import Body
from dgemma.serve.errors import ApiError
from dgemma.serve.formats import TextOptions
from dgemma.serve.jobs import Ask, Done, Event, Frame, Piece
from dgemma.serve.models import Model
from dgemma.serve.requests import Generation, Number
from dgemma.serve.streams import KEEP_ALIVE, event
from dgemma.serve.tools import CHOICE, ResponseTool, ResponseToolChoice, ToolUse


class InputPart(Body):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = Field(None, max_length=0)
    logprobs: list[Any] | None = Field(None, max_length=0)


class InputMessage(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = None
    status: str | None = None
    phase: None = None


class FunctionCall(Body):
    type: Literal["function_call"]
    call_id: str
    name: str = Field(min_length=1, max_length=200)
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutput(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputPart]
    id: str | None = None
    status: str | None = None


class ReasoningPart(Body):
    type: Literal["reasoning_text"]
    text: str


class Reasoning(Body):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] = Field(default_factory=list, max_length=0)
    content: list[ReasoningPart] | None = None
    encrypted_content: None = None
    status: str | None = None


Item = InputMessage | FunctionCall | FunctionOutput | Reasoning


class ResponseRequest(ToolUse, Generation):
    """`/v1/responses`."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=10_000)]
    instructions: str | None = Field(None, min_length=1, description="A system turn before the input.")
    max_output_tokens: Number | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=128)
    tool_choice: ResponseToolChoice | None = Field(None, description=CHOICE)
    think: bool | None = Field(None, description="Let the model think before it answers.")
    text: TextOptions | None = Field(
        None, description="Form of the answer: text, a JSON object, or JSON that follows a schema."
    )

    def schema_of_answer(self) -> dict[str, Any] | None:
        form = None if self.text is None else self.text.format
        return None if form is None else form.schema_of_answer()

    def most_tokens(self) -> int | None:
        return self.max_output_tokens

    def messages(self) -> list[dict[str, Any]]:
        """As `read_messages` takes them: items of one answer are one message."""
        found: list[dict[str, Any]] = []
        if self.instructions is not None:
            found.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*found, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, InputMessage) and item.role != "assistant":
                found.append({"role": item.role, "content": _text(item.content)})
            elif isinstance(item, FunctionOutput):
                found.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            else:
                _add(_answer(found), item)
        return found


def _text(content: str | list[InputPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _answer(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer that items go on with, or a new one."""
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": ""})
    return found[-1]


def _add(answer: dict[str, Any], item: Item) -> None:
    if isinstance(item, InputMessage):
        answer["content"] += _text(item.content)
    elif isinstance(item, FunctionCall):
        call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
        answer.setdefault("tool_calls", []).append(call)
    elif isinstance(item, Reasoning):
        answer["thinking"] = "\n".join(part.text for part in item.content or [])


def response_asks(model: Model, body: ResponseRequest, cancelled: chat.Cancelled) -> list[Ask]:
    """Raises ApiError, UsageError, TokenizerError, PromptTooLong."""
    if body.instructions is not None and not model.facts()["system"]:
        text = f"instructions: model {model.name} does not support system turns; leave it out"
        raise ApiError(400, text, param="instructions", code="unsupported_parameter")
    said = body.messages(), body.declared(), body.think
    return chat.asks(model, body, [chat.chat_ids(model, *said)], 1, chat.negative_ids(model, body, *said), cancelled)


def _format(text: TextOptions | None) -> dict[str, Any]:
    if text is None or text.format is None:
        return {"type": "text"}
    return text.format.model_dump(by_alias=True, exclude_none=True)


class ResponseForm:
    """The answer to one request."""

    def __init__(self, model: Model, body: ResponseRequest) -> None:
        self._number = 0
        tools, choice = [tool.model_dump() for tool in body.tools or []], body.tool_choice
        self._head = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model.name,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature if isinstance(body.temperature, float | int) else None,
            "text": {"format": _format(body.text)},
            "tool_choice": choice or "auto" if choice is None or isinstance(choice, str) else choice.model_dump(),
            "tools": [{"strict": False, **{k: v for k, v in tool.items() if v is not None}} for tool in tools],
            "top_p": None,
            "truncation": "disabled",
            "reasoning": {"effort": None, "summary": None},
        }

    def whole(self, done: list[Done]) -> dict[str, Any]:
        (one,) = done
        items = []
        if one.result.thinking:
            items.append(_reasoning(one.result.thinking))
        if one.result.text or not one.result.tool_calls:
            items.append(_message(one.result.text))
        return self._ended(one, [*items, *self._calls(one)])

    async def stream(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        writer = _Writer(self)
        yield self._event("response.created", response=self._begun())
        yield self._event("response.in_progress", response=self._begun())
        try:
            async for one in events:
                if isinstance(one, Frame):
                    yield self._event(chat.FRAME, frame=one.canvas)
                elif isinstance(one, Piece):
                    yield b"".join(writer.piece(one.event.thinking, one.event.text))
                elif isinstance(one, Done):
                    parts = b"".join(writer.end(one, self._calls(one)))
                    ended = self._ended(one, writer.items)
                    yield parts + self._event(f"response.{ended['status']}", response=ended)
                else:
                    yield KEEP_ALIVE
        except ApiError as error:
            told = error.body["error"]
            failed = {"code": told["code"] or "server_error", "message": told["message"]}
            body = {**self._begun(), "status": "failed", "error": failed, "output": writer.items}
            yield self._event("response.failed", response=body)

    def _begun(self) -> dict[str, Any]:
        return {**self._head, "status": "in_progress", "output": [], "usage": None}

    def _ended(self, one: Done, items: list[dict[str, Any]]) -> dict[str, Any]:
        found, cut = chat.usage([one]), chat.finish_reason(one.result) == "length"
        usage = {
            "input_tokens": found.pop("prompt_tokens"),
            "input_tokens_details": found.pop("prompt_tokens_details"),
            "output_tokens": found.pop("completion_tokens"),
            "output_tokens_details": found.pop("completion_tokens_details"),
            **found,
        }
        details = {"reason": "max_output_tokens"} if cut else None
        body = {**self._head, "incomplete_details": details, "status": "incomplete" if cut else "completed"}
        return {**body, "output": items, "usage": usage, **chat.more(one.result)}

    @staticmethod
    def _calls(one: Done) -> list[dict[str, Any]]:
        return [
            {
                "type": "function_call",
                "id": f"fc_{secrets.token_hex(12)}",
                "call_id": f"call_{secrets.token_hex(12)}",
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
                "status": "completed",
            }
            for call in one.result.tool_calls
        ]

    def _event(self, kind: str, **values: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **values}, kind)


class _Writer:
    """Items of a streamed answer, opened and closed in turn."""

    def __init__(self, form: ResponseForm) -> None:
        self._event = form._event
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def piece(self, thinking: str, text: str) -> Iterator[bytes]:
        for kind, new in (("reasoning", thinking), ("message", text)):
            if new:
                yield from self._turn_to(kind)
                assert self._open is not None
                self._open["content"][0]["text"] += new
                name = "reasoning_text" if kind == "reasoning" else "output_text"
                more: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
                yield self._event(f"response.{name}.delta", **self._place(), delta=new, **more)

    def end(self, one: Done, calls: list[dict[str, Any]]) -> Iterator[bytes]:
        if not calls and not any(item["type"] == "message" for item in self.items):
            yield from self._turn_to("message")
        yield from self._close()
        for call in calls:
            self.items.append(call)
            at = {"item_id": call["id"], "output_index": len(self.items) - 1}
            begun = {**call, "arguments": "", "status": "in_progress"}
            yield self._event("response.output_item.added", output_index=at["output_index"], item=begun)
            yield self._event("response.function_call_arguments.delta", **at, delta=call["arguments"])
            yield self._event("response.function_call_arguments.done", **at, name=call["name"], arguments=call["arguments"])
            yield self._event("response.output_item.done", output_index=at["output_index"], item=call)

    def _turn_to(self, kind: str) -> Iterator[bytes]:
        if self._open is not None and self._open["type"] == kind:
            return
        yield from self._close()
        made = _reasoning("") if kind == "reasoning" else _message("")
        self._open = {**made, "status": "in_progress"}
        self.items.append(self._open)
        added = {**self._open, "content": []}
        yield self._event("response.output_item.added", output_index=len(self.items) - 1, item=added)
        part = dict(self._open["content"][0])
        yield self._event("response.content_part.added", **self._place(), part=part)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        part, reasons = self._open["content"][0], self._open["type"] == "reasoning"
        name = "reasoning_text" if reasons else "output_text"
        more: dict[str, Any] = {} if reasons else {"logprobs": []}
        yield self._event(f"response.{name}.done", **self._place(), text=part["text"], **more)
        yield self._event("response.content_part.done", **self._place(), part=dict(part))
        self._open["status"] = "completed"
        yield self._event("response.output_item.done", output_index=len(self.items) - 1, item=self._open)
        self._open = None

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": len(self.items) - 1, "content_index": 0}


def _reasoning(text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": f"rs_{secrets.token_hex(12)}", "summary": [], "content": content, "status": "completed"}


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {
        "type": "message",
        "id": f"msg_{secrets.token_hex(12)}",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
