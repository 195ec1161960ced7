"""An opened session holds its weights once: what opening makes of them in between goes back to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dgemma.export.onnx.weights import expansion

ROWS, COLUMNS, LAYERS = 1024, 4096, 12
HELD = ROWS * COLUMNS * LAYERS  # bytes of the int8 weights that kernels multiply
PROGRAM = """
import sys
from pathlib import Path
from dgemma.benchmarks.bench.memory import resident
from dgemma.runtime.engines import sessions
if sys.argv[2] == "kept":
    sessions.release_freed = lambda: None
options = sessions.session_options(threads=1)
options.add_session_config_entry("session.disable_quant_qdq", "1")
before = resident().anonymous
session = sessions.open_session(Path(sys.argv[1]), options)
print(resident().anonymous - before)
"""


def graph() -> onnx.ModelProto:
    """Products with 4-bit weights, which are multiplied out when a session opens."""
    packed = np.random.default_rng(0).integers(0, 255, (LAYERS, ROWS, COLUMNS // 2), np.uint8)
    constants = [numpy_helper.from_array(np.array(128, np.uint8), "zero"), numpy_helper.from_array(np.float32(1), "one")]
    constants.append(numpy_helper.from_array(np.ones(COLUMNS, np.float32), "scale"))
    nodes = [helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["read"])]
    for i in range(LAYERS):
        weight = numpy_helper.from_array(packed[i], f"packed_{i}")
        multipliers = numpy_helper.from_array(np.ones((ROWS // 128, COLUMNS), np.int8), f"multipliers_{i}")
        nodes += expansion(weight, multipliers, f"weight_{i}")
        given = ["read", f"weight_{i}", "one", "scale", "zero"]
        nodes.append(helper.make_node("MatMulIntegerToFloat", given, [f"y_{i}"], domain="com.microsoft"))
        constants += [weight, multipliers]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ROWS])
    ys = [helper.make_tensor_value_info(f"y_{i}", TensorProto.FLOAT, [1, COLUMNS]) for i in range(LAYERS)]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "products", [x], ys, constants), opset_imports=opsets, ir_version=10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps what was freed")
def test_freed_copies_of_weights_go_back_to_the_system(tmp_path: Path) -> None:
    path = tmp_path / "products.onnx"
    path.write_bytes(graph().SerializeToString())

    def grown(how: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", PROGRAM, str(path), how], text=True))

    released = grown("released")
    assert released < 2 * HELD
    assert grown("kept") > 3 * HELD
