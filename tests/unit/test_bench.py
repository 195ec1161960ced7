"""`dgemma bench`: costs against numbers made by hand, ONNX bytes against the onnx package, memory, and plans."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from fake_bundle import manifest, write_bundle

from dgemma.benchmarks.bench import ceilings, experts, fresh_process, memory, outputs, reliability
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.bench.ceilings import Ceilings
from dgemma.benchmarks.bench.onnx_bytes import Node, model
from dgemma.core import machine
from dgemma.core import memory as free_memory
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.cost import CostModel, held_bits
from dgemma.core.errors import EngineError, UsageError
from dgemma.core.install import pip_install
from dgemma.runtime import memory as need_of_memory
from dgemma.runtime.engines.sessions import open_session
from dgemma.runtime.native import build

CONFIG = ModelConfig(
    vocab_size=10, hidden_size=8, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4,
    global_num_kv_heads=1, global_head_dim=6, sliding_window=4, canvas_length=5,
)  # fmt: skip
# By hand. Sliding layer: q 8·2·4, k and v 8·4 each, o 2·4·8; full layer: q 8·2·6, k 8·6, no v, o 2·6·8.
ATTENTION = (64 + 32 + 32 + 64) + (96 + 48 + 96)
MLP = 2 * 8 * 16  # one of three planes, both layers
BITS = {"attention": 8, "mlp_up_gate": 4, "mlp_down": 4, "self_conditioning": 8, "embedding": 8}

# ---- cost model ------------------------------------------------------------------------------------------------------


def test_a_denoising_step_costs_what_the_hand_counts() -> None:
    cost = CostModel(config=CONFIG, bits=BITS).denoise(canvas=5, prefix=7)
    weights = ATTENTION + 3 * MLP + 3 * 8 * 16 + 10 * 8
    scores = 4 * 5 * (3 + 5) * 2 * 4 + 4 * 5 * (7 + 5) * 2 * 6  # the window shows 3 prefix tokens, the full layer all 7
    assert cost.attention == scores
    assert cost.operations == 2 * 5 * (weights + 10 * 8) + scores  # the table a second time, for soft embeddings
    assert cost.weight_bytes == ATTENTION + 3 * MLP // 2 + 3 * 8 * 16 + 2 * 80
    assert cost.cache_bytes == 2 * 4 * (3 * 1 * 4 + 7 * 1 * 6)
    gathered = CostModel(config=CONFIG, bits=BITS, soft="topk:4").denoise(canvas=5, prefix=7)
    assert cost.operations - gathered.operations == 2 * 5 * 80


def test_a_token_costs_stack_and_head_and_a_chunk_the_stack() -> None:
    plain = CostModel(config=CONFIG, bits={})
    token, chunk = plain.decode(prefix=3), plain.encode(tokens=6, prefix=0)
    assert token.weight_bytes == 4 * (ATTENTION + 3 * MLP + 80)
    assert token.operations == 2 * (ATTENTION + 3 * MLP + 80) + 4 * (3 + 1) * 2 * 4 + 4 * (3 + 1) * 2 * 6
    assert chunk.operations == 2 * 6 * (ATTENTION + 3 * MLP) + 4 * 6 * 6 * 2 * (4 + 6)


def test_the_cost_model_counts_the_weights_of_the_real_model() -> None:
    from dgemma.model.denoiser import Denoiser

    matrices = sum(p.numel() for _, p in Denoiser(CONFIG).named_parameters() if p.ndim == 2)
    assert CostModel(config=CONFIG, bits={}, soft="topk:1").denoise(canvas=5, prefix=3).weight_bytes == 4 * matrices


def test_experts_cost_what_is_routed_and_read_what_is_touched() -> None:
    config = replace(CONFIG, num_experts=8, top_k_experts=2, moe_intermediate_size=4)
    one, many = (CostModel(config=config, bits={}).encode(rows, 0).products["experts"] for rows in (1, 100))
    expert = 2 * 3 * 8 * 4  # of both layers
    assert (one.operations, one.weights) == (2 * 2 * expert, 2 * expert)
    assert (many.operations, many.weights) == (2 * 100 * 2 * expert, 8 * expert)


def test_onnx_holds_four_bits_as_eight() -> None:
    recipe = {"bits": {"embedding": 8, "mlp_down": 4, "router": 32}}
    assert held_bits(recipe, "onnx") == {"embedding": 8, "mlp_down": 8, "router": 32}
    assert held_bits(recipe, "executorch")["mlp_down"] == 4
    assert held_bits({"bits": {"experts": 4}}, "onnx") == {"experts": 4}
    assert held_bits({}, "onnx") == {}
    assert held_bits({"bits": {"experts": 4, "mlp_down": 4}}, "onnx") == {"experts": 4, "mlp_down": 8}


def test_a_floor_is_arithmetic_or_reading_whichever_takes_longer() -> None:
    top = Ceilings(products={"int8": 1e9, "int4": 5e8, "float32": 1e8}, bytes_per_s=1e6, read_bytes=1)
    cost = CostModel(config=CONFIG, bits=BITS).denoise(5, 7)
    assert top.floor_s(cost) == pytest.approx((cost.weight_bytes + cost.cache_bytes) / 1e6)
    quick = Ceilings(products=top.products, bytes_per_s=1e12, read_bytes=1)
    assert quick.floor_s(cost) == pytest.approx((cost.operations - cost.attention) / 1e9 + cost.attention / 1e8)
    without = Ceilings(products={"float32": 1e8}, bytes_per_s=1e12, read_bytes=1)
    assert without.floor_s(cost) == pytest.approx(cost.operations / 1e8)


def test_the_floor_of_kernels_is_made_of_the_rates_of_those_that_run() -> None:
    top = Ceilings(
        products={"int8": 1e9, "int4": 5e8, "float32": 1e8},
        bytes_per_s=1e12,
        read_bytes=1,
        kernels={"int8": 4e8, "int4": 2e8, "float32": 5e7},
    )
    cost = CostModel(config=CONFIG, bits=BITS).denoise(5, 7)
    four = 2 * 5 * 3 * MLP
    eight = cost.operations - cost.attention - four
    assert top.kernel_floor_s(cost) == pytest.approx(four / 2e8 + eight / 4e8 + cost.attention / 5e7)
    assert top.kernel_floor_s(cost) != pytest.approx(top.floor_s(cost))
    slow = replace(top, bytes_per_s=1e6)
    assert slow.kernel_floor_s(cost) == slow.floor_s(cost)  # reading is the same
    for name in top.kernels:
        without = replace(top, kernels={k: v for k, v in top.kernels.items() if k != name})
        assert without.kernel_floor_s(cost) is None
    assert replace(top, kernels={"int8": 1e9, "float32": 1e8}).kernel_floor_s(
        CostModel(config=CONFIG, bits=held_bits({"bits": BITS}, "onnx")).denoise(5, 7)
    ) == pytest.approx(top.floor_s(cost))  # in onnx everything runs in int8, the fastest product
    better = top.best_of(replace(top, kernels={"int8": 9e8, "int4": 1e8, "float32": 5e7}))
    assert better.kernels == {"int8": 9e8, "int4": 2e8, "float32": 5e7}


def test_integer_experts_have_a_rate_of_their_own() -> None:
    """In either engine; float experts are products like all others."""
    rates = {"int8": 4e8, "int4": 2e8, "float32": 5e7, "experts": 1e8}
    top = Ceilings(products={"float32": 1e8}, bytes_per_s=1e15, read_bytes=1, kernels=rates)
    cost = CostModel(config=micro.MOE_CONFIG, bits={"experts": 4}).denoise(16, 0)
    others = cost.operations - cost.products["experts"].operations
    assert top.kernel_floor_s(cost) == pytest.approx(others / 5e7 + cost.products["experts"].operations / 1e8)
    assert replace(top, kernels={"float32": 5e7, "int4": 2e8}).kernel_floor_s(cost) is None
    floats = CostModel(config=micro.MOE_CONFIG, bits={}).denoise(16, 0)
    assert top.kernel_floor_s(floats) == pytest.approx(floats.operations / 5e7)


def test_a_layer_of_experts_is_measured(quick: None) -> None:
    pytest.importorskip("onnxruntime")
    probe = ceilings.Probe(16, 64, 32, 1 << 20, threads=1, engine="onnx", bits=(4,), routed=(micro.MOE_CONFIG, 4))
    top = probe.ceilings()
    assert set(top.kernels) == {"int4", "float32", "experts"} and not top.missing_kernels
    assert 1e6 < top.kernels["experts"] < 1e15
    assert probe.pace(0.01).keys() == top.kernels.keys()


def test_without_a_compiler_a_layer_of_experts_is_missing(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> Path:
        raise build.Unavailable("no compiler")

    experts.library.cache_clear()
    monkeypatch.setattr(build, "experts", unavailable)
    top = ceilings.Probe(16, 64, 32, 1 << 20, threads=1, engine="onnx", bits=(4,), routed=(micro.MOE_CONFIG, 4)).ceilings()
    assert "experts" not in top.kernels and top.missing_kernels == {"experts": "needs the native library: no compiler"}


# ---- ceilings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ceilings.PRODUCTS)
def test_the_bytes_are_a_model_that_onnx_accepts(name: str) -> None:
    onnx = pytest.importorskip("onnx")
    nodes, weights = ceilings._nodes(name, 256, 8, 2)
    parsed = onnx.load_from_string(model(nodes, weights, {"x": (4, 256)}, {n.output: (4, 8) for n in nodes}))
    onnx.checker.check_model(parsed)
    assert [n.op_type for n in parsed.graph.node] == [n.op for n in nodes]
    for tensor in parsed.graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name])


def test_the_bytes_compute_a_product() -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((5, 300)).astype(np.float32)
    node = Node(op="MatMul", inputs=["x", "w"], output="y")
    session = open_session(model([node], {"w": weight}, {"x": x.shape}, {"y": (3, 300)}))
    assert np.allclose(session.run(None, {"x": x})[0], x @ weight, atol=1e-5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "BEST_S", 0.01)


def test_every_ceiling_is_measured(quick: None) -> None:
    pytest.importorskip("onnxruntime")
    probe = ceilings.Probe(4, 128, 16, 1 << 20, threads=1, engine="onnx", bits=(8,))
    top = probe.ceilings()
    assert set(top.products) == set(ceilings.PRODUCTS)
    assert not top.missing
    assert top.kernels == {name: top.products[name] for name in ("int8", "float32")}
    assert not top.missing_kernels
    assert all(1e6 < rate < 1e15 for rate in top.products.values())
    assert 1e8 < top.bytes_per_s < 1e13
    pace = probe.pace(0.01)
    assert pace.keys() == top.kernels.keys()
    assert all(rate < 2 * top.kernels[name] for name, rate in pace.items())


def test_a_pace_is_the_median_and_a_ceiling_the_best(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = ceilings.Probe(4, 128, 16, 1 << 20, threads=1, engine="onnx", bits=())
    monkeypatch.setattr(ceilings, "_durations", lambda *_: [4.0, 1.0, 2.0])
    operations = 2 * 4 * 128 * 16 * 16
    assert probe.ceilings().kernels == {"float32": operations}
    assert probe.pace(0.0) == {"float32": operations / 2}


def test_a_product_that_is_refused_when_it_runs_is_missing(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ceilings._onnxruntime

    def refused() -> object:
        raise RuntimeError("no kernel\nwith a long story")

    monkeypatch.setattr(ceilings, "_onnxruntime", lambda name, *shape: refused if name == "int4" else made(name, *shape))
    top = ceilings.Probe(4, 128, 16, 1 << 20, threads=1, engine="onnx", bits=(4,)).ceilings()
    assert top.missing == {"int4": "onnxruntime refuses it: no kernel"} == top.missing_kernels
    assert set(top.products) == {"int8", "float32"} and set(top.kernels) == {"float32"}


def test_without_onnxruntime_it_is_said_what_is_missing(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    top = ceilings.Probe(4, 128, 16, 1 << 20, threads=1, engine="onnx", bits=(8,)).ceilings()
    assert set(top.products) == {"float32"}
    assert pip_install("onnx") in top.missing["int8"]
    assert "numpy" in top.missing["float32"]
    assert set(top.missing_kernels) == {"int8"}


# ---- machine and memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "path", "warns"),
    [
        ({"avx2", "avx512_vnni"}, "AVX512-VNNI", False),
        ({"avx2", "avx_vnni"}, "AVX-VNNI", False),
        ({"avx2", "fma"}, "AVX2 without VNNI", True),
        ({"asimd", "asimddp"}, "NEON with dot product", False),
        ({"asimd"}, "NEON without dot product", True),
        (set(), "not known", False),
    ],
)
def test_the_int8_path_is_named(flags: set[str], path: str, warns: bool) -> None:
    named, warning = machine.int8_path(flags)
    assert named == path
    assert (warning is not None) == warns


ROLLUP = """55d0-7ffe ---p 00000000 00:00 0 [rollup]
Rss:               13568 kB
Pss_Anon:           6904 kB
Anonymous:          6904 kB
"""


def test_resident_memory_is_split() -> None:
    found = memory.split(ROLLUP)
    assert (found.anonymous, found.file, found.total) == (6904 << 10, 6664 << 10, 13568 << 10)
    with pytest.raises(ValueError, match="Anonymous"):
        memory.split(ROLLUP.replace("Anonymous", "Annoying"))


def test_a_peak_is_seen_and_forgotten() -> None:
    if memory.resident() is None or not memory.reset_peak():
        pytest.skip("this system does not tell")
    before = memory.peak()
    block = np.ones(8 << 20)  # 64 MiB
    high = memory.peak()
    del block
    assert before is not None
    assert high is not None
    assert high - before > 60 << 20
    memory.reset_peak()
    assert (memory.peak() or 0) < high - (32 << 20)


def test_elsewhere_memory_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert memory.resident() is None
    assert memory.peak() is None
    assert not memory.reset_peak() or (tmp_path / "clear_refs").exists()


def test_a_bundle_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    big = manifest(quantization={"recipe": "w8", "parameters": 4_000_000, "bits_per_weight": 8.0})
    need = need_of_memory.need(big, "onnx")
    assert need.prefix == 2 * 4 * (2 * 2 + 1 * 4) * 32
    monkeypatch.setattr(need_of_memory, "available", lambda: need.total)
    need_of_memory.check(big, "onnx", "a.dgemma")
    monkeypatch.setattr(need_of_memory, "available", lambda: need.total - 1)
    with pytest.raises(EngineError, match=r"a\.dgemma: needs at least .* GB is free; .*DGEMMA_CHECK_MEMORY=0"):
        need_of_memory.check(big, "onnx", "a.dgemma")
    monkeypatch.setenv("DGEMMA_CHECK_MEMORY", "0")
    need_of_memory.check(big, "onnx", "a.dgemma")


def test_four_bit_weights_need_eight_in_onnx_and_what_would_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    four = manifest(quantization={"recipe": "w4", "parameters": 4_000_000, "bits_per_weight": 4.5})
    assert need_of_memory.need(four, "onnx").weights == 4_000_000
    float_ = manifest(quantization={"recipe": "fp32", "parameters": 1_000, "bits_per_weight": 32.0}, engines=("executorch",))
    least = need_of_memory.need(float_, "executorch")
    monkeypatch.setattr(need_of_memory, "need", lambda *_: need_of_memory.Need(weights=4000, prefix=0, transient=0))
    monkeypatch.setattr(need_of_memory, "available", lambda: 1000)
    assert least.weights == 0  # no file is listed in a manifest that was not written
    with pytest.raises(EngineError, match=r"at most 8\.0 bits per weight would fit"):
        need_of_memory.check(float_, "executorch", "a.dgemma")


def test_four_bit_experts_stay_four_bits_in_onnx() -> None:
    """The operator reads them as they are stored: half of the experts' weights, at 8 bits, are not needed."""
    shape = PRESETS["26b-a4b"]
    size = {"recipe": "w4-mixed", "parameters": 25_250_986_752, "bits_per_weight": 4.4}
    many = replace(manifest(quantization={**size, "bits": {"experts": 4, "attention": 8}}), model=shape)
    eight = replace(manifest(quantization={**size, "bits": {"experts": 8, "attention": 8}}), model=shape)
    experts = 30 * 128 * 3 * 2816 * 704
    assert need_of_memory.need(eight, "onnx").weights - need_of_memory.need(many, "onnx").weights == experts // 2
    assert need_of_memory.need(many, "onnx").weights < 14.5e9


