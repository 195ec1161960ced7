"""Integer products with unsigned weights: the same sums, wherever in a graph they are and whatever their weights come from.

That the kernels of a processor without VNNI then give them is seen by `tests/x86`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dgemma.runtime.engines import exact_products
from dgemma.runtime.engines.sessions import open_as_it_is, session_options

Array = npt.NDArray[Any]
Value = onnx.ValueInfoProto
M, K, N = 3, 40, 5
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (M, K)).astype(np.uint8)
WEIGHTS = {name: RNG.choice(np.array([-128, -127, 127], np.int8), (K, N)) for name in ("plain", "twice", "branch", "loop")}
TABLE = RNG.integers(-128, 128, (9, K)).astype(np.int8)
SCALE = RNG.random(N).astype(np.float32)
FIRST = 2


def product(weight: str, output: str) -> onnx.NodeProto:
    return helper.make_node("MatMulInteger", ["x", weight, "zero"], [output], name=f"node_{output}")


def inner(
    product: onnx.NodeProto, *before: onnx.NodeProto, inputs: Sequence[Value] = (), more: Sequence[Value] = ()
) -> onnx.GraphProto:
    """The graph of a branch or a loop, whose last output is the product."""
    output = helper.make_tensor_value_info(product.output[0], TensorProto.INT32, [M, N])
    return helper.make_graph([*before, product], f"around_{product.output[0]}", inputs, [*more, output])


def model() -> bytes:
    """A product in each place where exported graphs have one."""
    node, value = helper.make_node, helper.make_tensor_value_info
    trip = [value("trip", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])]
    more = [value("on", TensorProto.BOOL, [])]
    body = inner(product("loop", "inside"), node("Identity", ["going"], ["on"]), inputs=trip, more=more)
    branches = {"then_branch": inner(product("branch", "yes")), "else_branch": inner(product("plain", "no"))}
    scaled = ["x", "twice", "one", "scale", "zero"]
    nodes = [
        product("plain", "of_plain"),
        product("twice", "of_twice"),
        node("MatMulIntegerToFloat", scaled, ["of_scaled"], domain="com.microsoft"),
        node("If", ["choice"], ["of_branch"], **branches),
        node("Loop", ["trips", ""], ["of_loop"], body=body),
        node("Slice", ["table", "first", "end"], ["rows"]),
        node("Transpose", ["rows"], ["columns"]),
        product("columns", "of_columns"),
    ]
    constants = {
        **WEIGHTS,
        "table": TABLE,
        "scale": SCALE,
        "one": np.float32(1),
        "zero": np.uint8(128),
        "trips": np.int64(2),
        "end": np.array([FIRST + N]),
    }
    inputs = [
        value("x", TensorProto.UINT8, [M, K]),
        value("choice", TensorProto.BOOL, []),
        value("first", TensorProto.INT64, [1]),
    ]
    kinds = {"f": TensorProto.FLOAT, "i": TensorProto.INT32}
    outputs = [value(name, kinds[found.dtype.kind], found.shape) for name, found in expected().items()]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return made


def expected() -> dict[str, Array]:
    centred = X.astype(np.int64) - 128
    sums = {name: centred @ weight for name, weight in WEIGHTS.items()}
    return {
        "of_plain": sums["plain"],
        "of_twice": sums["twice"],
        "of_scaled": sums["twice"].astype(np.float32) * SCALE,
        "of_branch": sums["branch"],
        "of_loop": np.stack([sums["loop"]] * 2),
        "of_columns": centred @ TABLE[FIRST : FIRST + N].T,
    }


def results(serialized: bytes) -> dict[str, Array]:
    session = open_as_it_is(serialized, session_options(threads=1))
    feeds = {"x": X, "choice": np.array(True), "first": np.array([FIRST])}
    return dict(zip(expected(), session.run(list(expected()), feeds), strict=True))


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def test_unsigned_weights_give_the_true_sums() -> None:
    for name, found in results(exact_products.unsigned(model())).items():
        assert np.array_equal(found, expected()[name]), name


def test_signed_weights_do_where_products_do_not_saturate() -> None:
    """What `saturates` says is so: of a graph's products, not only of the one that it tries."""
    same = [np.array_equal(found, expected()[name]) for name, found in results(model()).items()]
    assert not any(same) if exact_products.saturates() else all(same)


def test_every_product_is_changed_and_nothing_else() -> None:
    before, after = onnx.load_from_string(model()), onnx.load_from_string(exact_products.unsigned(model()))
    onnx.checker.check_model(after)
    made = {output: node for node in nodes(after.graph) for output in node.output}
    products = [node for node in nodes(after.graph) if node.op_type.encode() in exact_products.PRODUCTS]
    assert len(products) == 7
    for node in products:
        turned = made[node.input[1]]
        assert turned.op_type == "BitwiseXor" and made[turned.input[0]].op_type == "Cast"
        assert made[turned.input[0]].input[0] in {*WEIGHTS, "columns"}
        assert node.input[exact_products.PRODUCTS[node.op_type.encode()]] == turned.input[1]
    counts = Counter(node.op_type for node in nodes(before.graph)) + Counter({"Cast": 7, "BitwiseXor": 7})
    assert Counter(node.op_type for node in nodes(after.graph)) == counts
    *kept, zero = after.graph.initializer
    assert numpy_helper.to_array(zero) == 128 and kept == list(before.graph.initializer)


def test_a_model_without_integer_products_keeps_its_nodes() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "a"], ["b"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])],
    )
    plain = helper.make_model(graph)
    assert onnx.load_from_string(exact_products.unsigned(plain.SerializeToString())).graph.node == plain.graph.node
    with pytest.raises(IndexError):
        exact_products.unsigned(plain.SerializeToString()[:-1])


def test_what_is_tried_is_a_model_of_the_largest_products() -> None:
    tried = onnx.load_from_string(exact_products._largest())
    onnx.checker.check_model(tried)
    x, w, z = (numpy_helper.to_array(tensor).astype(np.int64) for tensor in tried.graph.initializer)
    assert ((x - z) @ w).item() == 127 * 127 * x.size
    assert np.iinfo(np.int16).max < 255 * 127 * 2


def test_nothing_but_the_engine_opens_a_session_of_its_own(repo_root: Path) -> None:
    """A bare session saturates where there is no VNNI, and nobody notices on a machine that has it. An NPU's graphs have no
    products of 8-bit activations."""
    call = "InferenceSession" + "("
    rooms = ("benchmarks", "export", "model", "quantize", "reference", "runtime", "verify", "src/dgemma/core", "src/dgemma/cli")
    folders = (*rooms, "tests", "examples", "android_demo")
    found = [path for folder in folders for path in (repo_root / folder).rglob("*.py") if call in path.read_text("utf-8")]
    npu = ("export/qnn/compile.py", "runtime/engines/qnn_sessions.py", "verify/static_graphs.py")
    assert sorted(found) == sorted(repo_root / name for name in (*npu, "runtime/engines/sessions.py"))
