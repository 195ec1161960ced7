"""What `--target qnn` cannot do, checked before any work: packages, recipes, kinds of models, contexts that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util

from dgemma.core.accelerators import QNN
from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.export.spans import TABLE, split
from dgemma.quantize.recipes import ACCELERATED, Recipe

PACKAGE, MODULE = "onnxruntime-qnn", "onnxruntime_qnn"
RECIPES = ("fp32", *ACCELERATED)


def check(recipe: Recipe, config: ModelConfig, engines: Sequence[str]) -> None:
    """Raises UsageError, with the cure."""
    if "onnx" not in engines:
        raise UsageError("--target qnn runs beside the ONNX graphs; leave --engine out, or give --engine onnx")
    if recipe.quantizes and recipe.activations != 16:
        raise UsageError(
            f"--target qnn: recipe {recipe.name!r} does not run on the NPU, where integers have 16-bit activations; use "
            f"--recipe {', '.join(RECIPES)}, or a file with `activations` 16"
        )
    if recipe.bits_of(TABLE) == 4:
        raise UsageError(f"--target qnn: recipe {recipe.name!r} has 4-bit embeddings; use 8 or 32 bits")
    if config.is_moe:
        raise UsageError("--target qnn: a mixture of experts does not run on the NPU yet; leave --target out")
    if util.find_spec(MODULE) is None:
        raise UsageError(f"--target qnn needs package {PACKAGE}, the NPU's compiler; {pip_install('qnn')}")
    split(config, recipe, QNN)
