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

Specs = list[TensorSpec]
Pieces = dict[str, tuple[nn.Module, Specs, Specs]]
IN_BLOCK = sampler.BLOCK // head.PART  # parts of a block


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _real(name: str, *shape: int | str) -> TensorSpec:
    return _spec(name, "float32", *shape)


DRAW_SPECS = [_spec("block", "int64", 1, "R"), _spec("before", "float64", 1, "R", 1), _spec("target", "float64", 1, "R")]
PART_SPECS = [_spec("first", "int64", 1, "R"), _spec("before_part", "float64", 1, "R", 1)]


def head_pieces(model: Denoiser, policy: SamplerConfig) -> Pieces:
    """The pieces that `head.py` wires up; `tile` and `last_tile` differ by their length."""
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    spans = head.tiles(vocab)
    read_dtype = str(head.stored(model).read(torch.zeros(1, 1, hidden))[0].dtype).removeprefix("torch.")
    read = [_spec("read", read_dtype, 1, "R", hidden), _real("inverse", 1, "R", 1)]
    made: Pieces = {"read": (head.Read(model), [_real("rows", 1, "R", hidden)], read)}
    for name, (start, end) in (("tile", spans[0]), ("last_tile", spans[-1])):
        made |= _tile(model, policy, name, end - start, read)
    made |= _sample(policy, spans, vocab)
    made |= _weights_of_part(model, policy, len(spans) > 1, read_dtype)
    made |= _outcome(model, policy)
    return made


def _tile(model: Denoiser, policy: SamplerConfig, name: str, size: int, read: Specs) -> Pieces:
    """The logits of `size` ids and what is kept of them; without top_k, also their share of the soft embedding."""
    hidden = model.config.hidden_size
    kept = policy.candidates(size)
    blocks = -(-size // sampler.BLOCK)
    weight = (size, hidden) if head.stored(model).upright else (hidden, size)
    weight_dtype = "float32" if read[0].dtype == "float32" else "int8"
    given = [*read, _spec("weight", weight_dtype, *weight), _real("scale", size), _spec("first", "int64", 1)]
    made: Pieces = {}
    made[name] = (
        head.Tile(model, policy),
        [*given, _real("before", 1, "R", 1), _real("temperature", 1)],
        [
            _real("unit", 1, "R", size),
            _real("weights", 1, "R", size),
            _real("maximum", 1, "R", 1),
            _real("parts", 1, "R", blocks * IN_BLOCK),
            _real("sums", 1, "R", blocks),
            _real("moment", 1, "R", 1),
            _real("best", 1, "R", kept),
            _spec("ids", "int64", 1, "R", kept),
            _real("done", 1, "R", 1),
        ],
    )
    if policy.top_k is None:
        made[f"absorb_{name}"] = (
            head.Absorb(model),
            [
                _real("total", 1, "R", hidden),
                _real("weights", 1, "R", size),
                _real("before", 1, "R", 1),
                _real("maximum", 1, "R", 1),
                _spec("first", "int64", 1),
            ],
            [_real("absorbed", 1, "R", hidden)],
        )
    return made


def _sample(policy: SamplerConfig, spans: list[tuple[int, int]], vocab: int) -> Pieces:
    """From the statistics of all tiles to argmax, entropy and acceptance, and to the part that holds the drawn token."""
    blocks = sum(-(-(end - start) // sampler.BLOCK) for start, end in spans)
    kept = sum(policy.candidates(end - start) for start, end in spans)
    best = policy.candidates(vocab)
    entropy, sums, maxima = _real("entropy", 1, "R"), _real("sums", 1, "R", blocks), _real("maxima", 1, "R", len(spans))
    combine = (
        head.Combine(policy, spans),
        [
            maxima,
            _real("tile_sums", 1, "R", blocks),
            _real("moments", 1, "R", len(spans)),
            _real("best", 1, "R", kept),
            _spec("ids", "int64", 1, "R", kept),
        ],
        [
            _spec("argmax", "int64", 1, "R"),
            entropy,
            sums,
            _real("total", 1, "R", 1),
            _spec("likeliest", "int64", 1, "R", best),
            _real("log_probs", 1, "R", best),
            _real("probabilities", 1, "R", min(policy.top_k or 1, vocab)),
        ],
    )
    words, accepted = _spec("words", "int64", 2, "R"), _spec("accepted", "bool", 1, "R")
    return {
        "combine": combine,
        "draw": (head.Draw(policy), [words, entropy, sums], [accepted, *DRAW_SPECS]),
        "part": (head.Part(spans), [_real("parts", 1, "R", blocks * IN_BLOCK), maxima, *DRAW_SPECS], PART_SPECS),
    }


def _weights_of_part(model: Denoiser, policy: SamplerConfig, several: bool, read_dtype: str) -> Pieces:
    """The weights of the ids in the drawn part, picked from the only tile or, with several tiles, computed again; with top_k
    also the soft embedding."""
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    best, averaged = policy.candidates(vocab), min(policy.top_k or 1, vocab)
    weights = _real("weights", 1, "R", head.PART)
    if several:
        position = [
            _spec("read", read_dtype, hidden),
            _real("inverse", 1),
            _spec("first", "int64"),
            _spec("likeliest", "int64", best),
            _real("probabilities", averaged),
        ]
        products = [_real("products", head.PART), *([] if policy.top_k is None else [_real("soft", hidden)])]
        given = [_real("products", "R", head.PART), _real("temperature", 1), _real("maximum", 1, "R", 1)]
        return {
            "position": (head.Position(model, policy), position, products),
            "weigh": (head.Weigh(model), given, [weights]),
        }
    made: Pieces = {"pick": (head.Pick(), [_real("tile_weights", 1, "R", vocab), PART_SPECS[0]], [weights])}
    if policy.top_k is not None:
        likeliest = [_spec("likeliest", "int64", 1, "R", best), _real("probabilities", 1, "R", averaged)]
        made["mean"] = (head.Likeliest(model), likeliest, [_real("next_soft", 1, "R", hidden)])
    return made


def _outcome(model: Denoiser, policy: SamplerConfig) -> Pieces:
    """The next canvas and, without top_k, the soft embedding."""
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    weights, words = _real("weights", 1, "R", head.PART), _spec("words", "int64", 2, "R")
    given = [weights, *PART_SPECS, DRAW_SPECS[-1], words, _spec("accepted", "bool", 1, "R")]
    made: Pieces = {
        "choose": (head.Choose(vocab), given, [_spec("next_canvas", "int64", 1, "R"), _spec("drawn", "int64", 1, "R")])
    }
    if policy.top_k is None:
        weighted = [_real("weighted", 1, "R", hidden), _real("total", 1, "R", 1)]
        made["soft"] = (head.Soft(model), weighted, [_real("next_soft", 1, "R", hidden)])
    return made
