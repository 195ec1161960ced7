"""Who may ask a server, and what it says to requests that are too long, too slow, or no requests at all."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Served, serving

from dgemma.cli import dispatch
from dgemma.core.errors import UsageError
from dgemma.runtime import session as session_module
from dgemma.serve.app import create_app
from dgemma.serve.options import ServeOptions

ANSWER = [*range(200, 230)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "toy.dgemma")


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    """Sessions run the toy model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "open_engine", lambda bundle, *_: FakeEngine(bundle, ANSWER))
        yield


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Iterator[Served]:
    with serving([bundle], read_timeout_s=0.5, max_body_bytes=5000, cors_origins=["https://app.example"]) as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example"}, 403, "host_refused"),
        ({"host": "127.0.0.1.evil.example"}, 403, "host_refused"),
        ({"host": "10.1.2.3"}, 403, "host_refused"),
        ({"host": ""}, 403, "host_refused"),
        ({"host": "localhost:1"}, 200, None),
        ({"host": "[::1]:80"}, 200, None),
        ({"origin": "https://evil.example"}, 403, "origin_refused"),
        ({"origin": "null"}, 403, "origin_refused"),
        ({"origin": "https://app.example"}, 200, None),
        ({"host": "localhost:9", "origin": "http://localhost:9"}, 200, None),
        ({"host": "localhost:9", "origin": "http://localhost:8"}, 403, "origin_refused"),
    ],
)
def test_other_sites_may_not_use_the_server(plain: Served, headers: dict[str, str], status: int, code: str | None) -> None:
    got, found, answered = plain.request("GET", "/v1/models", headers=headers)
    assert got == status and (code is None or found["error"]["code"] == code)
    shared = answered.get("access-control-allow-origin")
    assert shared == ("https://app.example" if headers.get("origin") == "https://app.example" else None)
    assert answered["x-content-type-options"] == "nosniff" and "default-src 'none'" in answered["content-security-policy"]


def test_a_named_site_may_ask_beforehand(plain: Served) -> None:
    status, _, headers = plain.request("OPTIONS", "/v1/chat/completions", headers={"origin": "https://app.example"})
    assert status == 204 and "Content-Type" in headers["access-control-allow-headers"]
    assert plain.request("OPTIONS", "/v1/chat/completions", headers={"origin": "https://other.example"})[0] == 403


def test_headers_have_a_limit(plain: Served) -> None:
    assert plain.request("GET", "/v1/models", headers={"x-long": "x" * 30_000})[0] == 200
    status, found, _ = plain.request("GET", "/v1/models", headers={"x-long": "x" * 40_000})
    assert status == 431 and found["error"]["code"] == "headers_too_long"


def test_a_key_is_needed_where_there_is_one(bundle: Path) -> None:
    with serving([bundle], api_key="a-long-secret", allow_hosts=["box.lan"]) as served:
        for key in ("", "Bearer", "Bearer wrong", "a-long-secret", "Bearer a-long-secret2"):
            for path in ("/v1/models", "/metrics", "/v1/chat/completions"):
                status, found, _ = served.request("GET", path, headers={"authorization": key} if key else {})
                assert (status, found["error"]["code"]) == (401, "invalid_api_key")
        assert served.request("GET", "/v1/models", headers={"authorization": "Bearer a-long-secret"})[0] == 200
        for path in ("/", "/health", "/openapi.json"):
            assert served.request("GET", path)[0] == 200
        for host, status in (("box.lan:80", 200), ("10.1.2.3", 200), ("evil.example", 403)):
            assert served.request("GET", "/health", headers={"host": host})[0] == status


