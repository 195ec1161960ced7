"""What XNNPACK makes of single operators and modules, against torch; each check fails for a wrong rule."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import delegated
import micro
import pytest
import torch
from executorch.exir import ExecutorchBackendConfig
from matrices import four_bits, inputs
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.passes.tools_common import legalize_graph

from dgemma.export.executorch import exir_patches, linear, lower, ops, visitors
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.linear import IntegerEmbedding, IntegerLinear, replace
from dgemma.export.executorch.modules import WholeAttention, WholeRMSNorm, replace_modules
from dgemma.export.graphs import sharing
from dgemma.export.quiet import quiet
from dgemma.model.denoiser import GatedMLP, RMSNorm
from dgemma.quantize.hadamard import rotate_inputs
from dgemma.quantize.integers import quantize_rows


def lowered(module: nn.Module, *x: Tensor, rows: bool = False) -> tuple[Callable[..., Tensor], dict[str, int]]:
    """The module in ExecuTorch, dimension 1 of the first input open with `rows`, and the share that XNNPACK takes."""
    from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

    shapes = ({1: Dim.DYNAMIC(min=1, max=x[0].shape[1])}, *({} for _ in x[1:])) if rows else None
    with quiet(), patched_exir(), torch.no_grad():
        edge = lower.delegate(torch.export.export(module.eval(), x, dynamic_shapes=shapes, strict=False))
        buffer = edge.to_executorch().buffer  # must outlive the module
        loaded = _load_for_executorch_from_buffer(buffer)

    def run(*given: Tensor) -> Tensor:
        assert buffer
        found: Tensor = loaded.run_method("forward", given)[0]
        return found.clone()

    return run, lower.delegated_share(edge, "forward")


def worst(found: Tensor, wanted: Tensor) -> float:
    """Largest error of a row over its largest magnitude."""
    return float(((found - wanted).abs().amax(-1) / wanted.abs().amax(-1)).max())


def test_tanh_gelu_stays_tanh_gelu() -> None:
    torch.manual_seed(0)
    module, x = GatedMLP(32, 48).requires_grad_(False), inputs(1, 16, 32) * 4
    run, share = lowered(module, x)
    assert share["on_cpu"] == 0
    torch.testing.assert_close(run(x), module(x), atol=1e-5, rtol=0)
    exact = module.down_proj(nn.functional.gelu(module.gate_proj(x)) * module.up_proj(x))
    assert (exact - module(x)).abs().max() > 2e-4, "the exact GELU would pass too"


def test_norms() -> None:
    model = micro.model()
    plain = copy.deepcopy(model)
    replace_modules(model, RMSNorm, WholeRMSNorm)
    assert not any(isinstance(module, RMSNorm) for module in model.modules())
    x = inputs(1, 5, 32)
    unscaled = RMSNorm(32, 0.1, scale=False)
    pairs = ((model.layers[0].input_layernorm, plain.layers[0].input_layernorm), (WholeRMSNorm(unscaled), unscaled))
    for norm, twin in pairs:
        run, share = lowered(norm, x, rows=True)
        assert share["on_cpu"] == 0
        for n in (5, 2):
            torch.testing.assert_close(run(x[:, :n]), twin(x[:, :n]))
        assert not torch.allclose(run(x), twin(x + 1), atol=1e-2)


@pytest.mark.parametrize("full", [False, True])
def test_attention_is_one_delegate(full: bool) -> None:
    model = micro.model()
    plain = copy.deepcopy(model).layers[int(full)].self_attn
    replace_modules(model, RMSNorm, WholeRMSNorm)
    whole = WholeAttention(model.layers[int(full)].self_attn)
    kv, dim = plain.kv_heads, plain.head_dim
    angle = inputs(7, 1, dim // 2)
    fixed = (angle.cos(), angle.sin(), inputs(7, 16), (inputs(1, 9, kv, dim, seed=1), inputs(1, 9, kv, dim, seed=2)))

    class First(nn.Module):
        def __init__(self, attention: nn.Module) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self.attention(x, cos, sin, bias, (keys, values))[0]

    given = (inputs(1, 7, 32), *fixed[:3], *fixed[3])
    run, share = lowered(First(whole), *given)
    assert share["on_cpu"] == share["matrix_products_on_cpu"] == 0
    wanted = First(plain)(*given)
    assert worst(run(*given), wanted) < 1e-5
    assert worst(run(given[0], given[2], given[1], *given[3:]), wanted) > 1e-2, "sine and cosine swapped would pass"


@pytest.mark.parametrize(("group", "rotation"), [(0, None), (32, None), (128, None), (32, 32)])
def test_integer_products_follow_the_rule(group: int, rotation: int | None) -> None:
    matrix = four_bits(48, 128, group=group, rotation=rotation) if group else quantize_rows(inputs(48, 128))
    x = inputs(1, 16, 128, seed=1)
    x[0, 3] *= 1000  # its neighbours have scales of their own
    x[0, 5] = 0
    module = IntegerLinear(matrix)
    run, share = lowered(module, x, rows=True)
    assert share["on_cpu"] == share["matrix_products_on_cpu"] == share["quantization_on_cpu"] == 0
    for n in (16, 1, 7):
        found, wanted = run(x[:, :n]), module(x[:, :n])
        assert torch.equal(found[0, 5:6], torch.zeros_like(found[0, 5:6]))
        kept = [i for i in range(n) if i != 5]
        assert worst(found[:, kept], wanted[:, kept]) < 2e-6
    rotated = ops.rotate_blocks(x, rotation or 0)
    exact = rotated @ matrix.dequantize().t()
    assert 1e-4 < worst(run(x)[:, :5], exact[:, :5]) < 3e-2  # rounding of activations is seen, and small


def test_asymmetric_activations_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the lower extreme XNNPACK's own rule is asymmetric, and far from ours."""
    monkeypatch.setattr(visitors, "LEAST", 0.0)
    module, x = IntegerLinear(quantize_rows(inputs(48, 128))), inputs(1, 16, 128, seed=1) + 1
    run, _ = lowered(module, x)
    assert worst(run(x), module(x)) > 1e-4


