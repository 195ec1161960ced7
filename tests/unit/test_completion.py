"""`dgemma completion` and `dgemma -v`."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_checks import fails

from dgemma.cli import COMMANDS, dispatch
from dgemma.cli.completion import SHELLS, fish, options


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "prompts.txt").touch()

    def completed(*words: str) -> list[str]:
        line = f'source "{script}"; COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _dgemma; '
        done = subprocess.run(
            ["bash", "-c", line + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        return done.stdout.split()

    assert completed("dgemma", "ru") == ["run"] and set(completed("dgemma", "''")) >= set(COMMANDS)
    assert "--temperature" in completed("dgemma", "run", "tiny", "--te")
    assert completed("dgemma", "run", "--prompts", "pro") == ["prompts.txt"]
    assert completed("dgemma", "plan", "--tem") == []


def test_every_command_has_its_options() -> None:
    found = options()
    assert list(found) == list(COMMANDS)
    assert "--seed" in found["run"][1] and "-p" in found["run"][1] and "--fixed-steps" in found["run"][1]
    assert all(help for name, (_, named) in found.items() for option, help in named.items()), "every option says what it does"
    line = next(line for line in fish({"x": ("It's", {})}).splitlines() if " -a x " in line)
    assert line.endswith("-d 'It\\'s'")


def test_shells(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        assert dispatch(["completion", shell]) == 0
        assert "replay" in capsys.readouterr().out
    fails(capsys, ["completion", "tcsh"], "tcsh", "bash, zsh, fish")


@pytest.fixture
def quiet_again() -> Iterator[None]:
    yield
    logging.getLogger("dgemma").setLevel(logging.NOTSET)


def test_v_says_what_is_done(quiet_again: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", "tiny", "-p", "Reverse the word table."]) == 0
    assert not caplog.records
    assert dispatch(["-v", "run", "tiny", "-p", "Reverse the word table."]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert any("digest" in line for line in said) and any("graph denoise of onnx/shared.onnx loaded" in line for line in said)
    assert capsys.readouterr().out == "elbat\nelbat\n"
