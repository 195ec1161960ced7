"""Edges of the process: encodings, closed streams, readers that leave, signals, and options that nobody means."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import FakeEngine, fake_session, write_bundle

from dgemma.cli import dispatch
from dgemma.core.errors import EngineError
from dgemma.runtime.session import Session

TOY = Path(__file__).parents[1] / "support" / "toy_cli.py"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX shells and signals")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("edges") / "toy.dgemma")


@pytest.fixture(scope="module")
def accents(bundle: Path) -> list[int]:
    """Ids of a text that ASCII lacks."""
    tokenizer = Session(*_opened(bundle)).tokenizer
    assert tokenizer is not None
    return tokenizer.encode("é€")


def _opened(path: Path) -> tuple[Any, Any]:
    from dgemma.runtime.bundle import Bundle

    opened = Bundle.open(path)
    return opened, FakeEngine(opened)


def shell(script: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which DGEMMA stands for the toy's command line."""
    script = script.replace("DGEMMA", f"{sys.executable} {TOY}")
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=60, env={**os.environ, **env}, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_answer_survives_every_encoding(bundle: Path, accents: list[int], encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding, "TOY_ANSWER": ",".join(map(str, accents))}
    done = shell(f"DGEMMA run {bundle} -p hi --json", **env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["text"] == "é€"
    done = shell(f"DGEMMA run {bundle} -p hi", **env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding) == "é€\n".encode(encoding, "backslashreplace").decode(encoding)


def test_a_path_that_stdout_cannot_spell(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "toy😀.dgemma")
    done = shell(f"DGEMMA inspect '{path}'", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"") and b"toy\\U0001f600.dgemma" in done.stdout
    done = shell(f"DGEMMA inspect '{path}/none'", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and b"\\U0001f600" in done.stderr
    done = shell("DGEMMA inspect $'/no\\xff'")
    assert done.returncode == 2 and done.stderr.startswith(b"error: /no\\udcff") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_stdin_is_utf8_without_a_byte_order_mark(bundle: Path, locale: str) -> None:
    """Of PYTHONIOENCODING as well, which is how a locale of Latin-1 is had where none is installed."""
    env = {"LC_ALL": locale, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    want = shell(f"DGEMMA run {bundle} --trace {bundle.parent}/want.npz -p 'é€'").returncode
    got = shell(
        f"printf '\\xef\\xbb\\xbf\\xc3\\xa9\\xe2\\x82\\xac\\n' | DGEMMA run {bundle} --trace {bundle.parent}/got.npz", **env
    )
    assert (want, got.returncode) == (0, 0), got.stderr
    assert (bundle.parent / "want.npz").read_bytes() == (bundle.parent / "got.npz").read_bytes()
    done = shell(f"printf '\\xe9' | DGEMMA run {bundle}", **env)
    assert (done.returncode, done.stderr) == (2, b"error: stdin is not UTF-8 text; convert it first\n")


CLOSED = "error: stdout is closed, so the output is lost; redirect it to a file, or to /dev/null\n"
# script; exit status; stdout, stderr: exact, or a part where it ends with an ellipsis
TABLE: list[tuple[str, int, str, str]] = [
    ("DGEMMA run BUNDLE <&-", 2, "", "error: no prompt: stdin is empty; give -p TEXT, --prompt-ids, or text on stdin\n"),
    ("DGEMMA run BUNDLE -p hi <&- >/dev/null", 0, "", ""),
    ("DGEMMA run BUNDLE -p hi <&- >&- 2>&-", 2, "", ""),
    ("DGEMMA run BUNDLE -p hi >&-", 2, "", CLOSED),
    ("DGEMMA run BUNDLE -p hi --no-stream >&-", 2, "", CLOSED),
    ("DGEMMA run BUNDLE -p hi --json >&-", 2, "", CLOSED),
    ("DGEMMA inspect BUNDLE >&-", 2, "", CLOSED),
    ("DGEMMA -h >&-", 2, "", CLOSED),
    ("DGEMMA run -h >&-", 2, "", CLOSED),
    ("DGEMMA nonsense >&-", 2, "", "error: unknown command 'nonsense'; choose one of …"),
    ("DGEMMA chat BUNDLE <&-", 0, "", ""),
    ("DGEMMA nonsense 2>&-", 2, "", ""),
    ("DGEMMA nonsense 2>/dev/full", 2, "", ""),
    ("DGEMMA -h | true; exit ${PIPESTATUS[0]}", 141, "", ""),
    ("DGEMMA run -h | true; exit ${PIPESTATUS[0]}", 141, "", ""),
    ("DGEMMA export -h | head -c 1; exit ${PIPESTATUS[0]}", 0, "U", ""),
    ("DGEMMA run BUNDLE -p hi | true; exit ${PIPESTATUS[0]}", 141, "", ""),
    ("DGEMMA run BUNDLE -p hi --json-lines | true; exit ${PIPESTATUS[0]}", 141, "", ""),
    ("DGEMMA inspect BUNDLE | true; exit ${PIPESTATUS[0]}", 141, "", ""),
    ("TERM=dumb COLUMNS=1 LINES=0 DGEMMA run BUNDLE -p hi >/dev/null", 0, "", ""),
    ("COLUMNS=1 DGEMMA run -h >/dev/null", 0, "", ""),
    ("COLUMNS=x DGEMMA run -h >/dev/null", 0, "", ""),
    ("DGEMMA run BUNDLE -p $'\\xff'", 2, "", "error: the text cannot be encoded; give valid Unicode text\n"),
    ("DGEMMA -h >/dev/full", 2, "", "error: No space left on device\n"),
    ("DGEMMA inspect BUNDLE --json >/dev/full", 2, "", "error: No space left on device\n"),
    ("DGEMMA run BUNDLE -p hi >/dev/full", 2, "", "error: No space left on device\n"),
    ("DGEMMA run BUNDLE -p hi --json-lines >/dev/full", 2, "", "error: No space left on device\n"),
]
# The same for arguments that no shell has a part in: they are given to the command line in this process.
ARGUMENTS: list[tuple[str, int, str, str]] = [
    ("inspekt BUNDLE", 2, "", "error: unknown command 'inspekt' (did you mean inspect?); choose one of export, …"),
    ("''", 2, "", "error: unknown command ''; choose one of …"),
    ("run BUNDLE -p hi --start-width 9" + "9" * 5000, 2, "", "error: --start-width …"),
    ("run BUNDLE -p hi --start-width -1", 2, "", "error: --start-width …"),
    ("run BUNDLE -p hi --start-width ''", 2, "", "error: --start-width …"),
    ("run BUNDLE -p hi --early-commit nan", 2, "", "error: --early-commit nan must be a positive number of nats\n"),
    ("run BUNDLE -p hi --seed 1e400", 2, "", "error: Invalid value for '--seed'…"),
    ("run BUNDLE -p hi --seed 18446744073709551616", 2, "", "error: --seed…"),
    ("run BUNDLE -p hi --max-new-tokens -1", 2, "", "error: …"),
    ("run BUNDLE -p hi --threads 99999999999999999999", 2, "", "error: --threads …"),
    ("run BUNDLE --prompt-ids ','", 2, "", "error: …"),
    ("run BUNDLE --prompt-ids 9" + "9" * 5000, 2, "", "error: …"),
    ("run '' -p hi", 2, "", "error: …"),
    ("run /dev/null -p hi", 2, "", "error: /dev/null…"),
    ("run BUNDLE -p hi --trace /dev/full", 2, "", "error: --trace /dev/full…"),
    ("run BUNDLE -p hi --trace ''", 2, "", "error: --trace…"),
]


def check_edge(expected: tuple[int, str, str], found: tuple[int, str, str]) -> None:
    (status, out, err), text = expected, found[2]
    assert found[:2] == (status, out), text
    assert text == err if not err.endswith("…") else text.startswith(err[:-1]) and text.count("\n") == 1, text
    assert len(text) < 1500


@pytest.mark.parametrize(("script", "status", "out", "err"), TABLE, ids=[row[0][:60] for row in TABLE])
def test_edges_are_one_line_and_a_status(bundle: Path, script: str, status: int, out: str, err: str) -> None:
    done = shell(script.replace("BUNDLE", str(bundle)))
    check_edge((status, out, err), (done.returncode, done.stdout.decode(), done.stderr.decode()))


@pytest.mark.parametrize(("arguments", "status", "out", "err"), ARGUMENTS, ids=[row[0][:60] for row in ARGUMENTS])
def test_bad_arguments_are_one_line_and_a_status(
    bundle: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str], arguments: str, status: int, out: str, err: str
) -> None:
    returned = dispatch(shlex.split(arguments.replace("BUNDLE", str(bundle))))
    check_edge((status, out, err), (returned, *capsys.readouterr()))


# arguments; how the one line on stderr begins. FILE is not JSON, FOLDER a folder, NEWER a bundle of a later format.
WRONG: list[tuple[str, str]] = [
    ("plan 2b --prompt 0", "--prompt 0 "), ("plan 2b --prompt nan", "Invalid value for '--prompt'"),
    ("plan 2b --output 99999999999", "--prompt 128 and --output 99999999999 "),
    ("plan 2b --canvas 0", "--canvas 0 "), ("plan 2b --canvas 1_0", "--canvas '1_0' "), ("plan 2b --canvas ,", "--canvas ',' "),
    ("plan 2b --steps-per-canvas nan", "--steps-per-canvas 'nan' "),
    ("plan 2b --steps-per-canvas inf", "--steps-per-canvas 'inf' "),
    ("plan 2b --steps-per-canvas 5-3", "--steps-per-canvas '5-3' "),
    ("plan 2b --steps-per-canvas 20000", "--steps-per-canvas '20000' "),
    ("plan 2b --soft topk:0", "--soft 'topk:0' must be exact, or topk:K with K between 1 and 1024"),
    ("plan 2b --device none", "--device 'none' is unknown; choose "),
    ("plan 2b --device ''", "--device '' is unknown; choose "),
    ("plan 2b --device none.json", "--device none.json: cannot be read (No such file or directory); give "),
    ("plan 2b --device FOLDER", "--device FOLDER: cannot be read (Is a directory); give "),
    ("plan 2b --device FILE", "--device FILE: cannot be read as JSON ("),
    ("plan 2b --device LIST", "--device LIST: must hold "),
    ("plan 2b --recipe none.json", "--recipe none.json: cannot be read (No such file or directory); choose fp32, "),
    ("plan 2b --recipe FOLDER.json", "--recipe FOLDER.json: cannot be read ("),
    ("plan 2b --recipe LIST.json", "--recipe LIST.json: "), ("plan 2b --engine none", "--engine "),
    ("plan 2b --picture p", "--picture p: its name must end in .png"),
    ("plan 2b --picture p.json", "--picture p.json: its name "),
    ("plan 2b --picture none/p.png", "--picture none/p.png: its folder does not exist; make it first"),
    ("plan NEWER", "NEWER/manifest.json: format version 99 is newer than 2; upgrade dgemma"),
    ("bench BUNDLE --seconds nan", "--seconds nan "), ("bench BUNDLE --seconds 0", "--seconds 0.0 "),
    ("bench BUNDLE --repeats 0", "--repeats 0 "), ("bench BUNDLE --outputs 0", "--outputs 0 "),
    ("bench BUNDLE --outputs 5,,6", "--outputs '5,,6' "), ("bench BUNDLE --threads 0", "--threads 0 "),
    ("bench BUNDLE --compare FILE", "--compare FILE: is damaged or not a result of `dgemma bench`; "),
    ("bench BUNDLE --compare FOLDER", "--compare FOLDER: cannot be read (Is a directory); "),
    ("bench BUNDLE --out FOLDER", "--out FOLDER: is a folder; name a file"),
    ("bench BUNDLE --out ''", "--out .: is a folder; name a file"),
    ("bench BUNDLE --out /dev/full", "--out /dev/full: is not a regular file; choose another place"),
    ("bench BUNDLE --out none/x.json", "--out none/x.json: its folder does not exist; make it first"),
    ("bench NEWER", "NEWER/manifest.json: format version 99 is newer than 2; upgrade dgemma"),
    ("bench FILE", "FILE: is a file, not a bundle "), ("bench FOLDER", "FOLDER: has no manifest.json, "),
    ("inspect NEWER", "NEWER/manifest.json: format version 99 is newer than 2; upgrade dgemma"),
    ("inspect FILE", "FILE: is a file, not a bundle "), ("inspect none", "none: no such folder; "),
    ("quantize TINY --recipe none --out q", "--recipe 'none' is unknown; choose "),
    ("quantize TINY --recipe LIST.json --out q", "--recipe LIST.json: must hold one JSON object "),
    ("quantize TINY --recipe w8 --out FOLDER", "--out FOLDER: exists already; "),
    ("quantize TINY --recipe w8 --out none/q", "--out none/q: its folder does not exist; make it first"),
    ("quantize TINY --recipe w4 --out q --calibration none", "--calibration none: cannot be read (No such "),
    ("quantize TINY --recipe w4 --out q --calibration FILE", "--calibration FILE: line 1 has no prompt_ids; "),
    ("quantize TINY --recipe fp32 --out q --calibration FILE", "--calibration FILE: recipe 'fp32' does not use it; "),
    ("quantize 2b --recipe w8 --out q --random-weights -1", "--random-weights -1 "),
    ("quantize 2b --recipe w8 --out q", "'2b' is "),
    ("quantize '' --recipe w8 --out q", "'' is not a checkpoint; give "),
    ("export '' --out q", "'' is not a checkpoint; give "),
    ("export 2b --out q --random-weights -1", "--random-weights -1 must be between 0 and 2^64-1"),
    ("export 2b --out q --random-weights 18446744073709551616", "--random-weights 18446744073709551616 must be "),
    ("verify BUNDLE --checkpoint ''", "'' is not a checkpoint; give "),
    ("run '' -p hi", "'' is not a bundle; give "),
    ("reference compile TINY --topology v4:0x1x1", "--topology 'v4:0x1x1' is unknown; "),
    ("reference compile TINY --canvas 0", "--canvas 0 "),
    ("reference compile TINY --canvas 99999999", "--canvas 99999999 must be below "),
    ("reference compile TINY --context 0", "--context 0 "),
    ("reference compile TINY --steps 0", "--steps 0 must be between 1 and 4096"),
    ("reference compile TINY --out FILE", "--out FILE: is a file; name a folder"),
    ("reference none TINY", "`dgemma reference none` "),
]  # fmt: skip


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A folder with things to name by mistake."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("FOLDER", "FOLDER.json"):
        (folder / name).mkdir()
    (folder / "FILE").write_text('{"a": 1\n')
    for name in ("LIST", "LIST.json"):
        (folder / name).write_text("[]")
    (folder / "BUNDLE").symlink_to(bundle)
    newer = shutil.copytree(bundle, folder / "NEWER")
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    (folder / "TINY").symlink_to(Path(__file__).parents[2] / "checkpoints" / "tiny")
    return folder


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=[row[0][:60] for row in WRONG])
def test_a_wrong_value_is_one_line_that_names_it(
    wrong: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    monkeypatch.chdir(wrong)
    before = sorted(wrong.iterdir())
    assert dispatch(shlex.split(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"error: {says}"), shown.err
    assert shown.err.count("\n") == 1 and len(shown.err) < 500
    assert sorted(wrong.iterdir()) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_run(bundle: Path, number: int, status: int) -> None:
    command = [sys.executable, str(TOY), "run", str(bundle), "-p", "hi"]
    env = {**os.environ, "TOY_ANSWER": ",".join(["200"] * 100), "TOY_SLEEP": "0.2", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)  # a canvas is committed
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == status
    if number == signal.SIGINT:  # what was committed by then stays
        assert first and err in {f"interrupted after {count} tokens\n" for count in range(16, 100, 16)}
    else:
        assert err == ""


# Sends SIGINT where a module is looked for, and runs the command line.
INTERRUPTING = """
import signal, sys
class Finder:
    module = sys.argv.pop(1)
    def find_spec(self, name, *_):
        if name == self.module:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from dgemma.__main__ import main
main()
"""


def interrupted_at(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", INTERRUPTING, module, *args], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["dgemma.cli", "dgemma.cli.terminal", "typer", "dgemma.cli.run", "dgemma.runtime.session"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(module: str) -> None:
    done = interrupted_at(module, "run", "tiny", "-p", "hi")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_ctrl_c_is_pythons_own_before_the_programs_first_line() -> None:
    assert "Traceback" in interrupted_at("dgemma", "--version").stderr


def test_an_interrupt_that_a_shell_ignores_stays_ignored() -> None:
    code = INTERRUPTING.replace("import signal, sys", "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    done = subprocess.run([sys.executable, "-c", code, "typer", "run", "-h"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Usage" in done.stdout


def test_the_working_directory_may_change_before_the_first_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dgemma.runtime.bundle import Bundle

    write_bundle(tmp_path / "toy.dgemma")
    monkeypatch.chdir(tmp_path)
    opened = Bundle.open("toy.dgemma")
    monkeypatch.chdir("/")
    assert opened.file("onnx/denoise.bin").read_bytes() == b"toy graph denoise"


class Timeout(Exception):
    """What a program's own handler raises."""


class Handler:
    def method(self, *_: object) -> None:
        raise Timeout("too slow")

    def __call__(self, *_: object) -> None:
        raise RuntimeError("too slow")


def _function(more: str, *_: object) -> None:
    raise KeyError(more)


@pytest.mark.parametrize(
    ("handler", "expected"), [(Handler().method, Timeout), (Handler(), RuntimeError), (partial(_function, "slow"), KeyError)]
)
def test_what_a_signal_handler_raises_comes_out_as_itself(
    tmp_path: Path, handler: Callable[..., None], expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = fake_session(tmp_path / "b", [200] * 40)
    denoise = FakeEngine._denoise

    def interrupted(self: FakeEngine, feeds: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return denoise(self, feeds)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(FakeEngine, "_denoise", interrupted)
            with pytest.raises(expected):
                session.generate([2, 6])
    finally:
        signal.signal(signal.SIGUSR1, before)

    def fails(self: FakeEngine, feeds: Any) -> Any:
        raise expected("of the library's own")

    monkeypatch.setattr(FakeEngine, "_denoise", fails)
    with pytest.raises(EngineError, match="of the library's own"):
        session.generate([2, 6])