def test_an_integer_table_does_not_round_the_embedding_scale() -> None:
    model = micro.model()
    matrices = {"embed_tokens.weight": quantize_rows(model.embed_tokens.weight)}
    own = sharing(model)
    replace(own, matrices)
    ids = torch.arange(8)[None]
    wanted = matrices["embed_tokens.weight"].dequantize()[ids] * 32**0.5
    torch.testing.assert_close(own.embed(ids), wanted)
    assert worst(wanted * 5 / 32**0.5, wanted) > 1e-2  # what an integer square root would give


def test_rotation_is_that_of_the_weights() -> None:
    weight, x = inputs(48, 64), inputs(1, 4, 64, seed=1)
    torch.testing.assert_close(ops.rotate_blocks(x, 32) @ rotate_inputs(weight, 32).t(), x @ weight.t(), atol=1e-4, rtol=0)


def test_packing() -> None:
    integers = torch.randint(-8, 8, (6, 32), dtype=torch.int8)
    assert torch.equal(ops.unpack(ops.pack(integers)), integers)
    assert ops.pack(torch.tensor([[-8, 7]], dtype=torch.int8)).tolist() == [[0xF0]]


def test_products_of_one_input_quantize_it_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (IntegerLinear(quantize_rows(inputs(32, 64, seed=s))) for s in (0, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.b(x)

    from executorch.backends.xnnpack import xnnpack_preprocess

    made: list[list[str]] = []
    plain = xnnpack_preprocess.serialize_xnnpack_binary

    def record(graph: object, data: object) -> bytes:
        made.append([type(node.xnode_union).__name__ for node in graph.xnodes])  # type: ignore[attr-defined]
        return plain(graph, data)

    x = inputs(1, 4, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xnnpack_preprocess, "serialize_xnnpack_binary", record)
        run, _ = lowered(Two(), x)
    assert (made[0].count("XNNConvert"), made[0].count("XNNFullyConnected")) == (1, 2)
    assert worst(run(x), Two()(x)) < 2e-6


def test_programs_keep_the_order_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """XNNPACK plans its memory in the order of operations: chains that are independent come one after the other."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    made: list[list[str]] = []
    plain = xnnpack_preprocess.serialize_xnnpack_binary

    def record(graph: object, data: object) -> bytes:
        made.append([type(node.xnode_union).__name__ for node in graph.xnodes])  # type: ignore[attr-defined]
        return plain(graph, data)

    class Chains(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.cumsum(x * x, -1)  # a kernel of its own, so that there are three programs
            x = torch.tanh((x + 1).exp()) + torch.tanh((x + 2).exp()) + torch.tanh((x + 3).exp())
            return torch.cumsum(x, -1) * 2

    def chains() -> list[str]:
        made.clear()
        lowered(Chains(), inputs(1, 4, 8))
        return max(made, key=len)[:3]

    monkeypatch.setattr(xnnpack_preprocess, "serialize_xnnpack_binary", record)
    assert chains() == ["XNNAdd", "XNNExp", "XNNTanh"]
    monkeypatch.setattr(exir_patches, "stable_topological_sort", legalize_graph)
    assert chains() == ["XNNAdd"] * 3, "executorch keeps the order by itself"


def test_inputs_have_no_place_in_the_arena(tmp_path: Path) -> None:
    x = inputs(1, 64, 64)
    planned = []
    for config in (lower.WRITTEN, ExecutorchBackendConfig()):
        with quiet(), patched_exir(), torch.no_grad(), (tmp_path / "f.pte").open("wb") as file:
            lower.delegate(torch.export.export(nn.Tanh(), (x,))).to_executorch(config).write_to_file(file)
        planned.append(delegated.arena(tmp_path / "f.pte"))
    assert planned[1] - planned[0] >= x.nbytes


@pytest.mark.parametrize("columns", [1, 2, 34, 2304, 9216, 2 * 17])
def test_columns_are_pooled_few_at_a_time(columns: int) -> None:
    windows = ops.windows(columns)
    assert math.prod(windows) == columns
    assert max(windows, default=1) <= (ops.POOLED if columns % 17 else 17)


@pytest.mark.parametrize("rows", [1, 5])
def test_bytes_looked_up_become_floats_in_xnnpack(rows: int) -> None:
    class Float(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.to_float(x)

    for dtype, low in ((torch.int8, -128), (torch.uint8, 0)):
        x = torch.arange(low, low + 250).to(dtype).view(1, 5, 50)
        run, share = lowered(Float(), x, rows=True)
        assert share["quantization_on_cpu"] == 0
        assert torch.equal(run(x[:, :rows].contiguous()), x[:, :rows].float())


@pytest.mark.parametrize("shape", [(1, 5, 64), (1, 5, 4, 16), (1, 5, 16, 256), (1, 5, 2, 24), (1, 5, 1024)])
def test_sums_and_maxima(shape: tuple[int, ...]) -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.sums(x, 16)

    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.largest(x)

    x = inputs(*shape)
    run, _ = lowered(Sums(), x, rows=True)
    wanted = x.reshape(1, 5, -1, 16).sum(-1)
    torch.testing.assert_close(run(x), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(run(x[:, :2].contiguous()), wanted[:, :2], atol=1e-5, rtol=0)
    if x.ndim == 4:
        run, _ = lowered(Largest(), x, rows=True)
        assert torch.equal(run(x), x.amax(2))


@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("tile", [1024, 128])
def test_tied_table(group: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, head and soft embedding of one table, whole and in tiles."""
    monkeypatch.setattr(linear, "TILE", tile)
    matrix = four_bits(300, 64, group=group) if group else quantize_rows(inputs(300, 64))
    table = IntegerEmbedding(matrix)
    tokens = torch.tensor([[0, 299, 17, 255]])
    torch.testing.assert_close(table(tokens), matrix.dequantize()[tokens], atol=0, rtol=0)

    class Expected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, p: Tensor) -> Tensor:
            return self.table.expected(p)

    p = torch.softmax(inputs(1, 5, 300) * 3, -1)
    run, share = lowered(Expected(), p)
    assert share["matrix_products_on_cpu"] == share["quantization_on_cpu"] == 0
    assert worst(run(p), p @ matrix.dequantize()) < 2e-6
    assert worst(run(p.flip(-1)), p @ matrix.dequantize()) > 1e-2
