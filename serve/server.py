"""The server as a process: sockets, signals, log. The application is in `app`."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dgemma.core.errors import UsageError, listed
from dgemma.serve.app import Server, application
from dgemma.serve.errors import ApiError
from dgemma.serve.options import MOST_HEADER_BYTES, ServeOptions
from dgemma.serve.streams import encode


def serve(bundles: Sequence[Path], options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve until a signal says to stop. `ready` is told the address. Raises UsageError, BundleError."""
    _log_to_stderr()
    server = Server(bundles, options)
    taken = _socket(options)
    host, port = taken.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    process = _Process(configure(server), server, options)
    try:
        asyncio.run(process.run(taken, lambda: ready(f"http://{shown}:{port}")))
    finally:
        taken.close()


def configure(server: Server) -> uvicorn.Config:
    """uvicorn over a server's application, with the limits of its options."""
    options = server.options
    return uvicorn.Config(
        application(server),
        http=_protocol(options),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(options.grace_s) + 15,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
    )


class _Process(uvicorn.Server):
    """uvicorn, told to stop by a signal: requests at work get their time, those that come meanwhile are told to come again."""

    def __init__(self, config: uvicorn.Config, server: Server, options: ServeOptions) -> None:
        super().__init__(config)
        self._server, self._options = server, options

    async def run(self, taken: socket.socket, ready: Callable[[], None]) -> None:  # type: ignore[override]
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop, stop))
        serving = asyncio.create_task(self.serve([taken]))
        try:
            while not self.started and not serving.done():
                await asyncio.sleep(0.01)
            if self.started:
                ready()
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await self._server.stop(self._options.grace_s)
                self.should_exit = True
            stopping.cancel()
            await serving
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, stop: asyncio.Event) -> None:
        if stop.is_set():  # the second signal
            self._options_now()
        stop.set()

    def _options_now(self) -> None:
        """No more time for those that run."""
        for job in list(self._server.jobs._running):
            self._server.jobs.cancel(job, ApiError(503, "the server was stopped", code="overloaded", retry_after=10))
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Joined:
    """A transport that writes once what is written in one pass of the loop: each write is a packet, and wakes the client."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        data, self._parts = b"".join(self._parts), []
        if data and not self._transport.is_closing():
            self._transport.write(data)


def _protocol(options: ServeOptions) -> type[H11Protocol]:
    """uvicorn's protocol, with a time for headers to arrive in, and answers in OpenAI's form to what is no HTTP."""

    class Protocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            more = {"abort": self._abort, "flows": self._flows, "connections": self.connections}
            self.app_state = {**self.app_state, **more}

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            # Else a packet waits until the client has acknowledged the one before, which it may put off for 40 ms.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]  # which it stands in for
            if len(self.connections) > 2 * options.max_connections:
                transport.abort()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._wait(False)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait(self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] != b"")

        def send_400_response(self, msg: str) -> None:
            body = encode(ApiError(400, "this is not an HTTP request that the server understands", code="bad_request").body)
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
            self.transport.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            self.transport.close()

        def _wait(self, begun: bool = True) -> None:
            """For the rest of the headers, once they have begun."""
            if begun and self._patience is None:
                self._patience = self.loop.call_later(options.read_timeout_s, self._abort)
            elif not begun and self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _flows(self) -> bool:
            """Whether what is sent is taken at once, so that a `send` returns at once."""
            return not self.flow.write_paused

        def _abort(self) -> None:
            self.transport.abort()

    return Protocol


def _socket(options: ServeOptions) -> socket.socket:
    """Bound; raises UsageError."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(found[0], found[1])
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(found[4])
    except OSError as error:
        where = f"{options.host}:{options.port}"
        others = listed(("host", "port"), " or ")
        raise UsageError(f"cannot listen on {where} ({error.strerror or error}); choose another ", *others) from None
    return taken


def _log_to_stderr() -> None:
    """Lines of the server, and errors of uvicorn; a log that cannot be written ends nothing."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (("dgemma.serve", logging.INFO), ("uvicorn.error", logging.CRITICAL)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers[:] = [handler]
