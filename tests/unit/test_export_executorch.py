"""What XNNPACK makes of single modules: GELU, RMSNorm and int8 products against the modules themselves."""

from __future__ import annotations

import copy

import micro
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dgemma.export.executorch.gelu import write_out_gelu
from dgemma.export.executorch.linear import Int8Linear
from dgemma.export.executorch.norm import replace_norms
from dgemma.export.quiet import quiet
from dgemma.model.denoiser import GatedMLP, RMSNorm
from dgemma.quantize.integers import quantize_rows


def lowered(module: nn.Module, x: Tensor, *, written_out: bool = True) -> tuple[Tensor, dict[str, int]]:
    """The module's output in ExecuTorch, and the share of operations that XNNPACK takes."""
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

    from dgemma.export.executorch import lower

    with quiet(), torch.no_grad():
        program: ExportedProgram = torch.export.export(module.eval(), (x,))
        program = write_out_gelu(program) if written_out else program
        edge = to_edge_transform_and_lower(
            program, partitioner=[lower.XnnpackPartitioner()], compile_config=lower._CONFIG
        )
        buffer = edge.to_executorch().buffer  # must outlive the module
        return _load_for_executorch_from_buffer(buffer).run_method("forward", (x,))[0].clone(), lower.delegated_share(
            edge, "forward"
        )


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_tanh_gelu_stays_tanh_gelu() -> None:
    """XNNPACK's own is the exact GELU: without writing it out the error is far beyond the tolerance."""
    torch.manual_seed(0)
    module, x = GatedMLP(32, 48).requires_grad_(False), inputs(1, 16, 32) * 4
    found, share = lowered(module, x)
    assert share["on_cpu"] == 0
    torch.testing.assert_close(found, module(x), atol=1e-5, rtol=0)
    wrong, _ = lowered(module, x, written_out=False)
    assert (wrong - module(x)).abs().max() > 2e-4, "XNNPACK has learned tanh GELU: write_out_gelu can go"


def test_norms_as_products() -> None:
    model = micro.model()
    plain = copy.deepcopy(model)
    replace_norms(model, model.config.hidden_size)
    assert not any(isinstance(module, RMSNorm) for module in model.modules())
    x = inputs(1, 5, 32)
    norm = model.layers[0].input_layernorm
    torch.testing.assert_close(norm(x), plain.layers[0].input_layernorm(x))
    found, share = lowered(norm, x)
    assert share["on_cpu"] == 0
    torch.testing.assert_close(found, plain.layers[0].input_layernorm(x))


@pytest.mark.parametrize("outlier", [1.0, 1000.0])
def test_int8_products_have_a_scale_for_each_token(outlier: float) -> None:
    """XNNPACK's integers are those of the module, and an outlier row leaves the others at more than 25 dB."""
    weight, x = inputs(48, 32), inputs(1, 16, 32) + 1
    x[0, 3] *= outlier
    module = Int8Linear(quantize_rows(weight))
    found, share = lowered(module, x)
    assert share == {"delegated": 5, "on_cpu": 0, "matrix_products_on_cpu": 0, "quantization_on_cpu": 0}
    torch.testing.assert_close(found, module(x), atol=1e-3 * outlier, rtol=1e-5)
    exact = x @ weight.t()
    decibels = 10 * torch.log10(exact.square().sum(-1) / (found - exact).square().sum(-1))
    assert decibels.min() > 25