def test_available_memory_minds_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:   4096 kB\n")
    for name, text in {"memory.max": "3000000", "memory.current": "2500000", "memory.stat": "anon 1\nfile 500000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_CGROUPS", ((tmp_path, "memory.max", "memory.current", "file"),))
    assert free_memory.available() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.available() == 4096 << 10
    (tmp_path / "meminfo").unlink()
    assert free_memory.available() is None


def test_a_fresh_process_that_fails_is_told() -> None:
    with pytest.raises(EngineError, match="status 2: error: absent"):
        fresh_process._child(Path("absent.dgemma"), "onnx", 1, 1, 1)


def test_files_and_packed_weights_are_dropped_from_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot be asked")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "weights").write_bytes(b"w")
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: [(tmp_path / "packed", 1, True)])
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *_: dropped.append(os.fstat(descriptor).st_ino))
    made = write_bundle(tmp_path / "a.dgemma")
    assert fresh_process.evict(made)
    wanted = [p for p in made.rglob("*") if p.is_file() and p.name != "manifest.json"] + [tmp_path / "packed" / "weights"]
    assert sorted(dropped) == sorted(p.stat().st_ino for p in wanted)
    monkeypatch.delattr(os, "posix_fadvise")
    assert not fresh_process.evict(made)


@pytest.mark.parametrize(
    ("kept", "said"), [([[], [1]], "made in the cold load"), ([[1], [1]], "kept from an earlier load"), ([[], []], "not kept")]
)
def test_loads_are_cold_once_and_warm_until_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[list[int]], said: str
) -> None:
    made = write_bundle(tmp_path / "a.dgemma")
    monkeypatch.setattr(fresh_process, "evict", lambda _: True)
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: kept.pop(0))
    calls: list[int] = []

    def child(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments[-1])
        memory = {"read_bytes": 5, "number": len(calls)}
        return {"times": {"load_s": float(len(calls))}, "hashed_bytes": 7 - len(calls), "memory": memory}

    monkeypatch.setattr(fresh_process, "_child", child)
    times, found = fresh_process.load_times(made, "onnx", 1, 8, 3)
    assert times["packed_weights"] == said
    assert times["cold"] == {"load_s": 1.0, "read_bytes": 5, "hashed_bytes": 6}
    assert times["warm_hashed_bytes"] == 3
    assert (times["warm"]["load_s"]["n"], times["warm"]["load_s"]["median"], found["number"]) == (3, 3.0, 4)
    monkeypatch.setattr(fresh_process, "_SLOW", 1.0)
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: [])
    assert fresh_process.load_times(made, "onnx", 1, 8, 3)[0]["warm"]["load_s"]["n"] == 1


