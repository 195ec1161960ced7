"""A step's cost by its width: who runs when, what is made of the seconds, and the command on a toy model in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_active import ActiveFake, write_active_bundle
from fake_bundle import CONTEXT, MODEL_CONFIG, FakeEngine, N, write_bundle

from dgemma.benchmarks import report
from dgemma.benchmarks.studies import widths
from dgemma.core.cost import CostModel
from dgemma.core.errors import UsageError
from dgemma.runtime.bundle import Bundle

QUICK = ["--threads", "1", "--prefix", "20", "--rounds", "2"]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(widths, "open_engine", lambda bundle, *_: ActiveFake(bundle))
    return write_active_bundle(tmp_path / "toy.dgemma")


def test_calls_take_turns_back_and_forth_and_the_first_round_is_dropped() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = widths.take_turns(calls, 3)
    assert "".join(order) == "abccbaabccba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_position_is_compared_with_a_whole_step_of_the_same_round() -> None:
    seconds = {"16": [2.0, 4.0, 8.0], "8": [1.0, 3.0, 4.0], "denoise": [1.0], "encode": [0.5], "token": [0.1]}
    found = widths.summarize(seconds, [16, 8], CostModel(config=MODEL_CONFIG, bits={}), 20)
    whole, half = found["widths"]
    assert (whole["width"], whole["ms"]["median"], whole["position_ms"]) == (16, 4000.0, 250.0)
    assert [whole["over_line"][q] for q in ("q1", "median", "q3")] == [1.0, 1.0, 1.0]
    assert half["over_line"]["median"] == 1.0  # 1/2, 3/4 and 4/8 of the whole, twice: 1, 1.5 and 1
    assert half["over_line"]["q3"] == 1.25
    assert (found["denoise_ms"]["median"], found["encode_ms"]["median"], found["token_ms"]["median"]) == (1000.0, 500.0, 100.0)


@pytest.mark.parametrize(
    ("halves", "phrase"),
    [(1.0, "at most 10% more in narrow steps, down to 4"), (1.05, "down to 4"), (1.3, "more in steps below 8 positions")],
)
def test_notes_say_whether_narrow_steps_lose(halves: float, phrase: str) -> None:
    ms = {width: {"median": 10.0 * width, "q1": 9.0, "q3": 11.0} for width in (16, 8, 4)}
    over = {16: 1.0, 8: 1.02, 4: halves}
    values = {
        "bundle": {"recipe": "w8", "canvas": 16},
        "options": {"engine": "onnx", "prefix": 5, "threads": 1, "rounds": 2},
        "widths": [{"width": w, "ms": ms[w], "over_line": {"median": over[w]}} for w in (16, 8, 4)],
        "noise": {"warnings": ["loud"]},
    }
    notes = widths.notes(values)
    assert phrase in notes[1]
    assert notes[-1] == "noise: loud"


def test_the_command_measures_every_width_and_says_so(toy: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "widths.json"
    assert widths.run([str(toy), *QUICK, "--widths", "2,8", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [row["width"] for row in result["widths"]] == [16, 8, 2]
    assert all(row["ms"]["n"] == 2 for row in result["widths"])
    assert result["options"] == {"engine": "onnx", "threads": 1, "prefix": 20, "rounds": 2, "widths": [16, 8, 2]}
    assert result["bundle"]["canvas"] == N and len(result["bundle"]["digest"]) == 64
    printed = capsys.readouterr().out
    assert "A step by its width" in printed and "16, by `denoise`" in printed


def test_every_call_runs_what_it_says_and_leaves_the_prefix(toy: Path) -> None:
    engine = ActiveFake(Bundle.open(toy))
    seen: list[tuple[str, int]] = []
    run = engine._call

    def call(graph: str, feeds: Any) -> Any:
        if graph == "denoise_active":
            assert feeds["settled"].sum() == N - feeds["positions"].size
        seen.append((graph, feeds.get("positions", feeds.get("tokens", feeds.get("canvas"))).shape[1]))
        return run(graph, feeds)

    calls = widths.Calls(engine, 20)
    engine._call = call  # type: ignore[method-assign]
    for _ in range(2):
        for one in calls.all([16, 3]).values():
            one()
    assert seen == 2 * [("denoise_active", 16), ("denoise_active", 3), ("denoise", 16), ("encode", 16), ("decode", 1)]


def test_widths_that_are_not_asked_for_are_shares_of_the_canvas() -> None:
    request = widths.WidthsRequest(bundle=Path("x"), threads=1)
    assert request.widths_of(256) == [256, 192, 128, 96, 64, 32, 16, 8]
    assert request.widths_of(16) == [16, 12, 8, 6, 4, 2, 1]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (["--widths", "17"], "--widths 17 must be between 1 and the canvas of 16"),
        (["--widths", "a,b"], "--widths a,b must be numbers separated by commas"),
        (["--prefix", str(CONTEXT)], f"--prefix {CONTEXT}: with a canvas it fills more than the context; give at most"),
        (["--rounds", "0"], "--rounds 0 must be between 1 and"),
        (["--threads", "0"], "--threads 0 must be between 1 and"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(toy: Path, options: list[str], phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase) as error:
        widths.run([str(toy), *QUICK, *options])
    assert "\n" not in str(error.value)


def test_a_bundle_without_the_graph_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(widths, "open_engine", lambda bundle, *_: FakeEngine(bundle))
    bundle = write_bundle(tmp_path / "old.dgemma")
    with pytest.raises(SystemExit) as exit_:
        report.main(lambda: widths.run([str(bundle), *QUICK]))
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "was exported without 'denoise_active'" in line and "export it again" in line
