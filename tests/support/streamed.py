"""The streaming head's pieces put together twice, in eager torch and as one ONNX graph, and the naive twin with all logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import micro
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import Tensor

from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.export import graphs, head
from dgemma.export.onnx import linear
from dgemma.export.onnx.head import Head
from dgemma.export.onnx.head_pieces import head_pieces
from dgemma.export.onnx.lower import IR_VERSION, OPSET, convert
from dgemma.export.onnx.pieces import Embed
from dgemma.export.onnx.wiring import Wiring, value_info
from dgemma.export.quiet import quiet
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import quantize
from dgemma.quantize.recipes import find
from dgemma.runtime.engines.sessions import open_session, session_options

N = micro.N
Decided = graphs.Sampled


def model(vocab_size: int, recipe: str) -> Denoiser:
    """A micro model of which the head alone is used, its table as ONNX graphs have it."""
    made = micro.model(replace(micro.CONFIG, vocab_size=vocab_size))
    linear.replace(made, {} if recipe == "fp32" else quantize(made, replace(find(recipe), group=16)))
    return made


def rows(seed: int, scale: float = 1.0) -> Tensor:
    """Last hidden states [1, N, D]."""
    return torch.randn(1, N, micro.CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed)) * scale


def naive(model: Denoiser, policy: SamplerConfig, hidden: Tensor, words: Tensor, temperature: Tensor) -> Decided:
    """With all logits."""
    return graphs.sample(model, policy, model.head(hidden), words, temperature)


def eager(model: Denoiser, policy: SamplerConfig, hidden: Tensor, words: Tensor, temperature: Tensor) -> Decided:
    """Tile by tile."""
    table, spans = head.stored(model), head.tiles(model.config.vocab_size)
    read, inverse = head.read_rows(model, hidden)
    before, total = torch.full((1, 1, 1), head.BEFORE), hidden
    found = []
    for start, end in spans:
        first = torch.tensor([start])
        weight, scale = _slice(model, start, end)
        tile = head.Tile(model, policy)(read, inverse, weight, scale, first, before, temperature)
        total = head.Absorb(model)(total, tile[1], before, tile[2], first)
        before = tile[2]
        found.append(tile)
    maxima, parts, *joined = (torch.cat([tile[i] for tile in found], -1) for i in (2, 3, 4, 5, 6, 7))
    argmax, entropy, sums, weight_sum, likeliest, log_probs, probabilities = head.Combine(policy, spans)(maxima, *joined)
    accepted, *drawn = head.Draw(policy)(words, entropy, sums)
    first, before_part = head.Part(spans)(parts, maxima, *drawn)
    if len(spans) == 1:
        inside = head.Pick()(found[0][1], first)
    else:
        position = head.Position(model, policy)
        each = zip(read[0], inverse[0], first[0], likeliest[0], probabilities[0], strict=True)
        inside = head.Weigh(model)(torch.stack([position(*one)[0] for one in each]), temperature, before)
    canvas, every = head.Choose(model.config.vocab_size)(inside, first, before_part, drawn[-1], words, accepted)
    soft = head.Likeliest(model)(likeliest, probabilities) if policy.top_k else head.Soft(model)(total, weight_sum)
    assert table.upright or table.names[0].endswith("int8")
    return canvas, argmax, entropy, accepted, soft, every, likeliest, log_probs


def _slice(model: Denoiser, start: int, end: int) -> tuple[Tensor, Tensor]:
    """The tile's part of what is stored."""
    embedding: Any = model.embed_tokens
    if isinstance(embedding, linear.FloatEmbedding):
        return embedding.weight[start:end], torch.ones(1)
    whole = embedding.table()
    return whole[start:end] if embedding.upright else whole[:, start:end], embedding.table.scale[start:end]


def session(model: Denoiser, policy: SamplerConfig) -> ort.InferenceSession:
    """The head alone as ONNX: rows, words, temperature → `denoise`'s outputs."""
    shapes = graphs.Shapes(canvas=N, chunk=N, context=64)
    embed = (Embed(model), [_spec("ids", "int64", 1, "M")], [_spec("embedded", "float32", 1, "M", micro.CONFIG.hidden_size)])
    with quiet():
        pieces = {"embed": embed, **head_pieces(model, policy)}
        parts = {name: ir.to_proto(convert(m.eval(), i, o, shapes)) for name, (m, i, o) in pieces.items()}
    wiring = Wiring(parts)
    wiring.piece("embed", {"ids": "ids"}, {"embedded": "embedded"})  # whose table the head has a part in
    wired = Head.of(wiring, model, policy)
    nodes = [*wired.walk("rows", "argmax"), *wired.decide({name: name for name in OUTPUTS if name != "argmax"})]
    rows = _spec("rows", "float32", 1, N, micro.CONFIG.hidden_size)
    given = [rows, _spec("words", "int64", 2, N), _spec("temperature", "float32", 1)]
    ids = ("next_canvas", "argmax", "drawn", "likeliest")
    kinds = {**dict.fromkeys(ids, TensorProto.INT64), "accepted": TensorProto.BOOL}
    out = [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in OUTPUTS]
    graph = helper.make_graph(
        [*wiring.expansions, *nodes], "head", [value_info(s) for s in given], out, list(wiring.initializers.values())
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(linear.MICROSOFT, 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return open_session(made.SerializeToString(), session_options(threads=1))


OUTPUTS = ("next_canvas", "argmax", "entropy", "accepted", "next_soft", "drawn", "likeliest", "log_probs")


def _spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)
