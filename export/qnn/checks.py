"""What `--target qnn` cannot do, said before any work: packages, recipes, kinds of models, contexts that do not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import util

from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install
from dgemma.core.shapes import parameter_shapes
from dgemma.quantize.recipes import Recipe

PACKAGE, MODULE = "onnxruntime-qnn", "onnxruntime_qnn"
RECIPES = ("fp32",)
# Bytes of weights in a context. The NPU maps contexts into 32 bits of addresses, of which a process gets 2 to 3.5 GB, and what
# a context needs beside its weights has to fit too.
MOST_BYTES = 1_950_000_000


def check(recipe: Recipe, config: ModelConfig, engines: Sequence[str], *, quantized_checkpoint: bool) -> None:
    """Raises UsageError, with the cure."""
    if "onnx" not in engines:
        raise UsageError("--target qnn runs beside the ONNX graphs; leave --engine out, or give --engine onnx")
    if recipe.name not in RECIPES:
        raise UsageError(f"--target qnn: recipe {recipe.name!r} does not run on the NPU; use --recipe {' or '.join(RECIPES)}")
    if quantized_checkpoint:
        raise UsageError("--target qnn records ranges with the float model; give the float checkpoint, not a quantized one")
    if config.is_moe:
        raise UsageError("--target qnn: a mixture of experts does not run on the NPU yet; leave --target out")
    if util.find_spec(MODULE) is None:
        raise UsageError(f"--target qnn needs package {PACKAGE}, the NPU's compiler; {pip_install('qnn')}")
    split(config, recipe)


def stored_bytes(recipe: Recipe, name: str, shape: Sequence[int]) -> int:
    """Bytes of a parameter in a context: float16, or integers."""
    return math.prod(shape) * min(16, recipe.bits_of(name)) // 8


def split(config: ModelConfig, recipe: Recipe) -> list[tuple[int, int]]:
    """Spans of layers whose weights fit into a context, self-conditioning with the first; raises UsageError."""
    of_layer = [0] * config.num_layers
    beside = 0
    for name, shape in parameter_shapes(config).items():
        head, _, rest = name.partition(".")
        if head == "layers":
            of_layer[int(rest.split(".")[0])] += stored_bytes(recipe, name, shape)
        elif head == "self_conditioning":
            beside += stored_bytes(recipe, name, shape)
    table = stored_bytes(recipe, "embed_tokens.weight", (config.vocab_size, config.hidden_size))
    if table > MOST_BYTES:
        raise UsageError(
            f"--target qnn: the table of ids takes {table / 1e9:.2f} GB and a context holds {MOST_BYTES / 1e9:.2f} GB; use a "
            "recipe of fewer bits"
        )
    spans, first, held = list[tuple[int, int]](), 0, beside
    for i, size in enumerate(of_layer):
        if size > MOST_BYTES or (i == 0 and beside + size > MOST_BYTES):
            raise UsageError(
                f"--target qnn: layer {i} takes {size / 1e9:.2f} GB and a context holds {MOST_BYTES / 1e9:.2f} GB; use a "
                "recipe of fewer bits"
            )
        if held + size > MOST_BYTES:
            spans.append((first, i))
            first, held = i, 0
        held += size
    return [*spans, (first, config.num_layers)]
