"""Rate of one quantized product in onnxruntime, as the bundles have it, against the library's own fused operators.

    python -m dgemma.benchmarks.studies.linear [--rows 256] [--inner 2304] [--outer 9216] [--threads 2] [--out FILE]

The candidates run in turn, so that a busy machine slows all of them. Quantizing activations, and scaling rows where a
candidate does, is included in every time. The goal is 90 % of DynamicQuantizeMatMul, which has one scale for all tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from dgemma.benchmarks.stats import quartiles
from dgemma.core import machine
from dgemma.core.manifest import TensorSpec
from dgemma.export.graphs import Shapes
from dgemma.export.onnx.linear import InputMajorLinear, IntegerLinear
from dgemma.export.onnx.lower import module_graph
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.runtime.engines.sessions import open_session, session_options

GOAL = 0.9
REFERENCE = "DynamicQuantizeMatMul"


def session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    options = session_options(threads)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return open_session(model.SerializeToString(), options)


def stock(weight: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """x @ (weight · scale) as onnxruntime's fused operator; weight [in, out]."""
    node = helper.make_node(REFERENCE, ["x", "weight", "scale"], ["y"], domain="com.microsoft")
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", size])]
        for name, size in zip("xy", weight.shape, strict=True)
    )
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(scale, "scale")]
    graph = helper.make_graph([node], "stock", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def candidates(inner: int, outer: int, rows: int, threads: int) -> dict[str, ort.InferenceSession]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(outer, generator=generator) * 1e-3 + 1e-3
    eight = torch.randint(-127, 128, (outer, inner), generator=generator, dtype=torch.int8)
    four = torch.randint(-8, 8, (outer, inner), generator=generator, dtype=torch.int8)
    groups = torch.randint(1, 16, (outer, inner // 128), generator=generator, dtype=torch.int8)
    plain = torch.nn.Linear(inner, outer, bias=False)
    modules = {
        "float32": InputMajorLinear(plain),
        "w8": IntegerLinear(QuantizedMatrix(bits=8, integers=eight, scale=scale)),
        "w4": IntegerLinear(QuantizedMatrix(bits=4, integers=four, scale=scale, multipliers=groups)),
    }
    shapes = Shapes(canvas=rows, chunk=rows, context=2 * rows)
    x, y = (TensorSpec(name=name, dtype="float32", shape=("M", size)) for name, size in (("x", inner), ("y", outer)))
    models = {REFERENCE: stock(eight.t().contiguous().numpy(), scale.numpy())}
    models |= {name: module_graph(module, [x], [y], shapes) for name, module in modules.items()}
    return {name: session(model, threads) for name, model in models.items()}


def measure(inner: int, outer: int, rows: int, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds per call (quartiles), GFLOP/s, and the rate relative to the reference, for each candidate."""
    sessions = candidates(inner, outer, rows, threads)
    x = np.random.default_rng(0).normal(size=(rows, inner)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for repeat in range(repeats + 2):
        for name, opened in sessions.items():
            started = time.perf_counter()
            opened.run(None, {"x": x})
            if repeat >= 2:  # the first runs warm caches and threads
                times[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(found)) for name, found in times.items()}
    return {
        name: {
            "seconds": quartiles(found),
            "gflop_per_s": round(2 * rows * inner * outer / medians[name] / 1e9, 1),
            "of_reference": round(medians[REFERENCE] / medians[name], 3),
        }
        for name, found in times.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.linear", description="Rate of one quantized product."
    )
    for name, default in (("rows", 256), ("inner", 2304), ("outer", 9216), ("threads", 2), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    found = measure(options.inner, options.outer, options.rows, options.threads, options.repeats)
    print(f"{options.rows} rows, {options.inner} × {options.outer}, {options.threads} threads")
    for name, row in found.items():
        rate = f"{row['gflop_per_s']:7.0f} GFLOP/s {row['of_reference']:6.2f}"
        print(f"  {name:<22} {1e3 * row['seconds'].median:7.2f} ms {rate}")
    holds = found["w8"]["of_reference"] >= GOAL
    print(f"w8 reaches {100 * found['w8']['of_reference']:.0f} % of {REFERENCE} (goal {100 * GOAL:.0f} %)")
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        result = {"settings": settings, "products": found, "holds": holds, "machine": machine.facts()}
        options.out.write_text(json.dumps(result, indent=1, default=asdict) + "\n", encoding="utf-8")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
