"""The toy model of `fake_bundle` with `denoise_active`: a position becomes certain by how often it ran itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fake_bundle import MODEL_CONFIG, VOCAB, FakeEngine, N, graph_specs, spec, write_bundle

from dgemma.core.manifest import GraphSpec
from dgemma.core.noise import token_from_word
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Feeds
from dgemma.runtime.session import Session

DIMS = {"S": (1, 192), "L": (1, 192), "C": (1, 24), "A": (1, N)}


def active_spec(denoise: GraphSpec, encode: GraphSpec) -> GraphSpec:
    """The interface of `denoise_active`, from that of its neighbours."""

    def rows(tensors: Sequence[Any]) -> list[Any]:
        return [
            t if t.name.startswith("prefix") else replace(t, shape=tuple("A" if d in (N, "C") else d for d in t.shape))
            for t in tensors
        ]

    more = (spec("positions", "int64", 1, "A"), spec("settled", "bool", 1, N))
    file = denoise.file.replace("denoise", "denoise_active")
    return GraphSpec(file=file, inputs=(*rows(denoise.inputs), *more), outputs=tuple(rows([*denoise.outputs, *encode.outputs])))


def write_active_bundle(path: Path, **changes: Any) -> Path:
    graphs = graph_specs("onnx")
    graphs["denoise_active"] = active_spec(graphs["denoise"], graphs["encode"])
    return write_bundle(path, graphs={"onnx": graphs}, dims=DIMS, **changes)


class ActiveFake(FakeEngine):
    """What follows a prefix without a turn in it is always the same token, so that filler can be a prefix."""

    def following(self, ids: Sequence[int]) -> int:
        return super().following(ids) if 6 in ids else 300

    def _denoise_active(self, feeds: Feeds) -> list[Array]:
        rows, words = feeds["positions"][0], feeds["words"].astype(np.uint32)
        assert not feeds["settled"][0, rows].any(), "a position that runs is not committed"
        ids = self.prefix(feeds, int(feeds["prefix_length"][0]))
        target: list[int] = []
        while len(target) < N:
            target.append(self.following([*ids, *target]))
        sure = rows % 2 <= feeds["soft"][0, :, 0].astype(int)
        argmax, canvas = (np.where(sure, np.array(target)[rows], token_from_word(w, VOCAB)) for w in words)
        entropy = np.where(sure, np.float32(self.entropy_floor), feeds["temperature"]).astype(np.float32)
        new = [
            np.zeros((1, len(rows), MODEL_CONFIG.layer_kv_heads(layer), MODEL_CONFIG.layer_head_dim(layer)), np.float32)
            for layer in range(MODEL_CONFIG.num_layers)
            for _ in ("key", "value")
        ]
        return [canvas[None], argmax[None], entropy[None], sure[None], feeds["soft"] + np.float32(1), *new]


def active_session(path: Path, answer: Sequence[int] = (), **engine: Any) -> Session:
    """A session over a fresh bundle at `path`."""
    bundle = Bundle.open(write_active_bundle(path))
    return Session(bundle, ActiveFake(bundle, answer, **engine))
