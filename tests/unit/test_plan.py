"""`dgemma plan`: terms and sums worked by hand, profiles read strictly, one line for what is wrong, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
from fake_bundle import write_bundle
from round_device import DEVICE, ROUND

from dgemma.benchmarks.plan import profile as profiles
from dgemma.benchmarks.plan.predict import ROOM, Prediction, Weights, Work, gb, predict, recommend
from dgemma.benchmarks.plan.profile import Cache, Products, Profile, coefficients, from_dict, shipped, terms
from dgemma.cli import dispatch
from dgemma.core.config import PRESETS
from dgemma.core.cost import CostModel, as_run
from dgemma.core.engines import ENGINES
from dgemma.core.errors import UsageError
from dgemma.core.manifest import read_manifest
from dgemma.core.shapes import parameter_shapes
from dgemma.core.shipped import bundle_path
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.recipes import RECIPES, file_bytes
from dgemma.runtime.decoder_choice import golden_steps

TINY = Path(__file__).parents[2] / "checkpoints/tiny"
SLOW = Products(int8=1e9, int4=1e9, float32=1e9)


@pytest.mark.parametrize("config", [micro.CONFIG, micro.MOE_CONFIG], ids=["dense", "experts"])
def test_shapes_are_the_models(config: Any) -> None:
    assert parameter_shapes(config) == {name: tuple(p.shape) for name, p in Denoiser(config).named_parameters()}


def test_what_graphs_compute_is_counted_by_hand() -> None:
    """micro: D 32, F 48, 2 layers, H 2, V 300; sliding K 2, d 16, window 8, full K 1, d 32; 16 rows, prefix 70 in 128 slots."""
    cost = as_run(micro.CONFIG, {}).denoise(16, 70)
    assert cost.attention == 4 * 16 * 144 * (2 * 16 + 2 * 32)
    assert cost.cache_bytes == 2 * 4 * 144 * (2 * 16 + 1 * 32)
    assert cost.functions == 2 * 16 * 144 * 2 + 16 * (3 * 48 + 2 * 300)
    assert cost.values == 16 * 6 * 2 * 32
    needed = CostModel(config=micro.CONFIG, bits={"attention": 8}).decode(70)
    assert needed.attention == 4 * (8 * 2 * 16 + 71 * 2 * 32)  # the window's 7, itself; all 70, itself
    assert needed.cache_bytes == 2 * 4 * (7 * 2 * 16 + 70 * 32)
    assert needed.functions == 2 * 8 + 2 * 71 + 2 * 48 + 300
    assert needed.values == 6 * 2 * 32 + 2 * (2 * 32 + 48) + 2 * (16 + 32)


def test_all_experts_are_computed() -> None:
    some, every = (
        CostModel(config=micro.MOE_CONFIG, bits={}, every_expert=run).encode(1, 0).products["experts"] for run in (False, True)
    )
    assert every.weights == every.operations // 2 == 2 * some.weights == 4 * 2 * 3 * 32 * 16


def test_integer_experts_are_routed() -> None:
    runs = [as_run(micro.MOE_CONFIG, bits).denoise(2, 0).products["experts"] for bits in ({}, {"experts": 32}, {"experts": 4})]
    assert runs[0].operations == runs[1].operations == 2 * runs[2].operations  # 4 experts, 2 of them chosen


def test_integer_experts_have_a_kernel_of_their_own() -> None:
    """In every engine the same one, a share of the best rate for bytes; float experts are products like all others."""
    two = replace(DEVICE, bytes_per_s=1e13, engines={"onnx": ROUND, "executorch": replace(ROUND, products=SLOW)})
    integers, floats = (as_run(micro.MOE_CONFIG, {"experts": bits}).denoise(16, 0) for bits in (4, 32))
    for engine, rate in (("onnx", ROUND.products.float32), ("executorch", SLOW.float32)):
        others = sum(p.operations for name, p in integers.products.items() if name != "experts") + integers.attention
        experts = integers.products["experts"].operations / (profiles.EXPERTS * ROUND.products.int8)
        assert profiles.terms(two, engine, integers, 2)[0] == pytest.approx(others / rate + experts)
        assert profiles.terms(two, engine, floats, 2)[0] == pytest.approx(
            (others + floats.products["experts"].operations) / rate
        )


def test_memory_of_a_device_can_be_another(capsys: pytest.CaptureFixture[str]) -> None:
    """26b-a4b at four bits: not with 16 GB, but with 24; at eight with 64."""
    fitting = {}
    for memory in ("16", "24", "64"):
        args = ["plan", "26b-a4b", "--device", "laptop-zen4-8-cores", "--memory", memory, "--json"]
        assert dispatch(args) == 0
        values = json.loads(capsys.readouterr().out)
        fitting[memory] = {p["recipe"] for p in values["predictions"] if p["fits"]}
        assert values["device"]["memory_bytes"] == int(memory) * 10**9
        assert (values["recommended"] is None) == (not fitting[memory])
    assert not fitting["16"] and fitting["24"] == {"w4-mixed", "w4", "w4-all"} and fitting["64"] == set(RECIPES) - {"fp32"}
    fails(capsys, ["26b-a4b", "--memory", "0.5"], "--memory 0.5")


def test_seconds_of_a_call_by_hand() -> None:
    """A step of 16 rows: 8-bit products are arithmetic; attention is float32; everything beside them is added."""
    bits = dict.fromkeys(("attention", "mlp_up_gate", "mlp_down", "self_conditioning", "embedding"), 8)
    model = as_run(micro.CONFIG, bits)
    fast = replace(DEVICE, bytes_per_s=1e13)
    cost = model.denoise(16, 0)
    products = sum(p.operations for p in cost.products.values())
    assert cost.attention == 4 * 16 * 80 * 96 == 491_520
    expected = 2 * (products / 1e12 + 491_520 / 1e11) + cost.functions / 1e9 + cost.values / 2e9 + cost.cache_bytes / 4e9
    assert fast.seconds("onnx", cost, 2) == pytest.approx(expected + 1e-4 + 2 * 1e-5 + 2 * 2e-5 + 3e-4, rel=1e-12)
    token = model.decode(0)  # reading bound, no sampler
    reading = token.weight_bytes / 1e10 / 0.8 + 2 * token.attention / 1e11
    beside = token.functions / 1e9 + token.values / 2e9 + token.cache_bytes / 4e9 + 1e-4 + 2 * 3e-5
    assert DEVICE.seconds("onnx", token, 2) == pytest.approx(reading + beside, rel=1e-12)


def test_weights_that_caches_hold_are_read_from_there() -> None:
    cached = replace(DEVICE, cache=Cache(bytes=1 << 20, bytes_per_s=1e11))
    assert [cached.read_rate(size) for size in (1 << 20, (1 << 20) + 1)] == [1e11, 1e10]
    token = as_run(micro.CONFIG, {}).decode(0)
    slow, fast = (terms(device, "onnx", token, 2)[1] for device in (DEVICE, cached))
    assert slow == pytest.approx(10 * fast) and len(coefficients(ROUND)) == len(terms(cached, "onnx", token, 2))


def work(**values: Any) -> Work:
    return Work(**{"config": PRESETS["2b"], "canvas": 256, "prompt": 256, "output": 512, **values})


def weights(recipe: str) -> Weights:
    of = RECIPES[recipe]
    bits = {str(c): b for c, b in of.bits.items() if b < 32}
    return Weights(recipe=recipe, bits=bits, disk_bytes={e: file_bytes(of, e, PRESETS["2b"]) for e in ENGINES})


def test_rates_and_break_even_follow_from_the_calls() -> None:
    w = work(steps=(5.0, 10.0))
    p = predict(DEVICE, "onnx", weights("w8"), w)
    run = as_run(w.config, weights("w8").bits)

    def seconds(cost: Any) -> float:
        return DEVICE.seconds("onnx", cost, 26)

    denoise = seconds(run.denoise(256, 256)) + seconds(run.denoise(256, 512))
    prefill, again, token = seconds(run.encode(256, 0)), seconds(run.encode(256, 256)), seconds(run.decode(512))
    assert p.diffusion == pytest.approx([512 / (prefill + again + s * denoise) for s in (10, 5)])
    assert p.autoregressive == pytest.approx(512 / (prefill + 512 * token))
    assert p.break_even == pytest.approx((512 * token - again) / denoise)
    even = predict(DEVICE, "onnx", weights("w8"), work(steps=(p.break_even, p.break_even)))
    assert even.diffusion[0] == pytest.approx(even.autoregressive)
    assert p.position_forwards_per_token == (6.0, 11.0) and work(output=128).position_forwards_per_token(5) == 12.0


def test_memory_holds_the_table_once_and_four_bits_as_eight_in_onnx() -> None:
    exact, gathered = (predict(DEVICE, "onnx", weights("w8"), work(soft=soft)).resident for soft in ("exact", "gathered"))
    assert exact == gathered == predict(DEVICE, "onnx", weights("w4-all"), work()).resident
    kept = 2 * 4 * 768 * (22 * 4 * 256 + 4 * 2 * 512)
    beside = 4 * 256 * (6 * 2304 + 2 * 9216 + 3 * 8192)
    assert exact == 2_727_346_176 + kept + beside


def test_sizes_on_disk_are_those_of_bundles() -> None:
    """Bytes in 2b-sizes.json and export-cost.json of benchmarks/results."""
    for recipe, size in (("w8", 2_734_579_091), ("w4-mixed", 1_886_484_783), ("w4-all", 1_392_786_573)):
        assert file_bytes(RECIPES[recipe], "onnx", PRESETS["2b"]) == pytest.approx(size, rel=0.005)


def test_one_configuration_is_recommended_with_the_reason() -> None:
    few = work(steps=(8.0, 12.0))
    found = [predict(DEVICE, "onnx", weights(name), few) for name in ("fp32", "w8", "w4-all")]
    chosen, sentence = recommend(found, DEVICE, few)
    assert chosen is found[1], "as fast as w4-all, which onnx holds in 8 bits, and nearer to the float model"
    assert chosen.break_even > 12 and "faster at any of these" in sentence  # memory is slow on this device, arithmetic fast
    quick = replace(DEVICE, bytes_per_s=1e12)
    found = [predict(quick, "onnx", weights("w8"), work())]
    assert "decode autoregressively" in recommend(found, quick, work())[1]
    between = work(steps=(1.0, 4000.0))
    assert "faster only with fewer than" in recommend([predict(DEVICE, "onnx", weights("w8"), between)], DEVICE, between)[1]


def test_the_recipe_that_changes_answers_the_most_is_a_last_resort() -> None:
    def planned(device: Profile) -> tuple[list[Prediction], Prediction | None, str]:
        found = [predict(device, "executorch", weights(name), work()) for name in ("w4", "w4-all")]
        return found, *recommend(found, device, work())

    phone = shipped("phone-flagship")
    (better, least), chosen, _ = planned(phone)
    assert least.best > better.best and chosen is better
    (_, least), chosen, sentence = planned(replace(phone, memory_bytes=int(least.resident / ROOM) + 1))
    assert chosen is least and "changes answers the most" in sentence


def test_a_plan_is_80_columns_and_begins_with_the_recommendation(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["plan", "26b-a4b", "--memory", "24", "--canvas", "256,64"]
    assert dispatch(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Take ") and max(map(len, lines)) <= 80
    assert "estimated" not in "\n".join(lines)
    assert dispatch([*asked, "--verbose", "--device", "phone-mid-range"]) == 0
    assert "estimated" in capsys.readouterr().out


def test_a_bundle_is_planned_with_the_steps_of_its_own_canvases(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["plan", "tiny", "--json"]) == 0
    few, many = json.loads(capsys.readouterr().out)["steps_per_canvas"]
    folder = bundle_path("tiny")
    counts = sorted(golden_steps(folder, read_manifest(folder)[0]))
    assert (few, many) == (counts[len(counts) // 4], counts[-1 - len(counts) // 4]) and many < 12 and counts[0] >= 1
    assert dispatch(["plan", "tiny", "--json", "--steps-per-canvas", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["steps_per_canvas"] == [5, 5]


def test_what_does_not_fit_is_said() -> None:
    need = predict(DEVICE, "onnx", weights("w8"), work()).resident
    for memory, fits in ((int(need / ROOM) + 1, True), (int(need / ROOM) - 1, False)):
        device = replace(DEVICE, memory_bytes=memory)
        p = predict(device, "onnx", weights("w8"), work())
        chosen, sentence = recommend([p], device, work())
        assert p.fits is fits is (chosen is not None) and sentence.startswith("Nothing fits") is not fits
    assert gb(need) in sentence and sentence.count("\n") == 0


def test_shipped_profiles_are_complete_and_say_where_figures_come_from() -> None:
    assert len(profiles.names()) >= 7
    for name in profiles.names():
        device = shipped(name)
        assert set(device.engines) == {"onnx", "executorch"} and all(len(device.sources[s]) > 10 for s in profiles.SOURCED)
        assert name == "amd-epyc-2-cores" or "estimated" in device.sources["products"]
        assert from_dict(device.to_dict(), name) == device


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("threads",), 0, "threads 0 is impossible"),
        (("bytes_per_s",), -1.0, "impossible"),
        (("bytes_per_s",), "fast", "number"),
        (("engines", "onnx", "products", "int8"), 844.0, "between"),
        (("engines", "onnx", "share_products"), 1.2, "between"),
        (("engines", "onnx", "layer_s"), None, "number"),
        (("engines", "tflite"), {}, "share_products"),
        (("engines",), {}, "engine"),
        (("sources", "products"), "", "source for products"),
        (("gpu",), 1, "unknown key 'gpu'"),
        (("memory_bytes",), float("nan"), "integer"),
        (("cache",), {"bytes": 1, "bytes_per_s": 1e11}, "bytes 1"),
    ],
)
def test_impossible_profiles_are_refused_in_one_line(path: tuple[str, ...], value: Any, says: str) -> None:
    values = json.loads(json.dumps(DEVICE.to_dict()))
    if path == ("engines", "tflite"):
        values["engines"]["tflite"] = {**values["engines"]["onnx"]}
        del values["engines"]["tflite"]["share_products"]
    else:
        place = values
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    with pytest.raises(UsageError, match=says) as error:
        from_dict(values, "--device x.json")
    assert str(error.value).startswith("--device x.json: ") and "\n" not in str(error.value)


def fails(capsys: pytest.CaptureFixture[str], args: list[str], *says: str) -> None:
    assert dispatch(["plan", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(text in err for text in says), err


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fails(capsys, ["3b"], "3b", "2b")
    fails(capsys, ["2b", "--device", "toaster"], "toaster", "raspberry-pi-5", "phone-flagship")
    fails(capsys, ["2b", "--device", str(tmp_path / "none.json")], "none.json", "--device")
    (tmp_path / "bad.json").write_text("{")
    fails(capsys, ["2b", "--device", str(tmp_path / "bad.json")], "bad.json", "JSON")
    (tmp_path / "part.json").write_text(json.dumps({"benchmark": "bench", "bundle": {}}))
    fails(capsys, ["2b", "--device", str(tmp_path / "part.json")], "part.json", "run dgemma bench again")
    fails(capsys, [str(tmp_path)], "config.json")
    fails(capsys, ["2b", "--recipe", "w5"], "w5", "w4-mixed")
    fails(capsys, [str(micro.save(tmp_path / "odd")), "--recipe", "w4"], "groups of 128")
    fails(capsys, ["2b", "--steps-per-canvas", "many"], "12-20")
    fails(capsys, ["2b", "--steps-per-canvas", "9-3"], "--steps-per-canvas")
    fails(capsys, ["2b", "--canvas", "wide"], "--canvas")
    fails(capsys, ["2b", "--canvas", "0"], "--canvas 0")
    fails(capsys, ["2b", "--output", "200000"], "positions")
    fails(capsys, ["2b", "--engine", "tflite"], "onnx, executorch")
    fails(capsys, ["2b", "--picture", str(tmp_path / "none" / "p.png")], "--picture")


def test_plan_prints_one_object_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dispatch(["plan", str(TINY), "--steps-per-canvas", "2-6", "--json", "--picture", str(tmp_path / "p.png")]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {p["recipe"] for p in values["predictions"]} == set(RECIPES) and len(values["predictions"]) == 10
    assert values["recommended"] in values["predictions"] and values["steps_per_canvas"] == [2, 6]
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert dispatch(["plan", "26b-a4b", "--device", "laptop-apple-m2", "--canvas", "256,64"]) == 0
    out = capsys.readouterr().out
    assert "left out" not in out and out.count("w8, onnx") == out.count("w4-all, onnx") == 2
    assert dispatch(["plan", str(micro.save(tmp_path / "odd")), "--prompt", "4", "--output", "8"]) == 0
    assert "w4-mixed, w4, w4-all left out" in capsys.readouterr().out


def test_a_bundle_is_planned_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = str(write_bundle(tmp_path / "toy.dgemma"))
    assert dispatch(["plan", bundle, "--engine", "onnx", "--prompt", "4", "--output", "8", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    manifest = json.loads((tmp_path / "toy.dgemma" / "manifest.json").read_text())
    assert found["recipe"] == manifest["quantization"]["recipe"]
    assert found["disk_bytes"] == sum(f["size"] for n, f in manifest["files"].items() if n.startswith("onnx/"))
    fails(capsys, [bundle, "--recipe", "w4-mixed"], "is a bundle with")


def test_plan_loads_no_framework() -> None:
    code = "import sys; from dgemma.cli import dispatch; dispatch(['plan', '2b']); print([m for m in ('torch', 'onnx', 'onnxruntime', 'matplotlib') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
