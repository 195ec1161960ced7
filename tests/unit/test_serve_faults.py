"""What goes wrong around a server: its files vanish, clients stop reading, and bytes come that are no requests."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served, serving

from dgemma.core.shipped import bundle_path
from dgemma.runtime import session as session_module

PROMPT = "Reverse the word table."


def test_a_bundle_that_is_deleted_while_it_serves(tmp_path: Path) -> None:
    """What is loaded needs its files no more; what would have to be read is a typed error; the server lives."""
    copy = shutil.copytree(bundle_path("tiny"), tmp_path / "copy.dgemma")
    with serving([copy]) as served:
        assert served.chat(PROMPT, seed=0)[0] == 200
        shutil.rmtree(copy)
        for more in ({}, {"loop": "graph"}, {"decoder": "autoregressive"}, {}):
            status, found = served.chat(PROMPT, seed=0, **more)
            if status == 200:
                assert found["choices"][0]["message"]["content"] == "elbat"
            else:
                assert (status, found["error"]["code"]) == (500, "engine_error") and more
                assert str(tmp_path) not in json.dumps(found) and "Traceback" not in json.dumps(found)
        assert status == 200 and served.request("GET", "/health")[0] == 200


class _Slow(FakeEngine):
    """Takes its time for a step, and has much to say."""

    pause = 0.0

    def _denoise(self, feeds: Any) -> Any:
        time.sleep(type(self).pause)
        return super()._denoise(feeds)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "open_engine", lambda bundle, *_: _Slow(bundle, [*range(200, 440)]))
        yield write_bundle(tmp_path_factory.mktemp("faults") / "toy.dgemma")


@pytest.fixture(scope="module")
def served(toy: Path) -> Iterator[Served]:
    with serving([toy], read_timeout_s=0.5) as found:
        yield found


def test_a_reader_that_stops_reading_is_given_up(toy: Path) -> None:
    """Over a socket whose buffers are small: its generation ends, the others' go on, and its connection is closed."""
    with serving([toy], write_timeout_s=0.3, send_buffer=2048) as served:
        body = {"model": "toy", "messages": [{"role": "user", "content": PROMPT}], "stream": True, "frames": True, "n": 8}
        data = json.dumps(body).encode()
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stuck.connect(("127.0.0.1", served.port))
            _Slow.pause = 0.005
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            stuck.sendall(head + f"content-length: {len(data)}\r\n\r\n".encode() + data)
            while not len(served.server.jobs):
                time.sleep(0.01)
            assert served.chat(PROMPT, max_tokens=5)[0] == 200
            assert served.idle()
            _Slow.pause = 0.0
            assert b'dgemma_cancelled_total{reason="disconnect"} 1.0' in served.request("GET", "/metrics")[1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"]),
    data=st.binary(max_size=200),
    length=st.integers(0, 300),
)
def test_bytes_that_are_no_requests(served: Served, before: bytes, data: bytes, length: int) -> None:
    """It is an error in OpenAI's form, or the connection is closed."""
    sized = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % length if before.startswith(b"POST") else b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(before + sized + data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
    if found:
        status = int(found.split()[1])
        assert 400 <= status < 500 and b'"error"' in found and b"Traceback" not in found
    assert served.request("GET", "/health")[0] == 200
