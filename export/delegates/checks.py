"""What `--target coreml` and `--target vulkan` cannot do, checked before any work: packages, recipes, kinds of models, and
layers that are too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util

from dgemma.core.accelerators import COREML, VULKAN
from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.core.shapes import parameter_shapes
from dgemma.export.spans import TABLE, split
from dgemma.quantize.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Support:
    """What a backend takes: bits of weights, with recipes that have no others, and modules that must be importable."""

    name: str
    bits: frozenset[int]
    recipes: str
    modules: tuple[str, ...]


# ExecuTorch has its backends' compilers on board, and requires coremltools where that exists.
SUPPORT = {
    COREML: Support(
        name="Core ML", bits=frozenset({4, 8, 32}), recipes="fp32, w8, w4-mixed, w4", modules=("executorch", "coremltools")
    ),
    VULKAN: Support(
        name="Vulkan",
        bits=frozenset({4, 32}),  # 8 bits in ExecuTorch 1.5.1 with static 8-bit activations alone
        recipes="fp32, or a file with 4 and 32 bits",
        modules=("executorch",),
    ),
}


def check(target: str, recipe: Recipe, config: ModelConfig, engines: Sequence[str]) -> None:
    """Raises UsageError, with the cure."""
    backend = SUPPORT[target]
    if "onnx" not in engines:
        raise UsageError(
            f"--target {target} reads the table of ids from the ONNX graphs' file; leave --engine out, or give --engine onnx"
        )
    if recipe.activations == 16:
        raise UsageError(
            f"--target {target}: recipe {recipe.name!r} has 16-bit activations, but {backend.name} has float16; "
            f"use --recipe {backend.recipes}"
        )
    if recipe.bits_of(TABLE) == 4:
        raise UsageError(
            f"--target {target}: recipe {recipe.name!r} has 4-bit embeddings, but the host reads rows of 8 or 32 bits; "
            f"use --recipe {backend.recipes}"
        )
    if wrong := sorted({recipe.bits_of(name) for name in parameter_shapes(config)} - backend.bits):
        raise UsageError(
            f"--target {target}: recipe {recipe.name!r} has weights of {wrong[0]} bits, but {backend.name} takes "
            f"{' or '.join(map(str, sorted(backend.bits)))}; use --recipe {backend.recipes}"
        )
    if config.is_moe:
        raise UsageError(f"--target {target}: a mixture of experts does not run on {backend.name} yet; leave --target out")
    for module in backend.modules:
        if util.find_spec(module) is None:
            platforms = ", which exists for macOS and for Linux on x86-64" if module == "coremltools" else ""
            raise UsageError(f"--target {target} needs package {module}{platforms}; {pip_install('export')}")
    split(config, recipe, target)
