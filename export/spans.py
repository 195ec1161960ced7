"""Spans of layers whose weights an accelerator's compiler takes at once, and what weights take there.

It knows nothing of compilers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dgemma.core.config import ModelConfig
from dgemma.core.errors import UsageError
from dgemma.core.shapes import parameter_shapes
from dgemma.quantize.recipes import Recipe

TABLE = "embed_tokens.weight"
# Bytes of weights in a context. The NPU maps contexts into 32 bits of addresses, of which a process gets 2 to 3.5 GB, and what
# a context needs beside its weights has to fit too.
MOST_BYTES = 1_950_000_000


def stored_bytes(recipe: Recipe, name: str, shape: Sequence[int]) -> int:
    """Bytes of a parameter in a context: float16, or integers with float32 scales of outputs or of blocks."""
    bits, outputs = recipe.bits_of(name), math.prod(shape[:-1])
    scales = {4: shape[-1] // recipe.group_of(name, shape[-1]) * outputs if bits == 4 else 0, 8: outputs}.get(bits, 0)
    return math.prod(shape) * min(16, bits) // 8 + 4 * scales


def split(config: ModelConfig, recipe: Recipe, target: str, most: int = MOST_BYTES) -> list[tuple[int, int]]:
    """Spans of layers whose weights fit into a context, self-conditioning with the first, and stay within `most` bytes where
    they are not a single layer's; raises UsageError, which names the target."""
    of_layer = [0] * config.num_layers
    beside = 0
    for name, shape in parameter_shapes(config).items():
        head, _, rest = name.partition(".")
        if head == "layers":
            of_layer[int(rest.split(".")[0])] += stored_bytes(recipe, name, shape)
        elif head == "self_conditioning":
            beside += stored_bytes(recipe, name, shape)
    table = stored_bytes(recipe, TABLE, (config.vocab_size, config.hidden_size))
    if table > MOST_BYTES:
        raise UsageError(
            f"--target {target}: the table of ids takes {table / 1e9:.2f} GB and a context holds {MOST_BYTES / 1e9:.2f} GB; "
            "use a recipe of fewer bits"
        )
    spans, first, held = list[tuple[int, int]](), 0, beside
    for i, size in enumerate(of_layer):
        if size > MOST_BYTES or (i == 0 and beside + size > MOST_BYTES):
            raise UsageError(
                f"--target {target}: layer {i} takes {size / 1e9:.2f} GB and a context holds {MOST_BYTES / 1e9:.2f} GB; use a "
                "recipe of fewer bits"
            )
        if i > first and held + size > min(most, MOST_BYTES):
            spans.append((first, i))
            first, held = i, 0
        held += size
    return [*spans, (first, config.num_layers)]
