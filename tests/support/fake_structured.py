"""The toy model of `fake_bundle` with the outputs that answers of a language need: what it would say is likeliest, others are
likely at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_active import DIMS, ActiveFake, active_spec
from fake_bundle import N, graph_specs, spec, write_bundle

from dgemma.core.manifest import GraphSpec
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds
from dgemma.runtime.session import Session

K = 20  # not N, which is another dimension
CANDIDATES = ("likeliest", "log_probs", "drawn")


def with_candidates(graph: GraphSpec) -> GraphSpec:
    """A graph with those outputs behind its `next_soft`."""
    names = [output.name for output in graph.outputs]
    if "likeliest" in names:
        return graph
    more = (spec("likeliest", "int64", 1, N, K), spec("log_probs", "float32", 1, N, K), spec("drawn", "int64", 1, N))
    at = names.index("next_soft") + 1
    return replace(graph, outputs=(*graph.outputs[:at], *more, *graph.outputs[at:]))


class StructuredFake(ActiveFake):
    """`wildness`: how likely what it would not say is beside what it would."""

    def __init__(
        self, bundle: Bundle, answer: Sequence[int] = (), *, wildness: float = 0.0, seed: int = 0, **others: Any
    ) -> None:
        super().__init__(bundle, answer, **others)
        self._wild, self._random = wildness, np.random.default_rng(seed)

    def _candidates(self, argmax: Array) -> list[Array]:
        rows, vocab = argmax.shape[1], self.bundle.manifest.model.vocab_size
        scores = self._random.gumbel(size=(rows, vocab)) * self._wild
        scores[np.arange(rows), argmax[0]] += 8
        log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        ids = np.argsort(-log_probs, 1)[:, :K]
        return [ids[None], np.take_along_axis(log_probs, ids, 1).astype(np.float32)[None], ids[None, :, 0]]

    def _denoise(self, feeds: Feeds) -> list[Array]:
        out = super()._denoise(feeds)
        return [*out, *self._candidates(out[1])]

    def _denoise_active(self, feeds: Feeds) -> list[Array]:
        out = super()._denoise_active(feeds)
        return [*out[:5], *self._candidates(out[1]), *out[5:]]


def structured_session(path: Path, answer: Sequence[int] = (), *, tokenizer: Any = "", **engine: Any) -> Session:
    """A session over a fresh bundle at `path`; tokenizer None: a bundle without one."""
    changes = {} if tokenizer == "" else {"tokenizer": tokenizer}
    graphs = graph_specs("onnx")
    graphs["denoise"] = with_candidates(graphs["denoise"])
    graphs["denoise_active"] = active_spec(graphs["denoise"], graphs["encode"])
    bundle = Bundle.open(write_bundle(path, graphs={"onnx": graphs}, dims=DIMS, **changes))
    return Session(bundle, StructuredFake(bundle, answer, **engine))
