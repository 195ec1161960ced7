"""Answers on the wire: JSON, and server-sent events that are written as they come, to a client that may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Scope, Send

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class Gone(Exception):
    """The client has left, or takes nothing any more."""


def encode(value: Any) -> bytes:
    """Compact JSON in UTF-8; what no text can hold is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    return (b"" if name is None else b"event: " + name.encode() + b"\n") + b"data: " + encode(value) + b"\n\n"


async def send_json(send: Send, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """A whole answer."""
    await send_bytes(send, encode(value), "application/json", status, headers)


async def send_bytes(send: Send, body: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    fields = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def send_events(send: Send, events: AsyncIterator[bytes], more: Callable[[], bool]) -> None:
    """A stream, to its end. While `more` says that the next of the events, or their end, is there already, they are joined."""
    fields = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    body = b""
    async for one in events:
        body += one
        if not more():
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
    await send({"type": "http.response.body", "body": body})


def impatient(scope: Scope, send: Send, seconds: float) -> Send:
    """A `send` that gives up on a client that takes nothing for so long; raises Gone. The scope's state may say that nothing
    waits to be sent, so that there is nothing to wait for either."""
    state = scope.get("state", {})
    flows: Callable[[], bool] = state.get("flows", lambda: False)

    async def sent(message: Message) -> None:
        if flows():  # a timer for each message would cost more than the message
            await send(message)
            return
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            abort: Callable[[], None] = state.get("abort", lambda: None)
            abort()
            raise Gone from None

    return sent


async def while_connected(receive: Receive, send: Send, work: Callable[[Send], Coroutine[Any, Any, None]]) -> None:
    """Run `work`, which is cancelled where the client leaves before the answer is whole; raises Gone then."""
    whole = False

    async def sent(message: Message) -> None:
        nonlocal whole  # noted first: from then on, a client that leaves has got everything
        whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    working, leaving = asyncio.create_task(work(sent)), asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done() and not whole:
            raise Gone
        await working
    finally:
        await _end(leaving)
        await _end(working)


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
