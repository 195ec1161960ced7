"""Languages that take long to compile keep no other request waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
from served import Served, serving

from dgemma.core.errors import UsageError
from dgemma.core.structure import Structure
from dgemma.runtime.session import Session
from dgemma.runtime.structure import byte_automaton, languages
from dgemma.runtime.structure.languages import Languages

PROMPT = "Reverse the word table."
MANY = 12  # more than asyncio's threads on two processors


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Expressions that begin with an x are compiled once it is set, and refused."""
    let_go, compile_regex = threading.Event(), languages.compile_regex

    def compiled(regex: str, name: str = "regex") -> Any:
        if not regex.startswith("x"):
            return compile_regex(regex, name)
        let_go.wait(60)
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


def test_what_is_compiled_ends_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    children = byte_automaton._Children()
    ended = list[tuple[int, bytes, bytes]]()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    thread = threading.Thread(target=lambda: ended.append(children.run(command, b"")))
    thread.start()
    while not children._running:
        thread.join(0.01)
    children.end()
    thread.join(10)
    assert len(ended) == 1 and ended[0][0] != 0
    with pytest.raises(OSError, match="ends"):
        children.run(command, b"")
    monkeypatch.setattr(byte_automaton, "SECONDS", 0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        byte_automaton._Children().run(command, b"")