# ---- budget, outputs, noise ------------------------------------------------------------------------------------------


def test_rounds_are_counted_or_timed() -> None:
    assert list(Budget(seconds=1, repeats=3).start().rounds()) == [0, 1, 2]
    assert list(Budget(seconds=1e-9).start().rounds()) == [0]
    assert not Budget(seconds=1e-9, repeats=1).start().is_over
    for wrong in ({"seconds": 0}, {"seconds": float("nan")}, {"seconds": 1, "repeats": 0}):
        with pytest.raises(UsageError, match="--"):
            Budget(**wrong)  # type: ignore[arg-type]


def test_outputs_that_the_context_cannot_hold_are_left_out() -> None:
    plan = outputs.plan((128, 500, 2600), canvas=64, context=1024)
    assert (plan.prompt, plan.outputs) == (128, (128, 500))
    assert plan.left_out == {2600: "needs a context of 2752 (a prompt of 128) and the bundle has 1024"}
    assert (plan.prefixes[0], plan.prefixes[-1], len(plan.prefixes)) == (128, 128 + 7 * 64, 6)
    short = outputs.plan((128, 500), canvas=64, context=65)
    assert (short.prompt, short.outputs, short.prefixes) == (1, (), (1,))


def test_an_output_costs_the_sum_of_its_canvases() -> None:
    plan = outputs.plan((30,), canvas=10, context=1000)
    points = [
        {"prefix": p, "encoded": e, "encode_ms": float(e), "step_ms": {"median": 5.0 + p / 10}, "token_ms": {"median": 2.0}}
        for p, e in ((20, 20), (40, 20))
    ]
    (found,) = outputs.outputs(plan, points, prefill_ms=7.0, steps_per_canvas=3.0)
    assert found["canvases"] == 3
    assert found["diffusion_s"] == pytest.approx((7 + 3 * (7 + 8 + 9) + 2 * 10) / 1e3)  # naive: canvas by canvas
    assert found["autoregressive_s"] == pytest.approx((7 + 30 * 2) / 1e3)
    assert found["ratio"] == pytest.approx(67 / 99)


def test_a_quiet_run_has_no_warnings_and_a_loud_one_has() -> None:
    assert reliability.warnings(1.0, 1.05, 0.1, 4, {"a step": 0.1}) == []
    loud = reliability.warnings(1.0, 1.5, 3.9, 4, {"a step": 0.1, "a token": 0.4})
    assert len(loud) == 3
    assert "+50%" in loud[1]
    assert "a token by 40%" in loud[2]
    assert "one core" in reliability.warnings(1.0, 1.0, None, 1, {})[0]
    assert reliability.doubt(1.0, 1.5, None, 4) == pytest.approx(0.5)
    assert reliability.doubt(1.0, 1.0, 4.0, 4) == pytest.approx(0.5)
    assert reliability.doubt(1.0, 1.0, 0.2, 4) == 0.0
