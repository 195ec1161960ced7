"""The study of quantized routers: what it rounds, and what it counts."""

from __future__ import annotations

import micro
import pytest
import torch

from dgemma.benchmarks.studies.routers import other_experts, with_routers
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.verify.torch_backend import TorchBackend

ROUTERS = {f"layers.{i}.router.proj.weight" for i in range(micro.MOE_CONFIG.num_layers)}


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 8)])
def test_routers_alone_are_rounded(bits: int, largest: int) -> None:
    found = with_routers(micro.model(micro.MOE_CONFIG), "fp32", bits)
    assert found.keys() == ROUTERS
    for matrix in found.values():
        assert largest // 2 < int(matrix.integers.abs().max()) <= largest


def test_routers_stay_in_float_where_they_are_to() -> None:
    model = micro.model(micro.MOE_CONFIG)
    assert with_routers(model, "fp32", 32) == {}
    assert not ROUTERS & with_routers(model, "w8", 32).keys()
    assert with_routers(model, "w8", 4).keys() == ROUTERS | with_routers(model, "w8", 32).keys()


def test_experts_that_differ_are_counted() -> None:
    model = micro.model(micro.MOE_CONFIG)
    above = TorchBackend(model, micro.POLICY, micro.N, "float")
    runs = [(0, above.trajectory(micro.prompt(5), 0, micro.N))]

    def others(bits: int) -> int:
        made = fake_quantize(model, with_routers(model, "fp32", bits))
        found = other_experts(above, TorchBackend(made, micro.POLICY, micro.N, "quantized"), runs)
        assert found["rows"] == sum(layer["rows"] for layer in found["layers"].values()) > 0
        assert (found["largest_margin"] is None) == (found["other"] == 0)
        return int(found["other"])

    with torch.no_grad():
        assert others(32) == 0 < others(4)
