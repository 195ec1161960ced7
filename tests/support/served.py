"""A server in a thread of the test, on a free port."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from dgemma.core.shipped import bundle_path
from dgemma.serve.app import Server
from dgemma.serve.options import ServeOptions
from dgemma.serve.server import configure


class Served:
    """A running server: where it is, what is inside, and plain requests to it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port
        self.url = f"http://127.0.0.1:{port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (read as JSON where it is) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            kind = {} if data is None else {"content-type": "application/json"}
            connection.request(method, path, data, {**kind, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
            found = json.loads(text) if answer.headers.get_content_type() == "application/json" else text
            return answer.status, found, {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def chat(self, content: str, **more: Any) -> tuple[int, Any]:
        """A question, whole."""
        body = {"model": next(iter(self.server.models.by_name)), "messages": [{"role": "user", "content": content}], **more}
        return self.request("POST", "/v1/chat/completions", body)[:2]

    def idle(self) -> bool:
        """Whether nothing runs any more, which is waited for."""
        for _ in range(500):
            if not len(self.server.jobs):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(bundles: Sequence[str | Path], *, send_buffer: int | None = None, **options: Any) -> Iterator[Served]:
    """Until the block ends. `send_buffer`: bytes that the system takes from the server ahead of a client."""
    server = Server([bundle_path(bundle) for bundle in bundles], ServeOptions(**{"port": 0, "grace_s": 1, **options}))
    taken = socket.socket()
    if send_buffer is not None:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    taken.bind(("127.0.0.1", 0))
    process = uvicorn.Server(configure(server))
    thread = threading.Thread(target=lambda: asyncio.run(process.serve([taken])), daemon=True)
    thread.start()
    while not process.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Served(server, taken.getsockname()[1])
    finally:
        process.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
