"""The live view and `dgemma replay`: states of positions, colours and none, narrow terminals, wide characters."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_checks import fails
from fake_bundle import END_OF_TURN, fake_session, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dgemma.cli import dispatch
from dgemma.cli.live import CHANGED, COLOURS, PLAIN, SETTLED, UNCERTAIN, Frame, LiveCanvas, States, View
from dgemma.cli.terminal import printable
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.result import StepEvent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(width: int = 40, height: int = 10, **options: object) -> Console:
    return Console(file=Terminal(), force_terminal=True, width=width, height=height, legacy_windows=False, **options)  # type: ignore[arg-type]


def drawn(view: View, frame: Frame) -> list[str]:
    """Lines of a frame, without styles."""
    view._frame = frame
    with view.console.capture() as capture:
        view.console.print(view)
    return [line.rstrip() for line in _plain(capture.get()).splitlines()]


def _plain(text: str) -> str:
    from rich.text import Text

    return Text.from_ansi(text).plain


def test_states_of_positions() -> None:
    states = States()
    assert states.of(0, [1, 2, 3], [True, False, False]) == [SETTLED, UNCERTAIN, UNCERTAIN]  # nothing was there to change
    assert states.of(0, [1, 5, 3], [True, True, False]) == [SETTLED, CHANGED, UNCERTAIN]
    assert states.of(0, [1, 5, 3], [True, True, True]) == [SETTLED] * 3
    assert states.of(1, [9, 9, 9], [False] * 3) == [UNCERTAIN] * 3, "another canvas begins afresh"


def test_a_session_is_shown_as_it_resolves(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", [200, 201, 202])
    events: list[StepEvent] = []
    session.generate([2, 6], on_step=events.append)
    view = LiveCanvas(session, console())
    frames = [view.frame(event) for event in events]
    assert session.tokenizer is not None
    assert "".join(p for p, _ in frames[-1].pieces) == session.tokenizer.decode([200, 201, 202])  # no markers, nothing behind
    assert END_OF_TURN in events[-1].argmax
    assert frames[0].figures.startswith(f"canvas 1, step 1 of {events[0].remaining}, 0 committed")
    assert {state for frame in frames for _, state in frame.pieces} <= {SETTLED, CHANGED, UNCERTAIN}
    assert printable("a\x1b[31mb\n") == "a�[31mb\n"


def test_the_end_of_what_is_taller_than_the_terminal_is_shown(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", [200, 201, 202] * 5)
    assert session.tokenizer is not None
    narrow = console(20, 6)
    with LiveCanvas(session, narrow) as view:
        session.generate([2, 6], on_step=view)
    out = _plain(narrow.file.getvalue())  # type: ignore[attr-defined]
    assert "canvas 1, step 4 of" in out and session.tokenizer.decode([200]) in out
    assert "loading graphs" in out, "before the first step it is said what is waited for"


def test_words_stay_whole_and_wide_characters_fit() -> None:
    pieces = [(word, UNCERTAIN) for word in ("alpha ", "be", "ta ", "gamma ", "漢字漢", "字漢字 ", "שלום")]
    lines = drawn(View(console(12, 30)), Frame(committed="one ", pieces=pieces, figures="f"))
    body = lines[: lines.index("f")]
    assert "beta" in " ".join(body) and all(word in line.split() for word in ("alpha", "beta") for line in body if word in line)
    assert any("שלום" in line for line in body)
    from rich.cells import cell_len

    assert max(map(cell_len, body)) <= 12
    assert "".join("".join(body).split()) == "one" + "".join(p for p, _ in pieces).replace(" ", "")


@pytest.mark.parametrize("how", ["colours", "NO_COLOR", "one colour"])
def test_states_differ_without_colours(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    view = View(console(color_system=None if how == "one colour" else "standard"))
    assert view.styles is (COLOURS if how == "colours" else PLAIN)
    assert len(set(view.styles.values())) == 3
    view._frame = Frame(committed="", pieces=[("a", CHANGED)], figures="")
    with view.console.capture() as capture:
        view.console.print(view)
    assert ("\x1b[1;4;35ma" in capture.get()) == (how == "colours")
    assert view.legend().plain == "settled changed uncertain"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with fake_session(tmp_path / "toy.dgemma", [200, 201, 202] * 5) as session:
        result = session.generate([2, 6], trace=True)
        assert result.trajectory is not None
        result.trajectory.save(tmp_path / "t.npz")
    return tmp_path / "t.npz"


def test_a_trace_is_shown_again(trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = Trajectory.load(trace)
    bundle = str(trace.parent / "toy.dgemma")
    assert dispatch(["replay", str(trace), "--bundle", bundle]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == len(made.step) + 1 and lines[0].startswith(f"canvas 1, step 1 of {made.step[0]}")
    assert lines[-2].endswith(lines[-1]), "the last frame shows the whole answer"
    assert f"in {len(made.step)} steps" in err
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert dispatch(["replay", str(trace), "--bundle", bundle, "--speed", "1000"]) == 0
    assert "settled" in terminal.getvalue() and terminal.getvalue().endswith(lines[-1] + "\n")


def test_without_its_bundle_a_trace_shows_positions(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["replay", str(trace)]) == 0
    made, lines = Trajectory.load(trace), capsys.readouterr().out.splitlines()
    assert len(lines) == len(made.step)
    assert all(len(line.rpartition(": ")[2]) == made.argmax.shape[1] for line in lines)
    assert sum(line.count("█") for line in lines) == int((made.entropy <= 0.1).sum())


def test_what_cannot_be_replayed(trace: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fails(capsys, ["replay", str(tmp_path / "none.npz")], "none.npz", "dgemma run --trace")
    fails(capsys, ["replay", str(trace), "--speed", "0"], "--speed 0")
    fails(capsys, ["replay", str(trace), "--bundle", "tiny"], "was not written by tiny")
    bare = str(write_bundle(tmp_path / "bare", tokenizer=None))
    fails(capsys, ["replay", str(trace), "--bundle", bare], "has no tokenizer", "leave --bundle out")
    assert np.load(trace).files


def changed(trace: Path, name: str, value: object) -> str:
    """The path of a trace in which an array is another."""
    arrays = dict(np.load(trace))
    arrays[name] = value(arrays[name].copy()) if callable(value) else value
    np.savez(trace.with_name("changed.npz"), **arrays)
    return str(trace.with_name("changed.npz"))


def first(value: float) -> Callable[[Any], Any]:
    """Puts a value at an array's first place."""

    def put(array: Any) -> Any:
        array.flat[0] = value
        return array

    return put


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("entropy", first(-1), "an entropy is negative or not finite"),
        ("entropy", first(float("nan")), "an entropy is negative or not finite"),
        ("entropy", first(float("inf")), "an entropy is negative or not finite"),
        ("temperature", first(float("nan")), "a temperature is negative or not finite"),
        ("argmax", first(-1), "an id is negative"),
        ("tokens", first(-(2**62)), "an id is negative"),
        ("step", first(0), "steps remaining do not count down to 1"),
        ("step", lambda array: array[::-1].copy(), "steps remaining do not count down to 1"),
        ("canvas_index", lambda array: array + np.arange(len(array))[::-1], "canvases are not in order"),
        ("canvas_index", first(-5), "canvases are not in order"),
        ("entropy", lambda array: array.astype(np.float64), "entropy must be float32 with shape [M, N]"),
        ("accepted", lambda array: array.astype(np.int64), "accepted must be bool"),
        ("argmax", lambda array: array[:, :-1], "argmax has N = "),
        ("argmax", lambda array: array[0], "argmax must be int64 with shape [M, N]"),
        ("prompt_ids", np.array(["x"], object), "Object arrays cannot be loaded"),
        ("more", np.zeros(3), "array 'more' is missing or unknown"),
    ],
)
def test_values_that_no_generation_gives(
    trace: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any, says: str
) -> None:
    fails(capsys, ["replay", changed(trace, name, value)], "changed.npz: is not a trajectory (", says)


@pytest.mark.parametrize("name", ["argmax", "canvas_in", "canvas_out", "tokens", "prompt_ids"])
def test_ids_that_the_bundle_does_not_have(trace: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = changed(trace, name, first(1 << 40))
    fails(capsys, ["replay", path, "--bundle", str(trace.parent / "toy.dgemma")], "was not written by", "vocabulary")
    assert dispatch(["replay", path]) == 0  # positions alone


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_files_are_one_line(trace: Path, data: st.DataObject) -> None:
    """Cut off, or with other bytes anywhere: it is shown, or one line says why not."""
    whole = trace.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(min_size=1, max_size=8))
    damaged = whole[:at] if data.draw(st.booleans()) else whole[:at] + other + whole[at + len(other) :]
    trace.with_name("damaged.npz").write_bytes(damaged)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = dispatch(["replay", str(trace.with_name("damaged.npz"))])
    assert status in (0, 2) and err.getvalue().count("\n") == 1
    assert err.getvalue().startswith("error: ") == (status == 2)
