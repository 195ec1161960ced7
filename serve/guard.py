"""What stands before every request: who may ask, how much, how fast; and headers, log and counts behind it.

It knows nothing of models.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dgemma.serve.errors import ApiError
from dgemma.serve.metrics import Metrics
from dgemma.serve.options import MOST_HEADER_BYTES, ServeOptions, is_loopback
from dgemma.serve.streams import Gone, impatient, send_json

log = logging.getLogger("dgemma.serve")
_PRIVATE = ("/v1/", "/metrics")  # what a key is needed for
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_METHODS = b"GET, POST, OPTIONS"


def _path(scope: Scope) -> str:
    """Without the path that the application is mounted at."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


class Guard:
    """An ASGI application around another one. `lifespan` is for the application that it is mounted in, if it is."""

    def __init__(
        self,
        app: ASGIApp,
        options: ServeOptions,
        metrics: Metrics,
        paths: Callable[[str], str],
        lifespan: Callable[[Any], AbstractAsyncContextManager[None]],
    ) -> None:
        self._app, self._options, self._metrics, self._name = app, options, metrics, paths
        self.lifespan = lifespan
        self._key = None if options.api_key is None else options.api_key.encode()
        self._hosts = {"localhost", options.host.lower(), *(name.lower() for name in options.allow_hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in options.cors_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        headers = {name.lower(): value for name, value in scope["headers"]}
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        shared = origin if origin in self._origins else None

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._headers(shared)]}
            await patient(message)

        patient = impatient(scope, send, self._options.write_timeout_s)
        try:
            if (refused := self._refuse(scope, headers, origin)) is not None:
                raise refused
            if scope["method"] == "OPTIONS" and shared is not None:
                await sent({"type": "http.response.start", "status": 204, "headers": []})
                await sent({"type": "http.response.body", "body": b""})
            else:
                await self._app(scope, self._limited(receive, headers), sent)
        except Gone:
            self._metrics.cancelled.labels("disconnect").inc()
        except ApiError as error:
            if not status:
                await send_json(sent, error.body, error.status, {**error.headers, "connection": "close"})
        except Exception as error:
            log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if not status:
                await send_json(sent, ApiError(500, "the server failed; its log says why", code="internal_error").body, 500)
        finally:
            seconds, name = time.perf_counter() - started, self._name(_path(scope))
            self._metrics.requests.labels(name, str(status or 499)).inc()
            self._metrics.request_seconds.labels(name).observe(seconds)
            log.info("%s %s %d %.3f s", scope["method"], name, status or 499, seconds)

    def _headers(self, shared: str | None) -> list[tuple[bytes, bytes]]:
        found = [*_HEADERS.items(), (b"vary", b"Origin")]
        if shared is not None:
            found += [
                (b"access-control-allow-origin", shared.encode()),
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", b"Authorization, Content-Type"),
            ]
        return found

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes], origin: str) -> ApiError | None:
        connections = scope.get("state", {}).get("connections", ())
        if len(connections) > self._options.max_connections:
            return ApiError(503, "too many connections are open; try again later", code="overloaded", retry_after=5)
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._knows(host):
            text = "the Host header names another server; use localhost or an IP address, or start with --allow-host"
            return ApiError(403, text, code="host_refused")
        if origin and origin not in self._origins and origin != f"{scope['scheme']}://{host}":
            text = "pages of other sites may not use this server; start it with --cors-origin to allow one"
            return ApiError(403, text, code="origin_refused")
        if self._key is not None and _path(scope).startswith(_PRIVATE) and scope["method"] != "OPTIONS":
            given = headers.get(b"authorization", b"")
            scheme, _, key = given.partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
                return ApiError(401, "give the API key as Authorization: Bearer KEY", code="invalid_api_key")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
            return ApiError(431, f"the headers are longer than {MOST_HEADER_BYTES} bytes", code="headers_too_long")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._options.max_body_bytes:
            return self._too_long()
        return None

    def _knows(self, host: str) -> bool:
        """Whether a Host header names this server: an address made of digits cannot be another site's."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if not name:
            return False
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._key is not None or is_loopback(name)

    def _limited(self, receive: Receive, headers: dict[bytes, bytes]) -> Receive:
        """Bodies of limited length, which have to arrive in time. Raises ApiError 413 or 408."""
        whole, taken = False, 0
        most, until = self._options.max_body_bytes, time.monotonic() + self._options.read_timeout_s

        async def received() -> Message:
            nonlocal whole, taken
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(max(0.01, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "the request did not arrive in time", code="timeout") from None
            taken += len(message.get("body", b""))
            if taken > most:
                raise self._too_long()
            whole = not message.get("more_body", False)
            return message

        return received

    def _too_long(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._options.max_body_bytes} bytes; send less", code="too_long")
