"""What an answer costs the server beside its generation: packets, changes of threads and timers, which are counted."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, write_bundle
from served import Served, serving

from dgemma.runtime import session as session_module
from dgemma.serve import server
from dgemma.serve.jobs import Job
from dgemma.serve.streams import impatient, send_events

ANSWER = [*range(200, 280)]  # six canvases


class _Counted:
    """A transport that counts its writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self.writes = transport, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._transport.write(data)


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[_Counted]:
    """Those of connections, in the order in which they are opened."""
    made: list[_Counted] = []

    class Joined(server.Joined):
        def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
            made.append(_Counted(transport))
            super().__init__(made[-1], loop)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "Joined", Joined)
    return made


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transports: list[_Counted]) -> Iterator[Served]:
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: FakeEngine(bundle, ANSWER))
    with serving([write_bundle(tmp_path / "toy.dgemma")]) as found:
        yield found


def ask(connection: http.client.HTTPConnection, **more: Any) -> bytes:
    body = {"model": "toy", "messages": [{"role": "user", "content": "Reverse the word table."}], **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    with connection.getresponse() as answer:
        assert answer.status == 200
        return answer.read()


def pieces(text: bytes) -> int:
    """How many events of a stream hold text."""
    found = [json.loads(line[6:]) for line in text.splitlines() if line.startswith(b"data: {")]
    return sum(bool(choice["delta"].get("content")) for one in found for choice in one["choices"])


def test_an_answer_is_one_packet_for_everything_there_is(served: Served, transports: list[_Counted]) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
        ask(connection)
        (transport,) = transports
        assert transport.writes == 1
        texts = pieces(ask(connection, stream=True, stream_options={"include_usage": True}))
        assert texts > 1 and transport.writes - 1 <= texts + 1
        assert len(transports) == 1  # the connection is kept
        # A packet that waits for an acknowledgement of the one before waits for 40 ms.
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_threads_change_for_text_and_once_for_the_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    hear = Job._hear
    monkeypatch.setattr(Job, "_hear", lambda job, told, last: (heard.append(len(told)), hear(job, told, last)))
    with closing(http.client.HTTPConnection("127.0.0.1", served.port)) as connection:
        texts = pieces(ask(connection, stream=True))
        assert heard == [1] * texts + [2]  # the answer's end, and the request's
        heard.clear()
        ask(connection, n=2)
        assert heard == [*[1] * texts, 1, *[1] * texts, 2]


def test_events_that_are_there_already_are_one_message() -> None:
    there, sent = [True, False, True], list[tuple[bytes, bool]]()

    async def events() -> AsyncIterator[bytes]:
        for one in (b"a", b"b", b"c"):
            yield one

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append((message["body"], message.get("more_body", False)))

    asyncio.run(send_events(send, events(), lambda: there.pop(0)))
    assert sent == [(b"ab", True), (b"c", False)]


def test_there_is_no_timer_where_nothing_waits_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(asyncio, "timeout", lambda seconds: pytest.fail("a timer"))
    scope = {"type": "http", "state": {"flows": lambda: True}}
    asyncio.run(impatient(scope, send, 1.0)({"type": "http.response.body"}))  # type: ignore[arg-type]
    assert sent == [{"type": "http.response.body"}]


def test_what_is_written_together_is_sent_in_order_and_before_the_end() -> None:
    told: list[Any] = []

    class Transport:
        ended = False

        def write(self, data: bytes) -> None:
            told.append(data)

        def close(self) -> None:
            told.append("closed")

        def abort(self) -> None:
            self.ended = True

        def is_closing(self) -> bool:
            return self.ended

    async def run() -> None:
        joined = server.Joined(Transport(), asyncio.get_running_loop())  # type: ignore[arg-type]
        joined.write(b"a")
        joined.write(b"b")
        assert told == []
        await asyncio.sleep(0)
        assert told == [b"ab"]
        joined.write(b"c")
        joined.close()
        await asyncio.sleep(0)
        assert told == [b"ab", b"c", "closed"]
        joined.write(b"d")
        joined.abort()
        await asyncio.sleep(0)
        assert told[3:] == []

    asyncio.run(run())
