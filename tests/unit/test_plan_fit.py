"""Fitting a profile to results of `dgemma bench`: known coefficients are found again, and other runs are predicted."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.benchmarks.plan import fit
from dgemma.benchmarks.plan.profile import coefficients
from dgemma.benchmarks.studies import plan_check
from dgemma.cli import dispatch
from dgemma.core.config import PRESETS
from dgemma.core.errors import UsageError
from dgemma.core.shapes import parameter_count
from dgemma.model.hf_config import read_config

ROOT = Path(__file__).parents[2]
TINY = ROOT / "checkpoints/tiny"
RESULTS = {  # of one machine on one day, kept for these tests
    name: ROOT / f"tests/golden/plan/bench-{name}.json"
    for name in ("2b-w8-onnx", "tiny-fp32-onnx", "tiny-w8-onnx", "tiny-fp32-executorch", "tiny-w8-executorch")
}


def results(*names: str) -> list[fit.Result]:
    return [fit.read_result(RESULTS[name], "--fit", [read_config(TINY)[0]]) for name in names]


def test_least_squares_with_a_bound_by_hand() -> None:
    """x + y = 3 and x = 4: exact is (4, −1); with y ≥ 0.5, x minimizes (x − 2.5)² + (x − 4)²."""
    a, y = np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([3.0, 4.0])
    assert fit.bounded_least_squares(a, y, np.array([-9.0, -9.0])) == pytest.approx([4.0, -1.0])
    assert fit.bounded_least_squares(a, y, np.array([0.0, 0.5])) == pytest.approx([3.25, 0.5])


def test_parameters_tell_the_shape() -> None:
    assert parameter_count(PRESETS["2b"]) == 2_727_606_272 and parameter_count(read_config(TINY)[0]) == 1_778_624
    with pytest.raises(UsageError, match="name the checkpoint"):
        fit.read_result(RESULTS["tiny-w8-onnx"], "--fit")


def test_known_coefficients_are_found_again() -> None:
    """Times made by a profile are explained by it, and a machine half as fast is found to be so."""
    made = results("2b-w8-onnx", "tiny-fp32-onnx", "tiny-w8-onnx")
    truth = fit.fit(made)
    for result in made:
        result.values["growth"] = copy.deepcopy(result.values["growth"])
        by = {(o.figure, o.prefix): 2e3 * fit.predict(truth, o) for o in result.observations()}
        for point in result.values["growth"]:
            for figure in ("step", "token"):
                point[f"{figure}_ms"]["median"] = by[figure, point["prefix"]]
        result.values["prefill"]["ms"]["median"] = by["prefill", result.values["prefill"]["tokens"]]
    again = fit.fit(made)
    assert [r["ratio"] for r in fit.ratios(again, made)] == pytest.approx([1.0] * 31, abs=0.05)
    found, wanted = (np.array(coefficients(p.kernels("onnx"))) for p in (again, truth))
    assert found[:2] == pytest.approx(2 * wanted[:2], rel=0.15)


def test_committed_runs_are_explained_by_few_constants() -> None:
    """Four decades of milliseconds, 9 constants an engine, all within 15 %: 57 figures of tiny and 2b."""
    found = fit.ratios(fit.fit(results(*RESULTS)), results(*RESULTS))
    assert len(found) == 57 and max(max(r["ratio"], 1 / r["ratio"]) for r in found) < 1.15


def test_runs_that_were_not_fitted_are_predicted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """w8 on onnx from float32 and another shape; the exit status says whether all were within the goal."""
    out, made = tmp_path / "check.json", tmp_path / "profile.json"
    args = ["--fit", str(RESULTS["2b-w8-onnx"]), str(RESULTS["tiny-fp32-onnx"]), "--checkpoint", str(TINY), "--out", str(out)]
    status = plan_check.main([*args, "--test", str(RESULTS["tiny-w8-onnx"]), "--write", str(made)])
    values = json.loads(out.read_text())
    assert values["test"] == ["bench-tiny-w8-onnx.json"] and values["within"] >= 6
    assert status == (0 if values["within"] == len(values["rows"]) else 1)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["rows"] == 13 and last["median"] < 0.10
    assert dispatch(["plan", "2b", "--device", str(made), "--engine", "onnx", "--json"]) == 0


def test_a_wrong_model_of_the_machine_does_not_pass() -> None:
    """The check can fail: with reading ten times as fast as it is, tokens of 2b are off by more than the goal."""
    profile = fit.fit(results("2b-w8-onnx", "tiny-fp32-onnx"))
    wrong = replace(profile, bytes_per_s=10 * profile.bytes_per_s)
    tokens = [r["ratio"] for r in fit.ratios(wrong, results("2b-w8-onnx")) if r["figure"] == "token"]
    assert max(tokens) < 1 / (1 + plan_check.GOAL)


def test_a_result_of_bench_is_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["plan", "2b", "--device", str(RESULTS["2b-w8-onnx"]), "--recipe", "w8", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [p["engine"] for p in values["predictions"]] == ["onnx"] and values["device"]["name"] == "AMD EPYC"
    assert dispatch(["plan", str(TINY), "--device", str(RESULTS["tiny-w8-onnx"])]) == 0
    capsys.readouterr()
    assert dispatch(["plan", "2b", "--device", str(RESULTS["tiny-w8-onnx"])]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_what_cannot_be_fitted_is_said(tmp_path: Path) -> None:
    one, other = results("tiny-w8-onnx", "tiny-fp32-onnx")
    with pytest.raises(UsageError, match="at least one"):
        fit.fit([])
    other.values["machine"]["cpu"] = "another"
    with pytest.raises(UsageError, match="several machines"):
        fit.fit([one, other])
    broken: dict[str, Any] = json.loads(RESULTS["2b-w8-onnx"].read_text())
    broken["growth"][0]["step_ms"]["median"] = 0
    with pytest.raises(UsageError, match="of 0"):
        fit.as_result(broken, "x.json")
    broken = json.loads(RESULTS["2b-w8-onnx"].read_text())
    del broken["ceilings"]
    with pytest.raises(UsageError, match="not a complete result"):
        fit.as_result(broken, "x.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UsageError, match="not a result of dgemma bench"):
        fit.read_result(tmp_path / "x.json", "--test")
    with pytest.raises(UsageError, match="also under --fit"):
        plan_check.main(["--fit", "a.json", "--test", "a.json"])
