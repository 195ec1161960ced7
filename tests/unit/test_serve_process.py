"""`dgemma serve` as a process: how it starts, what it refuses, how it stops."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.core.install import pip_install


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tiny", "--host", "0.0.0.0"], "give --api-key"),
        (["tiny", "--port", "70000"], "port"),
        (["tiny", "--api-key", "short"], "8 to 512"),
        (["tiny", "tiny"], "another bundle is called tiny"),
        (["tiny", "--cors-origin", "*"], "--cors-origin '*'"),
        (["tiny", "--cache-memory", "0"], "--cache-memory 0"),
        (["no-such-folder"], "no-such-folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    fails(capsys, ["serve", *args], said)


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fails(capsys, ["serve", "tiny", "--port", str(taken.getsockname()[1])], "cannot listen on", "--port")


def test_without_the_extra_the_cure_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dgemma.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    fails(capsys, ["serve", "tiny"], "needs uvicorn", pip_install("serve"))


def test_the_help_loads_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["serve", "--help"]) == 0
    assert "--api-key" in capsys.readouterr().out


class Process:
    """A server on a port that was free, whose stderr goes to a file."""

    def __init__(self, log: str | Path, *args: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = int(found.getsockname()[1])
        command = [sys.executable, "-m", "dgemma", "serve", "tiny", "--port", str(self.port), *args]
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(command, stderr=out, stdout=subprocess.DEVNULL)

    def ask(self, prompt: str, **more: object) -> tuple[int, bytes]:
        body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "seed": 0, **more}
        for _ in range(600):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read()
            except ConnectionRefusedError:
                assert self.popen.poll() is None, "the server has ended"
                time.sleep(0.05)
            finally:
                connection.close()
        raise AssertionError("the server did not start")


@pytest.fixture
def started() -> Iterator[list[Process]]:
    found: list[Process] = []
    yield found
    for one in found:
        if one.popen.poll() is None:
            one.popen.kill()
        one.popen.wait(10)


def test_a_server_answers_and_stops_when_it_is_told_to(tmp_path: Path, started: list[Process]) -> None:
    process = Process(tmp_path / "log")
    started.append(process)
    status, body = process.ask("Reverse the word table.")
    found = json.loads(body)
    assert status == 200 and found["choices"][0]["message"]["content"] == "elbat"
    assert found["usage"]["waited_turns"] == 0 and found["usage"]["waited_s"] < 0.1, "nobody else was there"
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(30) == 0
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert f"serving at http://127.0.0.1:{process.port}" in log and "Traceback" not in log and "table" not in log


def has_children(pid: int) -> bool:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # it has ended since
            if (thread / "children").read_text():
                return True
    return False


def test_a_server_that_stops_compiles_nothing_more(tmp_path: Path, started: list[Process]) -> None:
    process = Process(tmp_path / "log")
    started.append(process)
    assert process.ask("Reverse the word table.")[0] == 200
    answers = list[tuple[int, bytes]]()
    asking = threading.Thread(target=lambda: answers.append(process.ask("x", regex="(a|b)*a(a|b){30}")))
    asking.start()
    while not has_children(process.popen.pid):
        time.sleep(0.01)
    process.popen.send_signal(signal.SIGTERM)
    clock = time.monotonic()
    assert process.popen.wait(30) == 0 and time.monotonic() - clock < 5
    asking.join(10)
    assert answers[0][0] == 503 and json.loads(answers[0][1])["error"]["code"] == "overloaded"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_on_a_full_disk_ends_nothing(started: list[Process]) -> None:
    process = Process("/dev/full")
    started.append(process)
    for _ in range(3):
        assert process.ask("Reverse the word table.")[0] == 200
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(30) == 0


@pytest.mark.slow
def test_10000_bodies_without_sense_and_half_open_connections(tmp_path: Path, started: list[Process]) -> None:
    """Many clients at once, some of which never end their request; the server lives, and answers."""
    process = Process(tmp_path / "log")
    started.append(process)
    process.ask("Reverse the word table.")
    stuck = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(200)]
    for one in stuck[::2]:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
    for number in range(10_000):
        body = [b"", b"{", b"[]", b"\xff\xfe", b'{"model":"tiny","messages":[{"role":"user"}]}', b'{"model":1}'][number % 6]
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        assert answer.status == 400 and "Traceback" not in json.dumps(found) and found["error"]["message"]
    assert process.ask("Reverse the word table.")[0] == 200
    for one in stuck:
        one.close()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")
