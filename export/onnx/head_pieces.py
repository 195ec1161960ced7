"""The modules of the head as pieces to trace: names, dtypes and shapes of what goes in and out. `head.py` wires them up.

Letters: R rows for the head, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export import head
from dgemma.model import sampler
from dgemma.model.denoiser import Denoiser

Pieces = dict[str, tuple[nn.Module, list[TensorSpec], list[TensorSpec]]]


def head_pieces(model: Denoiser, policy: SamplerConfig) -> Pieces:
    """The pieces that `head.py` wires up; `tile` and `last_tile` differ by their length."""
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    spans, in_block = head.tiles(vocab), sampler.BLOCK // head.PART
    made: Pieces = {}

    def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    def real(name: str, *shape: int | str) -> TensorSpec:
        return spec(name, "float32", *shape)

    table = head.stored(model)
    read_dtype = str(table.read(torch.zeros(1, 1, hidden))[0].dtype).removeprefix("torch.")
    table_dtype = "float32" if read_dtype == "float32" else "int8"
    read = [spec("read", read_dtype, 1, "R", hidden), real("inverse", 1, "R", 1)]
    made["read"] = (head.Read(model), [real("rows", 1, "R", hidden)], read)
    for name, (start, end) in (("tile", spans[0]), ("last_tile", spans[-1])):
        size = end - start
        kept = min(policy.top_k or 1, size)
        blocks = -(-size // sampler.BLOCK)
        weight = (size, hidden) if table.upright else (hidden, size)
        given = [*read, spec("weight", table_dtype, *weight), real("scale", size), spec("first", "int64", 1)]
        made[name] = (
            head.Tile(model, policy),
            [*given, real("before", 1, "R", 1), real("temperature", 1)],
            [
                real("unit", 1, "R", size),
                real("weights", 1, "R", size),
                real("maximum", 1, "R", 1),
                real("parts", 1, "R", blocks * in_block),
                real("sums", 1, "R", blocks),
                real("moment", 1, "R", 1),
                real("best", 1, "R", kept),
                spec("ids", "int64", 1, "R", kept),
                real("done", 1, "R", 1),
            ],
        )
        if policy.top_k is None:
            total = real("total", 1, "R", hidden)
            made[f"absorb_{name}"] = (
                head.Absorb(model),
                [
                    total,
                    real("weights", 1, "R", size),
                    real("before", 1, "R", 1),
                    real("maximum", 1, "R", 1),
                    spec("first", "int64", 1),
                ],
                [real("absorbed", 1, "R", hidden)],
            )
    blocks = sum(-(-(end - start) // sampler.BLOCK) for start, end in spans)
    kept = sum(min(policy.top_k or 1, end - start) for start, end in spans)
    best = min(policy.top_k or 1, vocab)
    entropy, sums = real("entropy", 1, "R"), real("sums", 1, "R", blocks)
    soft = real("next_soft", 1, "R", hidden)
    words, accepted = spec("words", "int64", 2, "R"), spec("accepted", "bool", 1, "R")
    draw = [spec("block", "int64", 1, "R"), spec("before", "float64", 1, "R", 1), spec("target", "float64", 1, "R")]
    made["combine"] = (
        head.Combine(policy, spans),
        [
            real("maxima", 1, "R", len(spans)),
            real("tile_sums", 1, "R", blocks),
            real("moments", 1, "R", len(spans)),
            real("best", 1, "R", kept),
            spec("ids", "int64", 1, "R", kept),
        ],
        [
            spec("argmax", "int64", 1, "R"),
            entropy,
            sums,
            real("total", 1, "R", 1),
            spec("likeliest", "int64", 1, "R", best),
            real("probabilities", 1, "R", best),
        ],
    )
    made["draw"] = (head.Draw(policy), [words, entropy, sums], [accepted, *draw])
    part = [spec("first", "int64", 1, "R"), spec("before_part", "float64", 1, "R", 1)]
    given = [real("parts", 1, "R", blocks * in_block), real("maxima", 1, "R", len(spans)), *draw]
    made["part"] = (head.Part(spans), given, part)
    weights, maximum = real("weights", 1, "R", head.PART), real("maximum", 1, "R", 1)
    likeliest, probabilities = spec("likeliest", "int64", 1, "R", best), real("probabilities", 1, "R", best)
    if len(spans) == 1:
        made["pick"] = (head.Pick(), [real("tile_weights", 1, "R", vocab), part[0]], [weights])
        if policy.top_k is not None:
            made["mean"] = (head.Likeliest(model), [likeliest, probabilities], [soft])
    else:
        made["position"] = (
            head.Position(model, policy),
            [
                spec("read", read_dtype, hidden),
                real("inverse", 1),
                spec("first", "int64"),
                spec("likeliest", "int64", best),
                real("probabilities", best),
            ],
            [real("products", head.PART), *([] if policy.top_k is None else [real("soft", hidden)])],
        )
        made["weigh"] = (
            head.Weigh(model),
            [real("products", "R", head.PART), real("temperature", 1), maximum],
            [weights],
        )
    made["choose"] = (head.Choose(vocab), [weights, *part, draw[-1], words, accepted], [spec("next_canvas", "int64", 1, "R")])
    if policy.top_k is None:
        made["soft"] = (head.Soft(model), [real("weighted", 1, "R", hidden), real("total", 1, "R", 1)], [soft])
    return made
