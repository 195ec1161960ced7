"""The command line on a terminal: the canvas resolving, chats, Ctrl-C."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_checks import ANSWER, fails, text_of
from fake_bundle import FakeEngine, fake_engine, fake_session, write_bundle

from dgemma.cli import chat as chat_command
from dgemma.cli import dispatch


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(write_bundle(tmp_path / "toy.dgemma"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_the_canvas_resolve(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert dispatch(["run", bundle, "-p", "hi"]) == 0
    out = terminal.getvalue()
    assert "canvas 1, step 1" in out and "canvas 2, step 4" in out
    assert out.endswith(text_of(ANSWER, tmp_path / "t") + "\n")
    assert "20 tokens in 8 steps" in capsys.readouterr().err


def test_an_answer_that_is_empty_says_so(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy["answer"] = [0] * 40
    assert dispatch(["run", bundle, "-p", "hi", "--max-new-tokens", "16"]) == 0
    assert capsys.readouterr() == ("\n", "the answer is empty: the model gave only padding\n")
    toy["answer"] = []
    assert dispatch(["run", bundle, "-p", "hi"]) == 0
    assert capsys.readouterr() == ("\n", "the answer is empty: the model ended it at once\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    toy["answer"] = [200, *[0] * 40]
    assert dispatch(["run", bundle, "-p", "hi", "--max-new-tokens", "16"]) == 0
    assert " 1 token in " in capsys.readouterr().err


def test_a_bundle_without_a_tokenizer_prints_ids(
    toy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_bundle(tmp_path / "b", tokenizer=None))
    assert dispatch(["run", path, "--prompt-ids", "2,6"]) == 0
    assert capsys.readouterr().out == ",".join(map(str, ANSWER)) + "\n"
    fails(capsys, ["chat", path], "no chat template", "--prompt-ids")


def test_a_prompt_is_needed_on_a_terminal(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    fails(capsys, ["run", bundle], "no prompt", "--prompt-ids")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    fails(capsys, ["run", bundle], "UTF-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    fails(capsys, ["chat", bundle, "--engine", "onnx"], "UTF-8")


def chat(bundle: str, lines: str, monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return dispatch(["chat", bundle, *args])


def test_chat(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(bundle, "hi\n\n/reset\nhello\n/dance\n/exit\nnever\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == 2 * (text_of(ANSWER, tmp_path / "t") + "\n")
    assert "conversation forgotten" in err and "unknown command /dance" in err
    assert chat(bundle, "hi", monkeypatch) == 0  # the end of input ends the chat
    assert chat(bundle, "hi\n", monkeypatch, "--max-new-tokens", "3") == 0
    assert "cut after 3 tokens" in capsys.readouterr().err


def test_chat_says_when_the_context_is_full(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy["answer"] = [200] * 500
    assert chat(bundle, "hi\nmore\n/reset\nhi\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err.count("the answer ends here") == 2 and err.count("the context is full: ") == 1 and err.count("/reset") >= 2


def test_ctrl_c_in_a_chat_takes_the_turn_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    chat_command.answer(session, "hi", chat_command.DEFAULT, [])
    before, calls = session.prefix_ids, 0
    denoise = FakeEngine._denoise

    def interrupt(self: FakeEngine, feeds: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second canvas
            raise KeyboardInterrupt
        return denoise(self, feeds)

    monkeypatch.setattr(FakeEngine, "_denoise", interrupt)
    assert chat_command.answer(session, "more", replace(chat_command.DEFAULT, seed=1), []) is None
    assert session.prefix_ids == before and "taken back" in capsys.readouterr().err
    assert chat_command.answer(session, "more", replace(chat_command.DEFAULT, seed=1), []) is not None
    assert fake_engine(session).encoded
