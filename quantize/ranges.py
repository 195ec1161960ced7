"""Largest magnitudes of what a model's products and norms read and write, recorded while it denoises of its own accord.

A static range has to hold what comes at every noise level, so it is recorded over whole generations, as `calibration.py` does
for the inputs of GPTQ. It knows nothing of engines.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser, RMSNorm
from dgemma.model.generate import generate
from dgemma.quantize.hadamard import hadamard, rotate_inputs
from dgemma.quantize.matrix import QuantizedMatrix

MAX_NEW_TOKENS = 256
KEPT = 2_000_000_000  # bytes of float weights above which they are not held all at once


def with_stored_weights(model: Denoiser, quantized: Mapping[str, QuantizedMatrix], *, kept: bool = True) -> Denoiser:
    """A float model that computes with the values of the integers, activations unrounded; other weights are shared. Without
    `kept`, a Linear has its values only while it computes: the model needs a quarter of the memory, and a step takes longer."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, dict(shared))
    for name, matrix in quantized.items():
        path, _, attribute = name.rpartition(".")
        module = made.get_submodule(path)
        if kept or not isinstance(module, nn.Linear):
            setattr(module, attribute, _parameter(matrix))
        else:
            module.register_forward_pre_hook(partial(_give, matrix))
            module.register_forward_hook(_take)
    return made.requires_grad_(False).eval()


def _parameter(matrix: QuantizedMatrix) -> nn.Parameter:
    weight = matrix.dequantize()
    return nn.Parameter(weight if matrix.rotation is None else rotate_inputs(weight, matrix.rotation), requires_grad=False)


def _give(matrix: QuantizedMatrix, module: nn.Module, _: Any) -> None:
    module.weight = _parameter(matrix)


def _take(module: nn.Module, *_: Any) -> None:
    module.weight = nn.Parameter(torch.empty(0, device="meta"), requires_grad=False)


class RangeRecorder:
    """Name of a module with `.in` or `.out` → the largest magnitude seen.

    Args:
        rotations: name of a Linear → block size of the rotation that its inputs are stored for.
    """

    def __init__(self, rotations: Mapping[str, int]) -> None:
        self.largest: dict[str, float] = {}
        self.rotations = rotations

    def add(self, key: str, x: Tensor) -> None:
        self.largest[key] = max(self.largest.get(key, 0.0), float(x.detach().abs().max()))

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            x, block = inputs[0], self.rotations.get(name)
            self.add(f"{name}.in", x if block is None else (x.unflatten(-1, (-1, block)) @ hadamard(block)).flatten(-2))
            self.add(f"{name}.out", output)

        return record

    @contextmanager
    def watching(self, model: Denoiser) -> Iterator[None]:
        """Record while this lasts: every Linear, every norm, and the head as `embed_tokens`."""
        table: Any = model.embed_tokens
        plain = table.logits

        def logits(x: Tensor) -> Tensor:
            self.add("embed_tokens.in", x)
            products: Tensor = plain(x)
            self.add("embed_tokens.out", products)
            return products

        table.logits = logits
        kinds = (nn.Linear, RMSNorm)
        handles = [m.register_forward_hook(self.hook(name)) for name, m in model.named_modules() if isinstance(m, kinds)]
        try:
            yield
        finally:
            del table.logits  # the class's own again
            for handle in handles:
                handle.remove()


@torch.no_grad()
def ranges(
    model: Denoiser,
    sampler: SamplerConfig,
    prompts: Sequence[Sequence[int]],
    quantized: Mapping[str, QuantizedMatrix],
    *,
    tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Largest magnitudes by name while the model answers the prompts, in at most so many tokens, with its integers' values, all
    noise levels and the encoding of prompts included."""
    model = with_stored_weights(model, quantized, kept=4 * sum(p.numel() for p in model.parameters()) <= KEPT)
    recorder = RangeRecorder({n.removesuffix(".weight"): m.rotation for n, m in quantized.items() if m.rotation})
    with recorder.watching(model):
        for i, ids in enumerate(prompts):
            generate(model, sampler, ids, seed=i, max_new_tokens=tokens)
            if progress is not None:
                progress(f"ranges {i + 1} of {len(prompts)} prompts")
    return recorder.largest
