"""`dgemma plan` beside an NPU: the times of calls worked by hand, sources of every figure, and CPUs planned for as before."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import round_device

from dgemma.benchmarks.plan import npu, plot
from dgemma.benchmarks.plan import profile as profiles
from dgemma.benchmarks.plan.predict import Weights, Work, predict
from dgemma.benchmarks.plan.profile import NPU_SOURCED, Npu, Peak, from_dict, shipped
from dgemma.benchmarks.studies import npu_forecast
from dgemma.benchmarks.studies.tables import read
from dgemma.cli import dispatch
from dgemma.core.config import PRESETS
from dgemma.core.cost import CostModel
from dgemma.core.errors import UsageError

UNIT = Npu(
    name="round",
    peak=Peak(int8=8e12, int4=1.6e13, float16=4e12),
    share_products=0.25,
    bytes_per_s=2e10,
    call_s=1e-3,
    memory_bytes=2**32,
    sources=dict.fromkeys(NPU_SOURCED, "made up"),
)
DEVICE = replace(round_device.DEVICE, npu=UNIT)
FLOATS = Weights(recipe="fp32", bits={}, disk_bytes={"onnx": 1})
EIGHT = Weights(
    recipe="w8",
    bits=dict.fromkeys(("attention", "mlp_up_gate", "mlp_down", "self_conditioning", "embedding"), 8),
    disk_bytes={"onnx": 1},
)


def work(**values: Any) -> Work:
    return Work(**{"config": PRESETS["2b"], "canvas": 256, "prompt": 256, "output": 512, "soft": "gathered", **values})


def test_a_step_and_a_token_by_hand() -> None:
    """A step of 2b at 8 bits is arithmetic: of one product with the table, attention in 16 bits; a token waits for memory."""
    c, found = PRESETS["2b"], npu.predict(DEVICE, UNIT, EIGHT, work())
    run = CostModel(config=c, bits=EIGHT.bits, soft="gathered")
    step, token = run.denoise(256, 512), run.decode(512)
    products = sum(p.operations for p in step.products.values())
    assert step.products["embedding"].operations == 2 * 256 * c.vocab_size * c.hidden_size
    contexts = math.ceil(step.weight_bytes / 1.95e9)
    assert contexts == 2
    beside = 256 * c.vocab_size * (2 / 1e9 + 4 / 4e9) + 3e-4  # cap, exp, float32 logits taken over; the sampler
    assert found.step == pytest.approx((products / 8e12 + step.attention / 4e12) / 0.25 + contexts * 1e-3 + beside)
    assert found.encode == pytest.approx(npu.on_npu(UNIT, run.encode(256, 512))), "nothing is left to the CPU"
    own = c.vocab_size * (1 / 1e9 + 4 / 4e9)
    assert found.token == pytest.approx(token.weight_bytes / 2e10 + 2 * 1e-3 + own)
    assert found.step_floor == pytest.approx(products / 8e12 + step.attention / 4e12) and found.token_floor < found.token
    assert found.resident == run.resident_bytes(768, 256) and found.fits


def test_exact_soft_embeddings_are_the_processors() -> None:
    exact, gathered = (npu.predict(DEVICE, UNIT, EIGHT, work(soft=soft)) for soft in ("exact", "gathered"))
    table = 2 * 256 * PRESETS["2b"].vocab_size * PRESETS["2b"].hidden_size
    assert exact.step - gathered.step == pytest.approx(table / (0.5 * 1e11))
    assert exact.token == gathered.token


def test_floats_become_half_of_their_bytes_and_experts_are_those_that_are_chosen() -> None:
    halves, eights = (npu.predict(DEVICE, UNIT, weights, work()) for weights in (FLOATS, EIGHT))
    assert halves.disk == 2 * eights.disk and halves.bits == 16
    assert not halves.fits and eights.fits, "5.2 and 2.6 GB of 4.3 that are known to run there"
    config = micro.MOE_CONFIG  # 2 of 4 experts
    moe = npu.predict(DEVICE, UNIT, FLOATS, work(config=config, canvas=4, prompt=4, output=8))
    one = moe.calls["decode"].products["experts"]
    assert one.weights == CostModel(config=config, bits={}).decode(0).products["experts"].weights
    assert one.bits == 16


def test_without_an_npu_nothing_is_forecast_and_with_one_cpus_are_planned_as_before() -> None:
    bare = replace(DEVICE, npu=None)
    assert npu.forecast(bare, [EIGHT], [work()]) is None
    assert predict(bare, "onnx", EIGHT, work()) == predict(DEVICE, "onnx", EIGHT, work())
    found = npu.forecast(DEVICE, [FLOATS, EIGHT], [work()])
    assert found and found.chosen is found.found[1] and "A token takes" not in found.sentence(work())
    none = npu.forecast(DEVICE, [FLOATS], [work()])
    assert none and none.chosen is None and "nothing fits" in none.sentence(work())


def test_joules_are_seconds_times_watts() -> None:
    unit = replace(UNIT, watts=5.0, sources={**UNIT.sources, "watts": "made up"})
    p = npu.predict(DEVICE, unit, EIGHT, work(steps=(8.0, 16.0)))
    assert npu.joules(UNIT, p) is None
    few, many, one = npu.joules(unit, p) or (0, 0, 0)
    assert few == pytest.approx(5 / p.diffusion[1]) and many > few and one == pytest.approx(5 / p.autoregressive)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("share_products",), 1.5, "npu: share_products 1.5 is impossible"),
        (("peak", "float16"), 12.0, "npu: peak: float16 12.0 is impossible"),
        (("sources", "peak"), "", "npu: no source for peak"),
        (("watts",), 5.0, "npu: no source for watts"),
        (("tops",), 45, "unknown key 'tops'"),
    ],
)
def test_impossible_npus_are_refused_in_one_line(path: tuple[str, ...], value: Any, says: str) -> None:
    values = json.loads(json.dumps(DEVICE.to_dict()))
    del values["npu"]["watts"]
    place = values["npu"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageError, match=says) as error:
        from_dict(values, "--device x.json")
    assert str(error.value).startswith("--device x.json: ") and "\n" not in str(error.value)


def test_every_shipped_figure_says_whether_it_is_estimated_or_assumed() -> None:
    units = [unit for name in profiles.names() if (unit := shipped(name).npu)]
    assert len(units) == 5 and sum(unit.watts is not None for unit in units) == 2
    for unit in units:
        assert {*NPU_SOURCED} <= set(unit.sources) and ("watts" in unit.sources) == (unit.watts is not None)
        for source in unit.sources.values():
            assert source.startswith(("estimated", "assumed")), source
            assert source.startswith("assumed") or any(site in source for site in (".com", ".co/", ".net", ".json", ".org")), (
                source
            )


def test_a_plan_has_a_forecast_in_80_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["plan", "2b", "--device", "phone-flagship", "--soft", "topk:16"]
    assert dispatch([*asked, "--picture", str(tmp_path / "p.png")]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and out.startswith("Take ") and out.count(", npu ") == 5
    assert "Nothing was measured" in out.replace("\n", " ") and (tmp_path / "p.png").stat().st_size > 10_000
    assert dispatch([*asked, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert all(p["engine"] != "npu" for p in values["predictions"]) and len(values["npu"]["predictions"]) == 5
    assert values["npu"]["chosen"]["joules_per_token"][0] < values["npu"]["chosen"]["joules_per_token"][2]
    assert dispatch([*asked, "--verbose"]) == 0
    assert "huggingface.co/qualcomm" in capsys.readouterr().out
    assert dispatch(["plan", "2b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["npu"] is None


def test_one_line_a_processor_and_level_ones() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    name, of, found, forecast = npu_forecast.plan("26b-a4b")[-1]
    assert "X Elite" in name
    plot.of_processors(axes, of, found, forecast)
    curves = [line for line in axes.lines if len(np.asarray(line.get_xdata())) > 2]
    level = [line for line in axes.lines if line.get_linestyle() == "--"]
    labels = [str(line.get_label()) for line in curves]
    assert len(curves) == len(level) == 2
    assert labels[0].startswith("CPU: ") and "does not fit" not in labels[0] and labels[1].endswith("does not fit")


def test_the_committed_forecast_is_todays() -> None:
    assert read("npu-forecast.json") == {"benchmark": "npu-forecast", **json.loads(json.dumps(npu_forecast.figures()))}
