"""What the static graphs of all accelerators share: sizes, prompts for ranges, and what a host keeps beside them.

It does not know compilers, or how graphs are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import ExportError
from dgemma.core.manifest import TableSpec
from dgemma.core.roles import TRIMS
from dgemma.core.shapes import parameter_count
from dgemma.export.graphs import Shapes
from dgemma.export.request import LARGE, ExportRequest, Text, Weights
from dgemma.export.stages import Progress, Reached
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.calibration import read_prompts
from dgemma.quantize.ranges import MAX_NEW_TOKENS, ranges

Array = npt.NDArray[Any]
HEAD_TILE = 16_384  # ids whose products with 256 rows are 16 MB: what a host holds at a time
FEWEST_SLOTS, GROWTH = 128, 2  # the shortest prefix, and how many times longer the next is
# Of large models, where a further length takes minutes to compile and attention to padding is little beside the products.
LARGE_FEWEST, LARGE_GROWTH = 256, 4
RANDOM, RANDOM_STEPS = "random_weights", 2  # in a provenance; steps of its one generation for ranges
# Asked of checkpoints with a chat template where no calibration prompts are given, for the ranges of activations.
PROMPTS = (
    "Reverse the word table.",
    "Write 4271 in words.",
    "Invite each of Anna Ben Carla to the party in the garden on Monday at 5.",
    "Explain in two sentences why the sky is blue, and give an example in Python.",
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes that graphs are compiled for: rows, lengths of prefixes, and the most slots of a sliding layer's."""

    rows: tuple[int, ...]
    slots: tuple[int, ...]
    local: int

    @classmethod
    def of(cls, shapes: Shapes, config: ModelConfig) -> Sizes:
        """One row (decoding), a quarter of the canvas (its active positions), the canvas and the chunk; prefixes double in
        length, so that at most half of one is filling, and those of large models quadruple."""
        large, window = 4 * parameter_count(config) > LARGE, config.sliding_window
        fewest, growth = (LARGE_FEWEST, LARGE_GROWTH) if large else (FEWEST_SLOTS, GROWTH)
        lengths = [fewest]
        while lengths[-1] < shapes.context:
            lengths.append(growth * lengths[-1])
        slots = tuple(dict.fromkeys(min(length, shapes.context) for length in lengths))
        rows = sorted({1, max(1, shapes.canvas // 4), shapes.canvas, shapes.chunk})
        # W−1 tokens, canvas positions behind them, and what rounding to steps of the runtime's 64 slots adds at both ends
        local = -(-(window - 1 + shapes.canvas + 126) // 64) * 64
        return cls(rows=tuple(rows), slots=slots, local=min(local, shapes.context))


def tiles(vocab: int) -> list[tuple[int, int]]:
    """Spans of ids whose products one graph of the head gives."""
    return [(first, min(first + HEAD_TILE, vocab)) for first in range(0, vocab, HEAD_TILE)]


def range_prompts(request: ExportRequest) -> list[list[int]]:
    """Ids that ranges are recorded for: of the calibration file, else our texts, else spread over the vocabulary."""
    if request.calibration is not None:
        return read_prompts(request.calibration, request.config.vocab_size)
    text, vocab = request.text, request.config.vocab_size
    room = request.shapes.context - request.shapes.canvas
    if text is None or text.chat is None:
        return [[(7919 * (i + 1) * (j + 1)) % vocab for j in range(min(24, room))] for i in range(4)]
    return [ids for line in PROMPTS if len(ids := _chat_ids(text, line)) <= room] or [[request.config.bos_token_id]]


def recorded_ranges(
    request: ExportRequest, weights: Weights, prompts: Sequence[Sequence[int]], stage: str, progress: Progress
) -> dict[str, float]:
    """Ranges of activations while the model answers the prompts; `stage` names it in what `progress` is told. What random
    weights say means nothing, so they say little."""
    sampler, tokens = request.sampler, MAX_NEW_TOKENS
    if RANDOM in weights.provenance:
        prompts, tokens = prompts[:1], request.shapes.canvas
        sampler = replace(sampler, steps=min(RANDOM_STEPS, sampler.steps))
    return ranges(
        weights.model,
        sampler,
        prompts,
        weights.quantized,
        tokens=tokens,
        progress=lambda line: progress(Reached(stage, line.partition(" ")[2])),
    )


def _chat_ids(text: Text, line: str) -> list[int]:
    """A user's turn, near enough to the runtime's (spaces at its ends may differ) for a range."""
    chat = text.chat
    assert chat is not None
    content = chat.user_lead + TRIMS[chat.trim](line) + chat.user_tail
    return [*chat.start, *chat.user_prefix, *text.tokenizer.encode(content), *chat.user_suffix, *chat.model_prefix]


def write_constants(path: Path, model: Denoiser) -> None:
    """What graphs take as inputs and the host keeps; see `runtime/engines/accelerator_host.py`."""

    def floats(*tensors: Tensor) -> Array:
        return np.concatenate([t.detach().float().numpy().reshape(-1) for t in tensors])

    arrays = {
        "encode_scalars": floats(*[layer.encode_scalar for layer in model.layers]),  # type: ignore[arg-type]
        "denoise_scalars": floats(*[layer.denoise_scalar for layer in model.layers]),  # type: ignore[arg-type]
        "sliding_frequencies": floats(model.sliding_frequencies),  # type: ignore[arg-type]
        "full_frequencies": floats(model.full_frequencies),  # type: ignore[arg-type]
        "embed_scale": np.array([model.embed_scale], np.float32),
    }
    np.savez(path, allow_pickle=False, **arrays)


def table_of(stage: Path, weights: Weights) -> TableSpec:
    """Where the ONNX graphs for processors have the table, so that it is in the bundle once."""
    model = onnx.load(str(stage / "onnx" / "shared.onnx"), load_external_data=False)
    places: dict[str, Mapping[str, str]] = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer
    }
    stem, quantized = "model.embed_tokens.", "embed_tokens.weight" in weights.quantized
    rows, scales = (f"{stem}table.integers", f"{stem}table.scale") if quantized else (f"{stem}weight", None)
    try:
        place = places[rows]
        return TableSpec(
            file=f"onnx/{place['location']}",
            dtype="int8" if quantized else "float32",
            offset=int(place["offset"]),
            scales=None if scales is None else int(places[scales]["offset"]),
        )
    except KeyError:
        raise ExportError(
            "the vocabulary is too small: accelerators need its table stored separately; leave --target out"
        ) from None