def test_a_key_is_needed_wherever_the_server_is_mounted(bundle: Path) -> None:
    app = create_app([bundle], ServeOptions(api_key="a-long-secret"))
    for root in ("", "/ai"):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": f"{root}/v1/models", "root_path": root, "scheme": "http"}
        asyncio.run(app({**scope, "headers": [(b"host", b"localhost")]}, receive, send))
        assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines; give api_key"),
        ({"host": "192.168.1.5"}, "api_key"),
        ({"api_key": "short"}, "8 to 512"),
        ({"api_key": "with white space"}, "8 to 512"),
        ({"port": 70000}, "port"),
        ({"max_requests": 0}, "max_requests"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"cors_origins": ["*"]}, "cors_origins"),
        ({"threads": 0}, "threads 0"),
        ({"engine": "x"}, "engine 'x' is unknown"),
    ],
)
def test_options_that_are_not_safe_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ServeOptions(**options)
    for option in ("--cache-memory", "--memory"):
        for value in ("nan", "inf", "0", "-1"):
            assert dispatch(["serve", "tiny", option, value]) == 2
    ServeOptions(host="0.0.0.0", api_key="a-long-secret")
    ServeOptions(host="::1")


@pytest.mark.parametrize(
    ("method", "path", "data", "headers", "status"),
    [
        ("POST", "/v1/chat/completions", b"x" * 6000, {}, 413),
        ("POST", "/v1/chat/completions", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/chat/completions", b"{", {}, 400),
        ("POST", "/v1/chat/completions", b"[]", {}, 400),
        ("POST", "/v1/chat/completions", b"\xff", {}, 400),
        ("POST", "/v1/chat/completions", b"[" * 4000, {}, 400),
        ("POST", "/v1/chat/completions", b'{"model": "toy", "seed": ' + b"9" * 4500 + b"}", {}, 400),
        ("POST", "/v1/chat/completions", b'{"model": "toy", "early_commit": NaN}', {}, 400),
        ("POST", "/v1/chat/completions", b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud800"}]}', {}, 400),
        (
            "POST",
            "/v1/chat/completions",
            b'{"model": "../../etc/passwd", "messages": [{"role": "user", "content": "x"}]}',
            {},
            404,
        ),
        ("GET", "/v1/chat/completions", None, {}, 405),
        ("DELETE", "/v1/models", None, {}, 405),
        ("GET", "/page/../app.py", None, {}, 404),
        ("GET", "/page/%2e%2e%2fapp.py", None, {}, 404),
        ("GET", "/v1/models/%2e%2e", None, {}, 404),
        ("GET", "/v1/models/", None, {}, 404),
    ],
)
def test_requests_that_cannot_be(
    plain: Served, method: str, path: str, data: bytes | None, headers: dict[str, str], status: int
) -> None:
    got, found, answered = plain.request(method, path, data, headers)
    assert got == status and found["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in json.dumps(found) and answered["content-type"] == "application/json"


def raw(served: Served, data: bytes, wait: float = 5) -> bytes:
    """What the server says to bytes on a connection of their own, until it closes it."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=wait) as connection:
        connection.sendall(data)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found


def test_half_open_connections_are_closed(plain: Served) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    started = time.monotonic()
    assert raw(plain, b"") == b""  # nothing comes
    assert raw(plain, head) == b""  # the headers have no end
    late = raw(plain, head + b"content-length: 100\r\n\r\n{")
    assert late.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in late
    chunked = raw(plain, head + b"transfer-encoding: chunked\r\n\r\n" + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 3)
    assert chunked.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - started < 10
    assert plain.request("GET", "/health")[0] == 200


def test_what_is_no_http_is_an_error_in_the_same_form(plain: Served) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 40000 + b"\r\n\r\n",
    ):
        found = raw(plain, data)
        assert (
            found.startswith(b"HTTP/1.1 400") and json.loads(found.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "bad_request"
        )
    assert plain.request("GET", "/health")[0] == 200


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "stream",
        "n",
        "seed",
        "max_tokens",
        "tools",
        "tool_choice",
        "input",
        "prompt",
        "decoder",
        "start_width",
    ]
)


@settings(max_examples=60)
@given(
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses"]),
    some=st.dictionaries(_NAMES | st.text(max_size=5), _JSON, max_size=4),
    known=st.booleans(),
)
def test_no_body_breaks_the_server(plain: Served, path: str, some: dict[str, Any], known: bool) -> None:
    status, found, _ = plain.request("POST", path, {**some, **({"model": "toy"} if known else {})})
    assert 200 <= status < 500 and (status == 200 or found["error"]["message"]), found
