"""The experts' operator in ExecuTorch: the kernel's bits, from weights as they lie in the program; what lacks it is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import native_experts
import numpy as np
import pytest
import shared
import torch
from torch import Tensor, nn
from torch.export import Dim

from dgemma.core.errors import EngineError
from dgemma.export.executorch import lower
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.read import read_experts
from dgemma.export.experts import RoutedExperts
from dgemma.export.quiet import quiet
from dgemma.runtime.engines.executorch import check_operators
from dgemma.runtime.native.binding import Program

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="builds the library, which takes a C++ compiler"
)
HIDDEN, WIDTH, CHOSEN, ROWS = 64, 32, 2, 19


class Routed(nn.Module):
    """Experts between operations that XNNPACK takes."""

    def __init__(self, experts: RoutedExperts) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        out: Tensor = self.experts(x * 1.0, weights, ids) + 0.0
        return out


@pytest.mark.parametrize("bits", [8, 4])
def test_the_kernels_bits(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = native_experts.matrices(bits, 5, HIDDEN, WIDTH)
    x, ids, weights = native_experts.rows(ROWS, HIDDEN, 5, CHOSEN)
    module = Routed(RoutedExperts(*pair)).eval()
    given, rows = tuple(torch.from_numpy(a) for a in (x, weights, ids)), Dim("M", min=1, max=ROWS)
    path = tmp_path / "experts.pte"
    with quiet(), patched_exir(), torch.no_grad():
        edge = lower.delegate(torch.export.export(module, given, dynamic_shapes=({0: rows},) * 3, strict=False))
        path.write_bytes(edge.to_executorch(lower.WRITTEN).buffer)
        eager = module(*given).numpy()
    for made, stored in zip(pair, read_experts(path)[0], strict=True):
        assert torch.equal(made.expanded(), stored.expanded()) and torch.equal(made.scale, stored.scale)
    program = Program(shared.native_library(), path, threads=2)
    program.load("forward", 3, 1)
    for count in (ROWS, 1):
        (found,) = program.run("forward", [np.ascontiguousarray(a[:count]) for a in (x, weights, ids)])
        assert found.tobytes() == native_experts.run(*pair, x[:count], ids[:count], weights[:count]).tobytes()
        assert np.abs(found - eager[:count]).max() < 4e-3 * np.abs(eager).max()
        assert np.abs(found - np.roll(eager, 1, 1)[:count]).max() > 0.1 * np.abs(eager[:count]).max()
    with pytest.raises(RuntimeError, match="InvalidArgument"):
        program.run("forward", [x, weights, ids + 5])
    monkeypatch.setenv("DGEMMA_NATIVE", "0")
    with pytest.raises(EngineError, match=r"experts.pte: .*DGEMMA_NATIVE=0.*apt-get install g\+\+"):
        check_operators(path)
