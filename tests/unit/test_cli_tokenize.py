"""`dgemma tokenize`: the ids that `dgemma run` gives to the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import dispatch
from dgemma.runtime.session import Session

TEXT = "Reverse the word table."


def told(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert dispatch(["tokenize", "tiny", "-p", TEXT, *args]) == 0
    return capsys.readouterr().out


def test_ids_are_those_of_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    with Session.load("tiny", engine="onnx") as session:
        prompt = session.prompt_ids(TEXT)
        assert session.tokenizer is not None
        plain = session.tokenizer.encode(TEXT)
    assert told(capsys, "--chat", "--ids") == ",".join(map(str, prompt)) + "\n"
    assert told(capsys, "--ids") == ",".join(map(str, plain)) + "\n"
    values = json.loads(told(capsys, "--json"))
    assert values["ids"] == list(plain) and "".join(values["pieces"]) == TEXT
    lines = told(capsys).splitlines()
    assert [line.split()[0] for line in lines] == list(map(str, plain)) and lines[0].endswith("'Reverse'")


def test_what_has_no_ids_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fake_bundle import write_bundle

    fails(capsys, ["tokenize", "tiny", "-p", ""], "-p is empty")
    fails(capsys, ["tokenize", str(write_bundle(tmp_path / "b", tokenizer=None)), "-p", "x"], "has no tokenizer")
