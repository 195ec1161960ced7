"""The micro model's graphs in eager PyTorch behind the interface of an engine: sessions over a real model without lowering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import micro
import torch
from fake_bundle import write_bundle

from dgemma.core.manifest import GraphSpec, TensorSpec
from dgemma.core.sampler import CANDIDATE_OUTPUTS, SamplerConfig
from dgemma.export import graphs
from dgemma.model.denoiser import Denoiser
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines.base import Array, Engine, Feeds
from dgemma.runtime.session import Session

NAMES = ("encode", "denoise", "denoise_active", "decode")


class EagerEngine(Engine):
    name: ClassVar[str] = "onnx"

    def __init__(self, bundle: Bundle, model: Denoiser) -> None:
        super().__init__(bundle, version="1.0")
        policy = bundle.manifest.sampler
        self._modules: dict[str, torch.nn.Module] = {
            "encode": graphs.Encode(model),
            "denoise": graphs.Denoise(model, policy),
            "denoise_active": graphs.DenoiseActive(model, policy),
            "decode": graphs.Decode(model),
        }

    def _load(self, graph: str, spec: GraphSpec) -> None:
        pass

    @torch.no_grad()
    def _call(self, graph: str, feeds: Feeds) -> Sequence[Array]:
        spec = self.bundle.graph(self.name, graph)
        given = [torch.from_numpy(feeds[t.name]) for t in spec.inputs]
        plain = sum(not t.name.startswith(("prefix_key", "prefix_value")) for t in spec.inputs)
        made = self._modules[graph](*given[:plain], given[plain:])
        policy, config = self.bundle.manifest.sampler, self.bundle.manifest.model
        names = [t.name for t in specs(policy, config.canvas_length)[graph][1]]
        found = dict(zip(names, (t.numpy() for t in made), strict=True))
        return [found[t.name] for t in spec.outputs]


def specs(policy: SamplerConfig, n: int) -> dict[str, tuple[list[TensorSpec], list[TensorSpec]]]:
    """As real bundles have them, but all layers have all slots."""
    made = graphs.specs(micro.CONFIG, graphs.Shapes(canvas=n, chunk=64, context=micro.CONTEXT), policy)

    def whole(listed: list[TensorSpec]) -> list[TensorSpec]:
        return [replace(t, shape=tuple("S" if d == "L" else d for d in t.shape)) for t in listed]

    return {name: (whole(inputs), whole(outputs)) for name, (inputs, outputs) in made.items()}


def eager_session(path: Path, policy: SamplerConfig = micro.POLICY, without: Sequence[str] = (), **changes: Any) -> Session:
    """A session over a fresh bundle at `path`, without those outputs, as older bundles are."""
    assert set(without) <= set(CANDIDATE_OUTPUTS)
    made = {
        name: GraphSpec(file=f"{name}.bin", inputs=tuple(inputs), outputs=tuple(t for t in outputs if t.name not in without))
        for name, (inputs, outputs) in specs(policy, micro.N).items()
        if name in NAMES
    }
    facts: dict[str, Any] = {
        "model": micro.CONFIG,
        "sampler": policy,
        "steps": policy.steps,
        "canvas_length": micro.N,
        "context": micro.CONTEXT,
        "chunk": 64,
        "tokenizer": None,
        "chat": None,
        "dims": {"S": (0, micro.CONTEXT), "C": (1, 64), "A": (1, micro.N)},
        "graphs": {"onnx": made},
    }
    bundle = Bundle.open(write_bundle(path, **{**facts, **changes}))
    return Session(bundle, EagerEngine(bundle, micro.model()))
