"""The command line on a terminal: the canvas resolving, chats, Ctrl-C."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_checks import ANSWER, fails, text_of
from fake_bundle import write_bundle

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
