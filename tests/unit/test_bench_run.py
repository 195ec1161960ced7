"""`dgemma bench` from end to end on a toy model in numpy: exit status, what is printed, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import CONTEXT, STEPS, FakeEngine, N, write_bundle

from dgemma.benchmarks.bench import ceilings, compare, fresh_process, pairs, run
from dgemma.cli import dispatch
from dgemma.runtime import engines, hash_records, memory
from dgemma.runtime.bundle import Bundle

QUICK = ["--repeats", "2", "--threads", "1", "--engine", "onnx"]
RESULTS = Path(run.__file__).parents[1] / "results"


class Toy(FakeEngine):
    """The toy model; what follows a prefix without a turn in it is always the same token."""

    delay = 0.0

    def following(self, ids: Sequence[int]) -> int:
        return super().following(ids) if 6 in ids else 300

    def _denoise(self, feeds: dict[str, Any]) -> list[Any]:
        for _ in range(int(self.delay)):
            np.linalg.inv(np.ones((200, 200)) + np.eye(200))
        return super()._denoise(feeds)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A bundle with two golden prompts, whose engine is the toy model; the fresh process is this one."""

    def opened(bundle: Bundle, engine: str | None, threads: int | None, target: str = "auto") -> Toy:
        engines.choose(bundle, engine)
        return Toy(bundle, list(range(200, 230)))

    def child(*arguments: Any) -> dict[str, Any]:
        found = fresh_process.probe(*arguments)
        found["times"]["process_s"] = found["times"]["load_s"]
        return found

    monkeypatch.setattr(run, "open_engine", opened)
    monkeypatch.setattr(engines, "open_engine", opened)
    monkeypatch.setattr(fresh_process, "_child", child)
    monkeypatch.setattr(ceilings, "BEST_S", 0.01)
    Toy.delay = 0.0
    return bundle(tmp_path / "toy.dgemma")


def bundle(path: Path, **changes: Any) -> Path:
    path.mkdir()
    prompt = np.array([2, 4, 100, 300, 5, 6])
    np.savez(path / "golden.npz", artifact_0_prompt_ids=prompt, artifact_1_prompt_ids=prompt, seeds=np.arange(2))
    shutil.rmtree(path.parent / "made", ignore_errors=True)
    made = write_bundle(path.parent / "made", **changes)
    for file in made.rglob("*"):
        if file.is_file() and file.name != "manifest.json":
            (path / file.relative_to(made)).parent.mkdir(exist_ok=True)
            shutil.copy(file, path / file.relative_to(made))
    from dataclasses import replace

    from dgemma.core.manifest import list_files, read_manifest, write_manifest

    manifest, _ = read_manifest(made)
    write_manifest(path, replace(manifest, files=list_files(path)))
    return path


