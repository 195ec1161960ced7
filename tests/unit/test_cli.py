"""The command line over the toy model: outputs, exit status, and one line on stderr for whatever is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cli_checks import ANSWER, fails, text_of
from fake_bundle import CONTEXT, N, write_bundle

from dgemma.cli import COMMANDS, dispatch, main
from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.install import pip_install
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.session import Session


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(write_bundle(tmp_path / "toy.dgemma"))


def test_run_prints_only_text_in_a_pipe(
    toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert dispatch(["run", bundle, "-p", "hello"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (text_of(ANSWER, tmp_path / "t") + "\n", "")


@pytest.mark.parametrize("loop", ["host", "graph"])
def test_run_json_is_one_object(toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], loop: str) -> None:
    args = ["run", bundle, "-p", "hi", "--json", "--loop", loop, "--seed", str(2**64 - 1), "--fixed-steps", "--threads", "1"]
    assert dispatch([*args, "--max-new-tokens", "18"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert list(values) == [
        "text", "tokens", "steps", "canvases", "tokens_per_forward", "stop_reason", "engine", "loop", "timings",
        "position_forwards", "position_forwards_per_token", "prefill_position_forwards", "thinking", "tool_calls",
        "warnings",
        "stop_string",
    ]  # fmt: skip
    assert values["tokens"] == ANSWER[:18] and values["steps"] == 12 and values["tokens_per_forward"] == 1.5
    assert (values["stop_reason"], values["engine"], values["loop"], values["canvases"]) == ("length", "onnx", loop, 2)
    assert set(values["timings"]) == {"load_s", "prefill_s", "denoise_s", "commit_s", "total_s", "engine_s", "waited_s"}


def test_prompts_come_from_stdin_ids_or_option(
    toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    generate = Session.generate

    def spied(self: Session, given: Any, options: GenerateOptions, **others: Any) -> Any:
        seen.append((given, options.raw))
        return generate(self, given, options, **others)

    monkeypatch.setattr(Session, "generate", spied)
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    for args in ([], ["-p", "text\n"], ["--prompt-ids", "2, 50,6"], ["-p", "text\n", "--raw"]):
        assert dispatch(["run", bundle, *args]) == 0
    assert seen == [("from stdin", False), ("text\n", False), ([2, 50, 6], False), ("text\n", True)]


def test_trace_is_written_whole_or_not_at_all(
    toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.npz"
    assert dispatch(["run", bundle, "--prompt-ids", "2,6", "--trace", str(path)]) == 0
    trajectory = Trajectory.load(path)
    assert trajectory.tokens.tolist() == ANSWER and trajectory.prompt_ids.tolist() == [2, 6]
    with np.load(path) as arrays:
        assert arrays["canvas_in"].shape == (8, N) and arrays["accepted"].dtype == np.bool_
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask

    def full(self: Trajectory, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(Trajectory, "save", full)
    before = path.read_bytes()
    fails(capsys, ["run", bundle, "--prompt-ids", "2,6", "--trace", str(path), "--no-stream"], "t.npz", "No space left")
    assert dispatch(["run", bundle, "--prompt-ids", "2,6", "--trace", str(path)]) == 2  # the text was committed before
    assert capsys.readouterr().out.strip()
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["t.npz", "toy.dgemma"]


def test_bad_trace_paths_are_refused_before_work(
    toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "generate", lambda *a, **k: pytest.fail("generated"))
    (tmp_path / "d.npz").mkdir()
    for path, says in (("t.txt", ".npz"), ("no/t.npz", "does not exist"), ("d.npz", "folder")):
        fails(capsys, ["run", bundle, "-p", "x", "--trace", str(tmp_path / path)], "--trace", says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-p", "x", "--prompt-ids", "1"], "not both"),
        (["--prompt-ids", "1,x"], "--prompt-ids"),
        (["--prompt-ids", ""], "empty"),
        (["--prompt-ids", "618"], "617"),
        (["-p", ""], "empty"),
        (["-p", "x", "--seed", "-1"], "seed"),
        (["-p", "x", "--seed", "y"], "--seed"),
        (["-p", "x", "--loop", "spiral"], "host, graph"),
        (["-p", "x", "--max-new-tokens", "0"], "--max-new-tokens 0 must"),
        (["-p", "x", "--threads", "0"], "threads"),
        (["-p", "x", "--start-width", "wide"], "auto, or a number"),
        (["-p", "x", "--start-width", "auto"], "without 'denoise_active'"),
        (["-p", "x", "--recheck"], "--early-commit or --start-width"),
        (["-p", "x" * 2 * CONTEXT], "--context"),
        (["-p", "x", "--nonsense"], "--nonsense"),
        (["surplus text"], "(surplus text); give the prompt with -p"),
        (["-p"], "-p"),
    ],
)
def test_bad_input_is_one_line(
    toy: dict[str, Any], bundle: str, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    fails(capsys, ["run", bundle, *args], says)


def test_old_names_of_options_work_and_are_in_no_help(
    toy: dict[str, Any], bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[GenerateOptions] = []

    def generate(self: Session, prompt: str, options: GenerateOptions, **_: Any) -> None:
        asked.append(options)
        raise UsageError("seen")

    monkeypatch.setattr(Session, "generate", generate)
    assert dispatch(["run", bundle, "-p", "--settle", "--settle", "0.5", "--canvas=4", "--repair"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "warning: --settle is now called --early-commit",
        "warning: --canvas is now called --start-width",
        "warning: --repair is now called --recheck",
        "error: seen",
    ]
    both = ["--early-commit", "0.5", "--settle", "0.5"]
    fails(capsys, ["run", bundle, "-p", "x", *both], "--settle is the old name of --early-commit; give only --early-commit")
    fails(capsys, ["run", bundle, "-p", "x", "--early-commit", "0.5", "--start-width", "4", "--recheck"], "seen")
    assert asked[0] == asked[1] and asked[0].compute == ComputePolicy(early_commit=0.5, start_width=4, recheck=True)
    for command in ("run", "chat", "eval"):
        assert dispatch([command, "--help"]) == 0
        assert not {"--settle", "--canvas", "--repair"} & set(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["run", "chat", "inspect"])
def test_bad_bundles_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    args = ["-p", "x"] if command == "run" else []
    fails(capsys, [command, str(tmp_path / "none"), *args], "none", "dgemma export")
    fails(capsys, [command, "Tiny", *args], "Tiny: no such folder; give ", "or tiny, the shipped bundle")
    fails(capsys, [command, "2b", *args], "2b: no such folder; presets are for `dgemma export` and `dgemma plan`; ")
    fails(capsys, [command, *args], "BUNDLE")
    path = write_bundle(tmp_path / "b")
    (path / "onnx" / "denoise.bin").write_bytes(b"Toy graph denoise")
    fails(capsys, [command, str(path), *args], "denoise.bin", "sha256")


def test_engine_errors(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["run", bundle, "-p", "x", "--engine", "abacus"], "onnx, executorch")
    fails(capsys, ["run", bundle, "-p", "x", "--engine", "executorch"], "without engine 'executorch'")
    fails(capsys, ["run", bundle, "-p", "x", "--engine", "onnx"], "onnx", "failed on graph 'encode'")  # toy files


def test_unknown_commands_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, ["dance"], "run, chat, serve, replay")
    for args in ([], ["--help"], ["-h"]):
        assert dispatch(args) == 0
        out = capsys.readouterr().out
        assert all(f"  {name} " in out for name in COMMANDS)
    for args in (["version"], ["--version"]):
        assert dispatch(args) == 0
        assert capsys.readouterr().out.startswith("dgemma 0.")
    assert dispatch(["run", "--help"]) == 0
    for option in ("--prompt-ids", "--engine", "--loop", "--seed", "--fixed-steps", "--raw", "--json", "--trace", "--threads"):
        assert option in capsys.readouterr().out or option != "--prompt-ids"
    with pytest.raises(SystemExit) as stop:
        main(["version"])
    assert stop.value.code == 0


def test_an_export_without_torch_says_first_what_is_wrong_with_its_input(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom dgemma.cli import dispatch\n"
        "for given in (['none'], ['2b', '--recipe', 'none'], ['2b', '--random-weights', '0']):\n"
        "    dispatch(['export', *given, '--out', 'x'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    first, second, third = run.stderr.splitlines()
    assert first.startswith("error: none: no such checkpoint folder") and second.startswith("error: --recipe 'none' is unknown")
    assert third.startswith("error: `dgemma export` needs package 'torch'")


def test_command_status_and_missing_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stub")

    def install(run: Any) -> None:
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dgemma.cli.export", module)

    def check_failed() -> int:
        return 1

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    def interrupted() -> None:
        raise KeyboardInterrupt

    def two_lines() -> None:
        raise OSError("disk\nis full")

    def bug() -> None:
        raise ZeroDivisionError

    install(check_failed)
    assert dispatch(["export"]) == 1
    for run, status, says in (
        (missing, 2, pip_install("export")),
        (interrupted, 130, "interrupted"),
        (two_lines, 2, "disk is full"),
    ):
        install(run)
        fails(capsys, ["export"], says, status=status)
    install(bug)
    with pytest.raises(ZeroDivisionError):  # a defect of ours is not dressed up as bad input
        dispatch(["export"])


def test_inspect(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["inspect", bundle]) == 0
    brief = capsys.readouterr().out
    assert len(brief.splitlines()) <= 15 and "prefix_key_0" not in brief
    for text in ("every file verified", "quantization  fp32", "onnx          encode, denoise", "--verbose"):
        assert text in brief
    assert dispatch(["inspect", bundle, "--verbose"]) == 0
    out = capsys.readouterr().out
    for text in (
        "every file verified",
        "denoise  onnx/denoise.bin",
        "prefix_key_0 float32[1, L, 2, 2] … 2 layers",
        "recipe: fp32",
        "licence: none",
    ):
        assert text in out
    assert dispatch(["inspect", bundle, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["verified"] is True and values["graphs"]["onnx"]["denoise"]["file"] == "onnx/denoise.bin"


def chat(bundle: str, lines: str, monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return dispatch(["chat", bundle, *args])


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_run_with_130_and_one_line(tmp_path: Path) -> None:
    """A real signal to a real process that is denoising."""
    path = write_bundle(tmp_path / "b")
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
from fake_bundle import FakeEngine
from dgemma.cli import main
from dgemma.runtime import session
class Slow(FakeEngine):
    def _denoise(self, feeds):
        print("stepping", file=sys.stderr, flush=True)
        time.sleep(0.2)
        return super()._denoise(feeds)
session.open_engine = lambda bundle, *_: Slow(bundle, [200] * 100)
main(["run", {str(path)!r}, "-p", "x"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        assert process.stderr.readline() == "stepping\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out == ""
    assert [line for line in err.splitlines() if line != "stepping"] == ["interrupted after 0 tokens"]


def test_a_reader_that_leaves_is_told_by_the_status_alone(tmp_path: Path) -> None:
    command = f"{sys.executable} -m dgemma.cli inspect {write_bundle(tmp_path / 'b')} | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("redirect", "status", "lines"), [("> /dev/full", 2, 1), (">&-", 2, 1), ("2>&-", 0, 0)])
@pytest.mark.parametrize("command", ["--help", "inspect"])
def test_streams_that_are_full_or_closed(tmp_path: Path, redirect: str, status: int, lines: int, command: str) -> None:
    args = f"inspect {write_bundle(tmp_path / 'b')}" if command == "inspect" else command
    script = f"{sys.executable} -m dgemma.cli {args} {redirect}"
    for unbuffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, env=environment)
        assert (result.returncode, result.stderr.count("\n")) == (status, lines), result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from dgemma.cli import dispatch
dispatch(["--help"])
print(sorted({"typer", "rich", "numpy", "torch", "onnxruntime", "dgemma.runtime", "dgemma.export"} & set(sys.modules)))
"""
    started = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "[]" and time.perf_counter() - started < 10
