"""The projection on hand-made numbers, schedules read back from trajectories, and the command on a toy model in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_active import ActiveFake, active_session, write_active_bundle
from fake_bundle import N, write_bundle
from hypothesis import given
from hypothesis import strategies as st

from dgemma.benchmarks import report
from dgemma.benchmarks.studies import projection, tables, widths
from dgemma.benchmarks.studies.projection import OWN, STOCK, YARDSTICK, Costs, needed, project
from dgemma.benchmarks.studies.schedules import Schedule, replay, stretch
from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import UsageError
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

ANSWER = list(range(200, 240))  # two canvases of 16 and half of a third
COSTS = Costs(canvas=100, widths=(10, 50, 100), active=(20.0, 60.0, 100.0), denoise=110.0, encode=90.0)
EVERY = dict.fromkeys(("median", "q1", "q3"), COSTS)


def schedule(*shares: float, prompt: int = 0, index: int = 0) -> Schedule:
    return Schedule(prompt=prompt, index=index, shares=shares, right=True)


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=16), st.integers(1, 40))
def test_a_longer_schedule_keeps_the_first_step_and_the_mean_share(shares: list[float], steps: int) -> None:
    found = stretch(shares, steps)
    assert len(found) == steps
    if steps >= len(shares):
        assert found[0] == pytest.approx(shares[0])
        assert found.mean() == pytest.approx(np.mean(shares))
    else:
        assert found[0] >= shares[0] and found.mean() >= np.mean(shares) - 1e-12


@pytest.mark.parametrize("times", [1, 2, 5])
def test_whole_multiples_repeat_every_step(times: int) -> None:
    shares = [1.0, 0.4, 0.7, 0.1]
    np.testing.assert_allclose(stretch(shares, 4 * times), np.repeat(shares, times))


def test_steps_in_between_are_shared_out() -> None:
    np.testing.assert_allclose(stretch([1.0, 0.4], 3), [1.0, 0.7, 0.4])
    np.testing.assert_allclose(stretch([1.0, 0.5, 0.0, 0.0], 2), [1.0, 0.0])  # whole, though its part of time has 0.75


def test_known_costs_and_a_known_schedule_give_known_tokens_per_second() -> None:
    row = project([schedule(1.0, 0.5)], EVERY, {OWN: 200.0}, 2, False, 1.0)
    assert row["canvas_ms"] == 100 + 60 + 90  # two steps and the encoding
    assert row["tokens_per_s"]["median"] == 400.0
    assert (row["share"], row["step_ms"], row["shares"]) == (0.75, 80.0, [1.0, 0.5])
    assert row["against"][OWN] == {"ratio": 2.0, "even_steps": (500 - 90) / 80}
    assert row["at_stock_steps"] == {"steps": 2, "tokens_per_s": 400.0}
    assert row["goal"] is None


def test_the_stock_loop_pays_for_whole_steps_of_its_own_graph() -> None:
    row = project([schedule(1.0)], EVERY, {OWN: 1.0}, 10, True, 1.0)
    assert row["canvas_ms"] == 10 * 110 + 90
    assert project([schedule(1.0)], EVERY, {OWN: 1.0}, 10, False, 1.0)["canvas_ms"] == 10 * 100 + 90


def test_canvases_are_priced_one_by_one_and_averaged() -> None:
    row = project([schedule(1.0, 1.0), schedule(0.3, 0.02)], EVERY, {OWN: 1.0}, 2, False, None)
    assert row["canvas_ms"] == (200 + 40 + 20) / 2 + 90  # 30 positions between 10 and 50; 2 cost what 10 do
    assert row["at_stock_steps"] is None


def test_the_second_rate_lets_the_stock_loop_take_the_steps_and_keeps_the_passes() -> None:
    row = project([schedule(1.0)], EVERY, {OWN: 1.0}, 4, False, 1.6)
    assert row["at_stock_steps"] == {"steps": 6, "tokens_per_s": pytest.approx(1e5 / (600 + 90))}
    assert project([schedule(1.0)], EVERY, {OWN: 1.0}, 4, False, 0.01)["at_stock_steps"]["steps"] == 1


def test_quartiles_of_costs_are_those_of_rates_the_other_way_round() -> None:
    dear = Costs(canvas=100, widths=(100,), active=(200.0,), denoise=200.0, encode=100.0)
    cheap = Costs(canvas=100, widths=(100,), active=(50.0,), denoise=50.0, encode=50.0)
    row = project([schedule(1.0)], {"median": COSTS, "q1": cheap, "q3": dear}, {OWN: 1.0}, 2, False, None)
    assert row["tokens_per_s"] == {"median": pytest.approx(1e5 / 290), "q1": 200.0, "q3": pytest.approx(1e5 / 150)}


def test_what_would_reach_a_rate() -> None:
    found = needed(COSTS, 10, 110.0, 200.0)  # 500 ms a canvas, 410 of them for steps
    assert found == {"steps": pytest.approx(410 / 110), "step_ms": 41.0, "share": pytest.approx(0.31)}
    rate = 1e5 / (10 * COSTS.step(np.array([found["share"]]), False)[0] + COSTS.encode)
    assert rate == pytest.approx(200.0)  # a share that is said to do really does
    assert needed(COSTS, 100, 110.0, 200.0)["share"] is None  # 4.1 ms: not even the narrowest step
    assert needed(COSTS, 1, 110.0, 200.0)["share"] == 1.0
    assert needed(COSTS, 10, 110.0, 5000.0) == {"steps": 0.0, "step_ms": 0.0, "share": None}  # encoding alone takes longer


@pytest.mark.parametrize(
    "wrong",
    [{"widths": (50, 10, 100)}, {"widths": (10, 50)}, {"widths": (10, 50, 90)}, {"active": (1.0, 2.0)}, {"encode": 0.0}],
)
def test_costs_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    values = {"canvas": 100, "widths": (10, 50, 100), "active": (20.0, 60.0, 100.0), "denoise": 110.0, "encode": 90.0}
    with pytest.raises(ValueError, match="must"):
        Costs(**{**values, **wrong})


def test_groups_and_steps_over_the_stock_loop_s() -> None:
    stock = [schedule(1.0, 1.0), schedule(*[1.0] * 10, prompt=1)]
    auto = [schedule(*[0.1] * 5), schedule(*[0.1] * 9, prompt=1), schedule(*[0.1] * 9, prompt=2)]
    groups = projection.summarize({STOCK: stock, "early_commit": [], "auto": auto}, EVERY, {OWN: 1.0}, [4, 6])
    first, second = groups.values()
    assert [one["canvases"] for one in first.values()] == [2, 0, 3]
    assert [one["canvases"] for one in second.values()] == [1, 0, 2]
    assert first["early_commit"]["projections"] == [] and first["early_commit"]["step_ratio"] is None
    assert (first["auto"]["step_ratio"]["value"], first["auto"]["step_ratio"]["n"]) == (14 / 12, 2)  # the third has no pair
    assert (second["auto"]["step_ratio"]["value"], second["auto"]["step_ratio"]["n"]) == (0.9, 1)
    assert [row["at_stock_steps"]["steps"] for row in first["auto"]["projections"]] == [5, 7]
    assert [row["at_stock_steps"]["steps"] for row in first[STOCK]["projections"]] == [4, 6]


# ---- schedules -------------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with active_session(tmp_path / "toy.dgemma", ANSWER) as opened:
        yield opened


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_commit": 0.01},
        {"start_width": 4},
        {"start_width": "auto"},
        {"early_commit": 0.01, "recheck": True},
    ],
)
def test_a_replay_finds_the_rows_that_ran(session: Session, options: dict[str, Any]) -> None:
    ran: list[list[int]] = []
    loops = session._generator._loops
    for name in ("host", "active"):
        made = getattr(loops, name)

        def spied(*args: Any, made: Any = made) -> Iterator[Any]:
            ran.append([])
            for step in made(*args):
                ran[-1].append(step.rows)
                yield step

        setattr(loops, name, spied)
    result = session.generate([2, 4, 100, 5, 6], trace=True, **options)
    assert result.trajectory is not None and result.canvases == 3
    sampler, stops = session.manifest.sampler, session.manifest.model.eos_token_ids
    found = [replay(result.trajectory, i, ComputePolicy.of(**options), sampler, stops) for i in range(3)]
    assert [rows for rows, _ in found] == ran
    assert [session.visible(canvas) for _, canvas in found] == [ANSWER[:16], ANSWER[16:32], ANSWER[32:]]
    assert sum(map(sum, ran)) + 2 * N == result.position_forwards  # two canvases were encoded
    if options.get("early_commit"):
        other, _ = replay(result.trajectory, 0, ComputePolicy.of(start_width=2), sampler, stops)
        assert other != ran[0]


# ---- the command -----------------------------------------------------------------------------------------------------

Files = dict[str, Path]


def loader(answer: list[int]) -> Callable[..., Session]:
    def load(path: Path, **_: Any) -> Session:
        bundle = Bundle.open(path)
        return Session(bundle, ActiveFake(bundle, answer))

    return load


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session) -> Files:
    """A toy bundle whose sessions run in numpy, tasks, costs of that bundle by width, and a peer of them."""
    bundle = write_active_bundle(tmp_path / "tiny.dgemma")
    monkeypatch.setattr(Session, "load", loader(ANSWER))
    monkeypatch.setattr(widths, "open_engine", lambda bundle, *_: ActiveFake(bundle))
    found = {name: tmp_path / f"{name}.json" for name in ("widths", "peers", "out")}
    assert widths.run([str(bundle), "--threads", "1", "--prefix", "20", "--rounds", "2", "--out", str(found["widths"])]) == 0
    measured = json.loads(found["widths"].read_text())
    assert session.tokenizer is not None
    items = [{"task": "say", "prompt": f"say {i}", "answer": session.tokenizer.decode(ANSWER)} for i in range(2)]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(item) + "\n" for item in items))
    token = {"token_ms": measured["token_ms"]}
    peers = {
        "benchmark": "peers",
        "bundle": measured["bundle"],
        "options": measured["options"],
        "runs": [
            {"peer": "dgemma", "tokens_per_s": {"median": 1.0}, **token},
            {"peer": YARDSTICK, "tokens_per_s": {"median": 10.0}},
            {"peer": "transformers/eager/float32", "tokens_per_s": None},
        ],
    }
    found["peers"].write_text(json.dumps(peers))
    return {**found, "bundle": bundle, "tasks": tasks}


def command(files: Files, *more: str) -> list[str]:
    given = [str(files["bundle"]), "--tasks", str(files["tasks"]), "--widths", str(files["widths"])]
    return [*given, "--peers", str(files["peers"]), *more]


def test_the_command_projects_every_option_and_says_what_it_is(files: Files, capsys: Any) -> None:
    assert projection.run(command(files, "--out", str(files["out"]))) == 0
    result = json.loads(files["out"].read_text())
    first, second = result["groups"].values()
    assert {name: one["canvases"] for name, one in first.items()} == dict.fromkeys(projection.OPTIONS, 4)
    assert {name: one["canvases"] for name, one in second.items()} == dict.fromkeys(projection.OPTIONS, 0)
    assert all(one["right"] == 4 and len(one["projections"]) == 3 for one in first.values())
    assert result["rates"][YARDSTICK] == 10.0 and set(result["rates"]) == {OWN, YARDSTICK}
    printed = capsys.readouterr().out
    assert "A projection, not a measurement" in printed
    for steps in projection.STEPS:
        assert f"1.5 × llama.cpp/q4_0 if the stock loop takes {steps} steps: reached" in printed
    assert "the bundle's own token took" not in printed


def test_without_peers_the_goal_is_not_judged(files: Files, capsys: Any) -> None:
    arguments = command(files, "--steps", "5")
    at = arguments.index("--peers")
    assert projection.run(arguments[:at] + arguments[at + 2 :]) == 0
    printed = capsys.readouterr().out
    assert "is not judged: give --peers" in printed and "steps: reached" not in printed


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_goal_that_is_missed_is_said_with_by_how_much(files: Files, capsys: Any) -> None:
    runs = json.loads(files["peers"].read_text())["runs"]
    runs[0]["token_ms"] = {"median": 1e3}
    runs[1]["tokens_per_s"] = {"median": 1e9}
    change(files["peers"], runs=runs)
    assert projection.run(command(files)) == 0
    printed = capsys.readouterr().out
    assert "takes 12 steps: missed by 100%" in printed
    assert "noise: the bundle's own token took 1000 ms beside the peers" in printed


def test_the_page_has_costs_and_projection(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert projection.run(command(files, "--out", str(tmp_path / "2b-projection.json"))) == 0
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.projection()
    assert "| positions | ms [quartiles] |" in text and "| filled (4), start width auto | 20 |" in text
    assert "A projection, not a measurement" in text
    table_lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table_lines} == {len(h) + 1 for h in (widths.HEADER, projection.HEADER)}


def test_what_cannot_be_projected_is_one_line_and_status_2(files: Files, tmp_path: Path, capsys: Any) -> None:
    def refused(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            report.main(lambda: projection.run([*command(files), *arguments]))
        assert exit_.value.code == 2
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("schedules: ")]
        assert len(lines) == 1
        return lines[0]

    assert "is not a result of `python -m dgemma.benchmarks.studies.widths`" in refused(
        "--widths", str(tmp_path / "absent.json")
    )
    assert "is not a result of `python -m dgemma.benchmarks.studies.widths`" in refused("--widths", str(files["peers"]))
    assert "is not a result of `python -m dgemma.benchmarks.studies.peers`" in refused("--peers", str(files["widths"]))
    assert "--steps 0 must be between 1 and 4096" in refused("--steps", "0")
    short = tmp_path / "short.jsonl"
    short.write_text('{"task": "t", "prompt": "p"}\n')
    assert "short.jsonl" in refused("--tasks", str(short))
    files["bundle"] = write_active_bundle(tmp_path / "mute.dgemma", chat=None)
    assert "has no chat template, so prompts cannot be asked" in refused()
    files["bundle"] = write_bundle(tmp_path / "old.dgemma")
    assert "was exported without 'denoise_active'; export it again" in refused()


def test_peers_of_another_shape_and_costs_that_are_damaged_are_refused(files: Files) -> None:
    change(files["peers"], options={**json.loads(files["peers"].read_text())["options"], "threads": 2})
    with pytest.raises(UsageError, match="was measured with other threads than --widths; measure both alike"):
        projection.run(command(files))
    change(files["widths"], encode_ms={})
    with pytest.raises(UsageError, match=r"its figures cannot be used \('median'\); measure them again"):
        projection.run(command(files))


def test_a_model_that_fills_no_canvas_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "load", loader([200]))
    with pytest.raises(UsageError, match="filled no canvas to 90%; raise --per-task"):
        projection.run(command(files))


@pytest.mark.slow
def test_tiny_on_a_real_engine(tiny_bundle: Path, tmp_path: Path) -> None:
    costs, out = tmp_path / "widths.json", tmp_path / "projection.json"
    assert widths.run([str(tiny_bundle), "--engine", "onnx", "--threads", "1", "--prefix", "64", "--out", str(costs)]) == 0
    arguments = [str(tiny_bundle), "--widths", str(costs), "--per-task", "2", "--steps", "12", "--out", str(out)]
    assert projection.run(arguments) == 0
    rows = json.loads(costs.read_text())["widths"]
    assert rows[0]["ms"]["least"] > rows[-1]["ms"]["least"]  # a whole step costs more than two positions
    stock, early, _ = json.loads(out.read_text())["groups"]["filled"].values()
    assert stock["canvases"] and early["canvases"]
    assert stock["projections"][0]["share"] == pytest.approx(1.0) and early["projections"][0]["share"] < 0.95
    with Session.load(tiny_bundle, engine="onnx", threads=1) as session:
        result = session.generate("Spell: cat", early_commit=0.01, trace=True)
        assert result.trajectory is not None
        sampler, stops = session.manifest.sampler, session.manifest.model.eos_token_ids
        compute, canvases = ComputePolicy.of(early_commit=0.01), range(result.canvases)
        ran = [sum(replay(result.trajectory, i, compute, sampler, stops)[0]) for i in canvases]
        assert sum(ran) + (result.canvases - 1) * session.manifest.canvas_length == result.position_forwards