def test_it_prints_tables_and_ends_with_a_json_line(toy: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "new.json"
    assert dispatch(["bench", str(toy), *QUICK, "--outputs", "20,100,5000", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    lines = printed.strip().splitlines()
    result = json.loads(lines[-1])
    assert result == json.loads(out.read_text())
    assert lines[0].startswith("Cost model: canvas 16, prefix 32")
    for part in ("Ceilings: ", "as the prefix grows", "Resident memory", "MB cold, ", "golden prompts"):
        assert part in printed
    assert "5000 tokens left out: needs a context of 5040" in printed
    assert [o["tokens"] for o in result["outputs"]] == [20, 100]
    assert [p["prefix"] for p in result["growth"]][::5] == [32, 32 + 6 * N]
    group = result["groups"]["golden prompts"]
    assert group["diffusion"]["tokens"]["median"] == 30  # the answer's two canvases, without stop and pads
    assert group["diffusion"]["tokens_per_forward"] > 1 > group["autoregressive"]["tokens_per_forward"]
    assert group["diffusion"]["exact"] is None
    assert result["steps_per_canvas"]["value"] < STEPS
    assert set(result["ratios"]) >= {"prefill over its floor", "golden prompts: tokens per forward"}
    assert compare.read(out)["of"]["engine"] == "onnx"


def test_a_cold_load_hashes_every_file_and_a_warm_one_goes_by_the_record(
    toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_records, "RECORD_FROM", 1)
    monkeypatch.setattr(hash_records, "SETTLED_NS", -(10**18))  # its files were just written
    monkeypatch.setattr(fresh_process, "evict", lambda _: True)
    for _ in range(2):  # also when there is a record from before
        load, _ = fresh_process.load_times(toy, "onnx", 1, 32, 2)
        assert load["cold"]["hashed_bytes"] == load["file_bytes"] > 0
        assert load["warm_hashed_bytes"] == 0
    monkeypatch.setenv("DGEMMA_CACHE", "off")
    load, _ = fresh_process.load_times(toy, "onnx", 1, 32, 2)
    assert load["warm_hashed_bytes"] == load["file_bytes"]


def test_both_floors_are_equal_in_onnx(toy: Path, tmp_path: Path, capsys: Any) -> None:
    assert dispatch(["bench", str(toy), *QUICK, "--outputs", "20"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.strip().splitlines()[-1])
    assert "Kernels that this bundle runs: float32 " in printed
    assert all(p["step_floor_ms"] == p["step_kernel_floor_ms"] for p in result["growth"])
    assert result["prefill"]["over_kernel_floor"] == result["prefill"]["over_floor"]
    assert not any("kernels" in name for name in result["ratios"])
    paced = result["growth"][0]["step_over_pace"]
    assert paced["n"] == 2  # rounds, each a median of steps that the first one, a warm-up, does not weigh in
    assert result["ratios"]["step, first canvas, in turn with its products"]["value"] == paced["median"]
    for point in result["growth"]:
        point["step_kernel_floor_ms"] = 2 * point["step_floor_ms"]
    slower = compare.ratios(result)
    over = slower["step, first canvas, over its floor"]["value"]
    assert slower["step, first canvas, over the floor of its kernels"]["value"] == pytest.approx(over / 2)


def test_a_step_is_judged_by_the_products_of_its_own_minute(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[float] = []

    def pace(self: ceilings.Probe, seconds: float) -> dict[str, float]:
        asked.append(seconds)
        return {"float32": 1e9 if len(asked) % 2 else 3e9}

    monkeypatch.setattr(ceilings.Probe, "pace", pace)
    assert dispatch(["bench", str(toy), *QUICK, "--outputs", "20"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    point, cost = result["growth"][0], result["costs"]["calls"]["denoise"]
    floor_ms = 1e3 * cost["operations"] / 2e9  # at the mean of before and after
    assert point["step_over_pace"]["least"] * floor_ms >= point["step_ms"]["least"] - 1e-9
    assert point["step_over_pace"]["least"] * floor_ms < 10 * point["step_ms"]["q3"]
    assert asked[0] == 0 < asked[-1] < 1  # a share of the steps before


def test_with_json_nothing_else_is_printed(toy: Path, capsys: Any) -> None:
    assert dispatch(["bench", str(toy), *QUICK, "--json", "--outputs", "20"]) == 0
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert json.loads(line)["benchmark"] == "bench"


def test_random_weights_are_called_evidence_of_cost(toy: Path, tmp_path: Path, capsys: Any) -> None:
    random = bundle(tmp_path / "random.dgemma", provenance={"random_weights": 0})
    assert dispatch(["bench", str(random), *QUICK, "--outputs", "20"]) == 0
    printed = capsys.readouterr().out
    assert "Random weights do not converge" in printed
    result = json.loads(printed.strip().splitlines()[-1])
    assert result["groups"] == {}
    assert result["steps_per_canvas"]["value"] == STEPS


def test_a_slower_step_is_exit_status_1_and_the_same_one_0(toy: Path, tmp_path: Path, capsys: Any) -> None:
    old = tmp_path / "old.json"
    command = ["bench", str(toy), *QUICK, "--outputs", "20"]
    assert dispatch([*command, "--out", str(old)]) == 0
    values = json.loads(old.read_text())
    for entry in values["ratios"].values():  # what the old one would be if everything had been half, or twice, as good
        entry["value"] *= 0.01 if entry["better"] == "higher" else 100
    old.write_text(json.dumps(values))
    assert dispatch([*command, "--compare", str(old)]) == 0
    printed = capsys.readouterr().out
    assert "better" in printed
    assert "WORSE" not in printed
    Toy.delay = 20
    for entry in values["ratios"].values():
        entry["value"] *= 1e4 if entry["better"] == "higher" else 1e-4
    old.write_text(json.dumps(values))
    assert dispatch([*command, "--compare", str(old)]) == 1
    printed = capsys.readouterr().out
    assert "WORSE" in printed
    assert json.loads(printed.strip().splitlines()[-1])["comparison"]["rows"][0]["worse"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "executorch"], "was exported without engine 'executorch'"),
        (["--engine", "tflite"], "is unknown; choose one of"),
        (["--seconds", "0"], "--seconds 0.0 must be"),
        (["--repeats", "0"], "--repeats 0 must be"),
        (["--outputs", "12,x"], "--outputs '12,x' must be"),
        (["--outputs", "0"], "--outputs 0 must be"),
        (["--threads", "0"], "--threads 0 must be"),
        (["--compare", "absent.json"], "absent.json: cannot be read"),
        (["--out", "absent/x.json"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(toy: Path, options: list[str], message: str, capsys: Any) -> None:
    assert dispatch(["bench", str(toy), *options]) == 2
    streams = capsys.readouterr()
    errors = [line for line in streams.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert streams.out == ""


def test_a_result_of_another_bundle_is_refused_before_any_work(toy: Path, tmp_path: Path, capsys: Any) -> None:
    old = tmp_path / "old.json"
    assert dispatch(["bench", str(toy), *QUICK, "--outputs", "20", "--out", str(old)]) == 0
    capsys.readouterr()
    assert dispatch(["bench", str(toy), "--engine", "onnx", "--threads", "2", "--compare", str(old)]) == 2
    assert "has threads 1 and this run 2" in capsys.readouterr().err


def test_too_little_memory_is_told_before_loading(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    monkeypatch.setattr(fresh_process, "_child", lambda *_: pytest.fail("it was loaded"))
    assert dispatch(["bench", str(toy), *QUICK]) == 2
    assert "needs at least" in capsys.readouterr().err


def test_the_prompts_of_a_bundle_are_its_own(toy: Path) -> None:
    opened = Bundle.open(toy)
    assert [len(group) for group in pairs.prompts(toy, opened.manifest).values()] == [2]
    tiny = Bundle.open(bundle(toy.parent / "tiny.dgemma", provenance={"name": "tiny"}))
    assert set(pairs.prompts(tiny.path, tiny.manifest)) == set(pairs.GROUPS)
    assert opened.manifest.context == CONTEXT


@pytest.mark.parametrize("file", sorted(RESULTS.glob("bench-*.json")), ids=lambda file: file.stem)
def test_the_committed_results_can_be_compared_with(file: Path) -> None:
    result = compare.read(file)
    assert result["ratios"] == json.loads(json.dumps(compare.ratios(result)))
    assert result["of"]["threads"] == 2
    rows = compare.compare(result, result)
    assert all(row["change"] == 1 and not row["worse"] for row in rows)


def test_there_are_committed_results() -> None:
    assert len(list(RESULTS.glob("bench-*.json"))) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "w8"])
def test_a_real_bundle_in_a_real_process(recipe: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnx")
    import micro_bundle

    made, out = micro_bundle.bundle("onnx", recipe), tmp_path / "new.json"
    assert dispatch(["bench", str(made), *QUICK, "--outputs", "16,32", "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert all(over >= 0.9 for p in result["growth"] for over in (p["step_over_floor"], p["token_over_floor"]))
    assert result["memory"]["loaded"]["anonymous"] > result["memory"]["process"]["anonymous"]
    assert result["load"]["warm"]["load_s"]["median"] > 0
