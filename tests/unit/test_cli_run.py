"""`dgemma run`: text as it is committed, lines of JSON, decoders, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_checks import fails, text_of
from fake_bundle import FakeEngine, N, write_bundle

from dgemma.cli import dispatch
from dgemma.runtime import decoder_choice, session

TOY = Path(__file__).parents[1] / "support" / "toy_cli.py"
ANSWER = list(range(200, 240))


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(session, "open_engine", lambda bundle, *_: FakeEngine(bundle, ANSWER))
    return str(write_bundle(tmp_path / "toy.dgemma"))


def out(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert dispatch(["run", *args]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("decoder", ["diffusion", "autoregressive"])
def test_a_pipe_gets_what_is_printed_at_the_end(bundle: str, capsys: pytest.CaptureFixture[str], decoder: str) -> None:
    whole = out(capsys, bundle, "-p", "x", "--no-stream", "--decoder", decoder)
    assert out(capsys, bundle, "-p", "x", "--decoder", decoder) == whole
    assert len(whole) > 40 and whole.endswith("\n")


def test_text_is_written_when_its_canvas_is_committed(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, seen = FakeEngine._denoise, list[str]()

    def watch(self: FakeEngine, feeds: Any) -> Any:
        seen.append(capsys.readouterr().out)
        return denoise(self, feeds)

    monkeypatch.setattr(FakeEngine, "_denoise", watch)
    assert dispatch(["run", bundle, "-p", "x"]) == 0
    assert len([text for text in seen if text]) == 2  # of the first two of three canvases
    assert not seen[0] and capsys.readouterr().out.endswith("\n")


def test_lines_of_json(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in out(capsys, bundle, "-p", "x", "--json-lines").splitlines()]
    events = [line.pop("event") for line in lines]
    assert events.count("text") == 3 and events[-1] == "result" and set(events) == {"step", "text", "result"}
    texts = [line for event, line in zip(events, lines, strict=True) if event == "text"]
    assert "".join(line["text"] for line in texts) == lines[-1]["text"]
    assert [line["tokens"] for line in texts] == [N, 2 * N, len(ANSWER)]
    steps = [line for event, line in zip(events, lines, strict=True) if event == "step"]
    assert len(steps) == lines[-1]["steps"] and steps[0]["remaining"] > steps[1]["remaining"]
    assert steps[0]["canvas"] == 0 and 0 <= steps[0]["accepted"] <= N and steps[-1]["committed"] == 2 * N
    fails(capsys, ["run", bundle, "-p", "x", "--json", "--json-lines"], "--json or --json-lines, not both")


def test_decoders(bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.loads(out(capsys, bundle, "-p", "x", "--json", "--decoder", "autoregressive"))
    assert (result["loop"], result["tokens"], result["canvases"]) == ("decode", ANSWER, 0)
    fails(
        capsys, ["run", bundle, "-p", "x", "--decoder", "ar"], "--decoder 'ar': choose one of diffusion, autoregressive, auto"
    )
    fails(
        capsys,
        ["run", bundle, "-p", "x", "--decoder", "autoregressive", "--early-commit", "0.1"],
        "--early-commit needs --decoder diffusion",
    )
    for seconds, loop in (([1.0, 0.001], "decode"), ([0.001, 1.0], "host")):
        given = iter(seconds)
        monkeypatch.setattr(decoder_choice, "_seconds", lambda call, given=given: next(given))
        assert dispatch(["run", bundle, "-p", "x", "--json", "--decoder", "auto"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["loop"] == loop
        assert printed.err.startswith("decoder ") and printed.err.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--json-lines"]], ids=["text", "lines"])
def test_ctrl_c_keeps_what_was_committed(tmp_path: Path, more: list[str]) -> None:
    """It is sent when the first text has come out."""
    command = [sys.executable, str(TOY), "run", str(write_bundle(tmp_path / "b")), "-p", "hi", *more]
    env = {**os.environ, "TOY_ANSWER": ",".join(map(str, range(200, 300))), "TOY_SLEEP": "0.2", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        text = process.stdout.read(1)
        while more and b'"text"' not in text:
            text = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=20)
    assert process.returncode == 130
    count = int(err.decode().removeprefix("interrupted after ").removesuffix(" tokens\n"))
    assert 0 < count < 100 and count % N == 0
    if more:
        result = json.loads(rest.decode().splitlines()[-1])
        assert result["stop_reason"] == "cancelled" and len(result["tokens"]) == count
    else:
        assert len(text + rest) > 2 and rest.endswith(b"\n")


def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "dgemma", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("dgemma ")


def test_a_file_of_prompts(toy: dict[str, Any], bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffhi\n\n  hello \n", encoding="utf-8")
    assert dispatch(["run", bundle, "--prompts", str(file)]) == 0
    out, err = capsys.readouterr()
    answer = text_of(ANSWER, tmp_path / "t")
    assert out == 2 * f"{answer}\n" and err.splitlines() == ["[1 of 2] hi", "[2 of 2] hello"]
    assert dispatch(["run", bundle, "--prompts", str(file), "--json-lines"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["prompt"] for e in found if e["event"] == "prompt"] == ["hi", "hello"]
    assert [e["text"] for e in found if e["event"] == "result"] == [answer] * 2
    assert [e["event"] for e in found].index("result") < [e.get("number") for e in found].index(2)
    fails(capsys, ["run", bundle, "--prompts", str(tmp_path / "none")], "--prompts", "cannot be read")
    fails(capsys, ["run", bundle, "--prompts", str(file), "-p", "x"], "either -p or --prompts")
    fails(capsys, ["run", bundle, "--prompts", str(file), "--json"], "--json-lines")
    fails(capsys, ["run", bundle, "--prompts", str(file), "--n", "2"], "--json-lines")
    file.write_text("\n \n")
    fails(capsys, ["run", bundle, "--prompts", str(file)], "has no prompt")
    file.write_bytes(b"\xff")
    fails(capsys, ["run", bundle, "--prompts", str(file)], "UTF-8")
    file.write_text("hi\n" + "hi " * 4000)
    capsys.readouterr()
    assert dispatch(["run", bundle, "--prompts", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == f"{answer}\n" and "error: prompt 2 of 2: " in err
