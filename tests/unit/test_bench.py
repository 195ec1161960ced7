"""`dgemma bench`: costs against numbers made by hand, ceilings, ONNX bytes against the onnx package, budgets and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import micro
import numpy as np
import pytest

from dgemma.benchmarks.bench import ceilings, experts, outputs, reliability
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.bench.ceilings import Ceilings
from dgemma.benchmarks.bench.onnx_bytes import Node, model
from dgemma.core.config import ModelConfig
from dgemma.core.cost import CostModel, held_bits
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
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
