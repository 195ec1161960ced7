"""Softmax as the ONNX graphs have it: no denormal weights, and NaN is not hidden."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dgemma.core.manifest import TensorSpec
from dgemma.export.graphs import Shapes
from dgemma.export.onnx.lower import module_graph
from dgemma.export.onnx.softmax import LEAST
from dgemma.export.quiet import quiet
from dgemma.runtime.engines.sessions import open_session

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1, dtype=torch.float32).type_as(x)


def test_weights_are_never_denormal() -> None:
    spec = {name: TensorSpec(name=name, dtype="float32", shape=(1, 3, 64)) for name in ("x", "y")}
    with quiet():
        graph = module_graph(Softmax(), [spec["x"]], [spec["y"]], Shapes(canvas=8, chunk=8, context=64))
    session = open_session(graph.SerializeToString())
    x = np.zeros((1, 3, 64), np.float32)
    x[0, 0, ::2], x[0, 1, 0], x[0, 2, 0] = -90, -1e30, np.nan  # exp(−90)/32 is denormal; what is hidden is 0
    found = np.asarray(session.run(None, {"x": x})[0])[0]
    plain = torch.softmax(torch.from_numpy(x[0]), -1).numpy()
    assert ((plain[0] > 0) & (plain[0] < SMALLEST_NORMAL)).sum() == 32  # without it there are
    assert found[:2].min() == np.float32(LEAST) > SMALLEST_NORMAL
    assert np.array_equal(found[0, 1::2], plain[0, 1::2])  # and the others are what they were
    assert np.isnan(found[2]).all()
