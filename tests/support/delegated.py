"""The head as ExecuTorch runs it, alone: a `.pte` with one method, its arena, and a callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import micro
import torch
from executorch.exir._serialize.generated.executorch_flatbuffer.ExecutionPlan import ExecutionPlan
from executorch.exir._serialize.generated.executorch_flatbuffer.Program import Program
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.export.executorch import head, linear, lower
from dgemma.export.executorch.dedup_constants import dedup_constants
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.pte import Layout
from dgemma.export.graphs import sharing
from dgemma.export.quiet import quiet
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import quantize
from dgemma.quantize.recipes import find

_PLANS = 6  # field of Program in its vtable (program.fbs)


class Head(nn.Module):
    """`head.sample`, or `head.greedy` where there is no policy."""

    def __init__(self, model: Denoiser, policy: SamplerConfig | None) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(self, rows: Tensor, words: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        """rows [1, R, D], words [2, R], temperature [1] → as `head.sample`, or the likeliest ids [1, R]."""
        if self.policy is None:
            return (head.greedy(self.model, rows),)
        return head.sample(self.model, self.policy, rows, words, temperature)


def model(vocab_size: int, recipe: str) -> Denoiser:
    """A micro model of which the head alone is used, its table as ExecuTorch has it."""
    made = sharing(micro.model(replace(micro.CONFIG, vocab_size=vocab_size, intermediate_size=64)))
    linear.replace(made, {} if recipe == "fp32" else quantize(made, replace(find(recipe), group=32)))
    return made


def write(made: Denoiser, policy: SamplerConfig | None, path: Path, rows: int = micro.N) -> int:
    """Lower the head of a model, for up to so many rows; returns the bytes of its arena."""
    given = (torch.zeros(1, rows, made.config.hidden_size), torch.zeros(2, rows, dtype=torch.int64), torch.ones(1))
    count = torch.export.Dim("R", min=2, max=rows)
    with quiet(), patched_exir(), torch.no_grad(), path.open("wb") as file:
        program = torch.export.export(
            Head(made, policy).eval(), given, dynamic_shapes=({1: count}, {1: count}, {}), strict=False
        )
        lower.delegate(program).to_executorch().write_to_file(file)
    dedup_constants(path, made.embed_tokens.tables("embed_tokens"))  # type: ignore[operator]
    return arena(path)


def arena(path: Path) -> int:
    """Bytes that the only method of a file has planned for what it computes on the way."""
    with path.open("rb") as file:
        data = Layout.read(file).head
    program = Program.GetRootAs(data, 0)._tab
    plan = ExecutionPlan()
    plan.Init(data, program.Indirect(program.Vector(program.Offset(_PLANS))))
    return sum(plan.NonConstBufferSizes(i) for i in range(plan.NonConstBufferSizesLength()))


def load(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    loaded = _load_for_executorch(str(path))

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in loaded.run_method("forward", given))

    return run
