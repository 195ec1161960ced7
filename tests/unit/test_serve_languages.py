"""Languages that take long to compile keep no other request waiting."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served import Served, serving

from dgemma.core.errors import Cancelled, UsageError
from dgemma.core.structure import Structure
from dgemma.runtime.session import Session
from dgemma.runtime.structure import byte_automaton, languages
from dgemma.runtime.structure.languages import Languages
from dgemma.runtime.structure.patience import Late, Patience

PROMPT = "Reverse the word table."
MANY = 12  # more than asyncio's threads on two processors


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Expressions that begin with an x are compiled once it is set, and refused."""
    let_go, compile_regex = threading.Event(), languages.compile_regex

    def compiled(regex: str, name: str, patience: Patience) -> Any:
        if not regex.startswith("x"):
            return compile_regex(regex, name, patience)
        while not let_go.wait(0.01):
            patience.check()
        raise UsageError("too large")

    monkeypatch.setattr(languages, "compile_regex", compiled)
    return let_go


def test_other_requests_go_on(slow: threading.Event) -> None:
    found = list[int]()

    def ask(served: Served, i: int) -> None:
        found.append(served.chat(PROMPT, regex=f"x{i}")[0])

    with serving(["tiny"]) as served:
        assert served.chat(PROMPT, choices=["yes", "no"])[0] == 200
        waiting = [threading.Thread(target=ask, args=(served, i)) for i in range(MANY)]
        for thread in waiting:
            thread.start()
        try:
            assert served.chat(PROMPT)[1]["choices"][0]["message"]["content"] == "elbat"
            assert served.request("GET", "/")[0] == 200
            assert not found and any(thread.name == "dgemma-compile" for thread in threading.enumerate())
        finally:
            slow.set()
        for thread in waiting:
            thread.join(60)
    assert found == [400] * MANY


def test_a_language_that_is_kept_waits_for_no_other(slow: threading.Event) -> None:
    with Session.load("tiny", threads=1) as session:
        assert session.tokenizer is not None
        kept, structure = Languages(session.tokenizer, 618), Structure(choices=["a", "b"])
        automaton = kept.compiled(structure)
        thread = threading.Thread(target=refused, args=(kept,))
        thread.start()
        again: list[Any] = []
        other = threading.Thread(target=lambda: again.append(kept.compiled(structure)))
        other.start()
        other.join(10)
        try:
            assert again == [automaton] and thread.is_alive()
        finally:
            slow.set()
        thread.join(60)


def refused(kept: Languages) -> None:
    with pytest.raises(UsageError):
        kept.compiled(Structure(regex="x"))


def test_what_is_compiled_ends_with_the_program() -> None:
    children = byte_automaton._Children()
    ended = list[tuple[int, bytes, bytes]]()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    thread = threading.Thread(target=lambda: ended.append(children.run(command, b"", Patience())))
    thread.start()
    while not children._running:
        thread.join(0.01)
    children.end()
    thread.join(10)
    assert len(ended) == 1 and ended[0][0] != 0
    with pytest.raises(OSError, match="ends"):
        children.run(command, b"", Patience())
    children = byte_automaton._Children()
    for patience, error in ((Patience(seconds=0.1), Late), (Patience(lambda: True), Cancelled)):
        with pytest.raises(error):
            children.run(command, b"", patience)
        assert not children._running


HEAVY = "(a|b)*a(a|b){%d}"  # 2^n states, so that it would take much longer than any test


def _no_work_left() -> bool:
    """Whether all that was compiled has ended, which is waited for."""
    for _ in range(200):
        if not byte_automaton._CHILDREN._running:
            return True
        time.sleep(0.01)
    return False


def test_a_cancel_ends_what_is_compiled() -> None:
    with Session.load("tiny", threads=1) as session:
        before = session.generate(PROMPT)
        for call in (session.generate, lambda *_, **more: session.sample(PROMPT, n=3, **more).results[0]):
            timer = threading.Timer(0.5, session.cancel)
            timer.start()
            clock = time.monotonic()
            result = call(PROMPT, regex=HEAVY % 30)
            assert time.monotonic() - clock < 5 and _no_work_left()
            assert (result.stop_reason, result.text, result.tokens, result.warnings) == ("cancelled", "", (), ())
        assert session.generate(PROMPT).tokens == before.tokens


def test_who_waits_for_another_structure_can_be_cancelled() -> None:
    with Session.load("tiny", threads=1) as session:
        assert session.tokenizer is not None
        kept, left = Languages(session.tokenizer, 618), threading.Event()
        threads = [threading.Thread(target=gives_up, args=(kept, HEAVY % n, left.is_set)) for n in (30, 31)]
        for thread in threads:
            thread.start()
        threads[1].join(0.3)
        assert all(thread.is_alive() for thread in threads)
        left.set()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def gives_up(kept: Languages, regex: str, cancelled: Callable[[], bool]) -> None:
    with pytest.raises(Cancelled):
        kept.compiled(Structure(regex=regex), cancelled)


def test_a_client_that_leaves_and_a_timeout_end_what_is_compiled() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "regex": HEAVY % 30}
    with serving(["tiny"], timeout_s=3.0) as served:
        assert served.chat(PROMPT)[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        while not byte_automaton._CHILDREN._running:
            time.sleep(0.01)
        connection.close()
        clock = time.monotonic()
        assert _no_work_left() and time.monotonic() - clock < 2
        for stream in (False, True):
            clock = time.monotonic()
            status, found = served.chat(PROMPT, regex=HEAVY % 30, stream=stream)
            assert (status, found["error"]["code"]) == (504, "timeout") and time.monotonic() - clock < 6
        assert _no_work_left() and served.chat(PROMPT, regex="[a-z]+")[0] == 200


@pytest.mark.parametrize("option", ["--regex", "--json-schema"])
def test_ctrl_c_while_a_structure_is_compiled(option: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "string", "pattern": f"^{HEAVY % 30}$"}), encoding="utf-8")
    value = str(schema) if option == "--json-schema" else HEAVY % 30
    command = [sys.executable, "-m", "dgemma", "run", "tiny", "-p", PROMPT, option, value]
    for number in ([], ["--n", "2"]):
        with subprocess.Popen([*command, *number], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 60
            while not _children_of(process.pid) and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            clock = time.monotonic()
            out, error = process.communicate(timeout=30)
        assert time.monotonic() - clock < 5 and process.returncode == 130, error
        assert out == "" and "interrupted after 0" in error and "Traceback" not in error


def _children_of(process: int) -> list[int]:
    """Of any of its threads."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
