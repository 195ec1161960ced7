"""The `.pte` as a file: tables stored once, and the integers read back out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import micro
import pytest
import torch
from matrices import four_bits, inputs
from torch import Tensor, nn

from dgemma.export.executorch import lower
from dgemma.export.executorch.dedup_constants import Table, dedup_constants
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.linear import FloatEmbedding, IntegerEmbedding
from dgemma.export.executorch.pte import Layout
from dgemma.export.executorch.read import read_experts, read_integers
from dgemma.export.graphs import Shapes
from dgemma.export.quiet import quiet
from dgemma.quantize.integers import quantize_rows
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import class_of


class Tied(nn.Module):
    """A look-up and the head of one table."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = table

    def forward(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_tokens(tokens), self.embed_tokens.logits(x)  # type: ignore[operator]


def write(table: nn.Module, path: Path) -> tuple[Tensor, Tensor]:
    """Lower `Tied` to a file; returns the inputs."""
    given = torch.tensor([[5, 0, 299]]), inputs(1, 2, 64)
    with quiet(), patched_exir(), torch.no_grad(), path.open("wb") as file:
        lower.delegate(torch.export.export(Tied(table), given)).to_executorch().write_to_file(file)
    return given


def run(path: Path, given: tuple[Tensor, ...], method: str = "forward") -> list[Tensor]:
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    return [t.clone() for t in _load_for_executorch(str(path)).run_method(method, given)]


@pytest.mark.parametrize("kind", ["float", "8", "4"])
def test_a_table_is_stored_once(kind: str, tmp_path: Path) -> None:
    matrix = {"8": quantize_rows(inputs(300, 64)), "4": four_bits(300, 64, group=32)}.get(kind)
    table = FloatEmbedding(inputs(300, 64)) if matrix is None else IntegerEmbedding(matrix)
    path = tmp_path / "tied.pte"
    given = write(table, path)
    before, size = run(path, given), path.stat().st_size
    wrong = [Table(tensor=t.tensor + 1, parts=t.parts) for t in table.tables("embed_tokens")]
    assert dedup_constants(path, wrong) == 0, "bytes that differ were taken for the same"
    saved = dedup_constants(path, table.tables("embed_tokens"))
    assert path.stat().st_size == size - saved
    rows = table.tables("embed_tokens")[0].tensor
    assert saved >= rows.numel() * rows.element_size()
    for found, wanted in zip(run(path, given), before, strict=True):
        assert torch.equal(found, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["tied.pte"]
    if matrix is not None:
        found_matrix = read_integers(path)["embed_tokens.weight"]
        assert torch.equal(found_matrix.integers, matrix.integers)
        scale = matrix.scale if matrix.multipliers is None else matrix.multipliers * matrix.scale[..., None]
        assert torch.equal(found_matrix.scale, scale)
    layout = Layout(path.read_bytes())
    start, _ = layout.spans[layout.named()[next(iter(table.tables("embed_tokens")[0].parts))]]
    damaged = bytearray(path.read_bytes())
    damaged[layout.base + start + 5 * rows[0].numel() * rows.element_size() + 3] ^= 0x40  # in row 5
    path.write_bytes(bytes(damaged))
    for found, wanted in zip(run(path, given), before, strict=True):
        assert not torch.equal(found, wanted), "look-up and head read different bytes"


CONFIG = replace(micro.CONFIG, hidden_size=64, intermediate_size=96)


def quantized(model: nn.Module) -> dict[str, QuantizedMatrix]:
    """4 bits in MLPs and experts, the MLPs' down projections rotated, 8 elsewhere; made-up integers."""
    made = {}
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        kind = class_of(name)
        if kind in ("mlp_up_gate", "mlp_down", "experts"):
            rotation = 32 if kind == "mlp_down" else None
            made[name] = four_bits(*parameter.shape, group=32, rotation=rotation, seed=seed)
        elif kind is not None:
            made[name] = quantize_rows(parameter)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("experts", [False, True])
def test_integers_of_a_whole_model_come_back(experts: bool, tmp_path: Path) -> None:
    """All products are in XNNPACK, and the file's integers and scales are the canonical ones, bit for bit."""
    config = replace(CONFIG, num_experts=2, top_k_experts=1, moe_intermediate_size=32) if experts else CONFIG
    model = micro.model(config)
    canonical = quantized(model)
    path = tmp_path / "model.pte"
    shapes = Shapes(canvas=micro.N, chunk=micro.N, context=micro.CONTEXT)
    with quiet():
        share = lower.lower(model, canonical, micro.POLICY, shapes, path, lambda _: None)
    assert list(share) == ["encode", "denoise", "denoise_guided", "denoise_active", "decode", "check", "generate"]
    assert not any(s["matrix_products_on_cpu"] or s["quantization_on_cpu"] for s in share.values())
    layout = Layout(path.read_bytes())
    table = canonical["embed_tokens.weight"].integers.numel()
    routed = sum(m.integers.numel() // 2 for name, m in canonical.items() if ".experts." in name)
    once = layout.spans[0][1] - 1.5 * routed
    assert layout.constants() and once < 1.5 * table, "weights of delegates among the constants as well"
    found, layers = read_integers(path), read_experts(path)
    for name, matrix in canonical.items():
        if ".experts." in name:
            stored_experts = layers[int(name.split(".")[1])][name.endswith(".down_proj")]
            assert torch.equal(stored_experts.expanded(), matrix.expanded()) and torch.equal(stored_experts.scale, matrix.scale)
            continue
        stored = found.pop(name)
        assert torch.equal(stored.integers, matrix.integers)
        scale = matrix.scale if matrix.multipliers is None else matrix.multipliers * matrix.scale[..., None]
        assert torch.equal(stored.scale, scale)
        assert stored.group == (matrix.group or 0)
    assert not found and len(layers) == (2 if experts else 0)
    assert not torch.equal(read_integers(path)["embed_tokens.weight"].integers, canonical["embed_tokens.weight"].integers + 1)
