"""`generate` in ONNX: the nodes of a denoising step become the body of one Loop, so weights and numerics are the same.

It knows the names of `denoise`'s tensors and the stop rule, and nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from dgemma.core.manifest import TensorSpec
from dgemma.export.onnx.wiring import Wiring, value_info

_CARRIED = ("canvas", "soft", "best", "still")  # of one step to the next, beside the condition
_STEP = "step_"  # prefix of the body's names for what the outer graph calls the same


def _constant(name: str, dtype: int, dims: list[int], values: list[float]) -> onnx.TensorProto:
    return helper.make_tensor(name, dtype, dims, values)


def _body(denoise: Sequence[onnx.NodeProto], n: int, hidden: int) -> onnx.GraphProto:
    """One step: choose its words, temperature and bound, denoise, apply the stop rule."""
    inner = {"canvas", "soft", "words", "temperature", "bound"}
    node = helper.make_node
    before = [
        node("Gather", ["words", "iteration"], [f"{_STEP}words"], axis=0),
    ]
    for name in ("temperature", "bound"):
        before.append(node("Gather", [f"{name}s", "iteration"], [f"{_STEP}{name}_scalar"], axis=0))
        before.append(node("Reshape", [f"{_STEP}{name}_scalar", "loop_one"], [f"{_STEP}{name}"]))
    steps = []
    for original in denoise:
        copy = onnx.NodeProto()
        copy.CopyFrom(original)
        copy.input[:] = [_STEP + name if name in inner else name for name in original.input]
        steps.append(copy)
    after = [
        node("Equal", ["argmax", f"{_STEP}best"], ["loop_same"]),
        node("Cast", ["loop_same"], ["loop_same_int"], to=TensorProto.INT64),
        node("ReduceMin", ["loop_same_int", "loop_axis"], ["loop_unchanged"], keepdims=0),
        node("Add", [f"{_STEP}still", "loop_one"], ["loop_counted"]),
        node("Mul", ["loop_counted", "loop_unchanged"], ["loop_still"]),
        node("Cast", ["entropy"], ["loop_entropy"], to=TensorProto.DOUBLE),
        node("ReduceMean", ["loop_entropy", "loop_axis"], ["loop_mean"], keepdims=0),
        node("Less", ["loop_mean", "confidence"], ["loop_confident"]),
        node("GreaterOrEqual", ["loop_still", "stability"], ["loop_stable"]),
        node("And", ["loop_confident", "loop_stable"], ["loop_settled"]),
        node("And", ["loop_settled", "adaptive"], ["loop_stop"]),
        node("Not", ["loop_stop"], ["loop_go"]),
        node("Reshape", ["loop_go", "loop_scalar"], ["loop_condition"]),
        node("Identity", ["argmax"], ["loop_best"]),
    ] + [node("Squeeze", [name, "loop_first"], [f"scan_{name}"]) for name in ("argmax", "next_canvas", "entropy", "accepted")]

    def info(name: str, dtype: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, list(shape))

    ids, reals, flags = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
    inputs = [
        info("iteration", ids),
        info("condition", flags),
        info(f"{_STEP}canvas", ids, 1, n),
        info(f"{_STEP}soft", reals, 1, n, hidden),
        info(f"{_STEP}best", ids, 1, n),
        info(f"{_STEP}still", ids, 1),
    ]
    outputs = [
        info("loop_condition", flags),
        info("next_canvas", ids, 1, n),
        info("next_soft", reals, 1, n, hidden),
        info("loop_best", ids, 1, n),
        info("loop_still", ids, 1),
        info("scan_argmax", ids, n),
        info("scan_next_canvas", ids, n),
        info("scan_entropy", reals, n),
        info("scan_accepted", flags, n),
    ]
    return helper.make_graph(before + steps + after, "denoising_step", inputs, outputs)


def loop(
    denoise: Sequence[onnx.NodeProto],
    wiring: Wiring,
    soft: TensorSpec,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> onnx.GraphProto:
    """Build `generate` around the nodes of a step, which `wiring` made; `soft` is the spec of that input, [1, N, D]."""
    node, steps = helper.make_node, int(next(s for s in inputs if s.name == "words").shape[0])
    n, hidden = (int(size) for size in soft.shape[1:])
    ids, reals = TensorProto.INT64, TensorProto.FLOAT
    constants = [
        _constant("loop_one", ids, [1], [1]),
        _constant("loop_axis", ids, [1], [-1]),
        _constant("loop_first", ids, [1], [0]),
        _constant("loop_scalar", ids, [0], []),
        _constant("loop_start", TensorProto.BOOL, [], [1]),
        _constant("loop_zero", ids, [1], [0]),
        _constant("loop_total", ids, [1], [steps]),
        _constant("loop_soft_shape", ids, [3], [1, n, hidden]),
        _constant("loop_canvas_shape", ids, [2], [1, n]),
    ]
    scans = ("argmaxes", "canvases", "entropies", "accepts")
    nodes = [
        node("ConstantOfShape", ["loop_soft_shape"], ["loop_no_soft"], value=_constant("value", reals, [1], [0.0])),
        node("ConstantOfShape", ["loop_canvas_shape"], ["loop_no_best"], value=_constant("value", ids, [1], [-1])),
        node("Reshape", ["most_steps", "loop_scalar"], ["loop_trips"]),
        node(
            "Loop",
            ["loop_trips", "loop_start", "canvas", "loop_no_soft", "loop_no_best", "loop_zero"],
            ["loop_last_canvas", "loop_last_soft", "committed", "loop_last_still", *(f"run_{s}" for s in scans)],
            body=_body(denoise, n, hidden),
        ),
        node("Shape", ["run_argmaxes"], ["steps"], start=0, end=1),
        node("Sub", ["loop_total", "steps"], ["loop_missing"]),
        node("Concat", ["loop_zero", "loop_zero", "loop_missing", "loop_zero"], ["loop_pads"], axis=0),
        node("Cast", ["run_accepts"], ["run_accepts_int"], to=ids),
        *(node("Pad", [f"run_{s}", "loop_pads"], [s]) for s in scans[:3]),
        node("Pad", ["run_accepts_int", "loop_pads"], ["accepts_int"]),
        node("Cast", ["accepts_int"], ["accepts"], to=TensorProto.BOOL),
    ]
    return helper.make_graph(
        [*wiring.expansions, *nodes],
        "generate",
        [value_info(s) for s in inputs],
        [value_info(s) for s in outputs],
        [*wiring.initializers.values(), *constants],
    )
