"""Whether a bundle fits into this machine's free memory: checked before graphs are loaded, so that no OOM killer ends the run.

The need is a lower bound from the manifest (weights once, as the engine's kernels hold them), so nothing that would run is
refused. It knows nothing of what an engine packs twice. N canvas, D hidden, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dgemma.core.cost import CostModel, held_bits, prefix_bytes, step_bytes
from dgemma.core.errors import EngineError
from dgemma.core.manifest import Manifest
from dgemma.core.memory import SWITCH, available, is_checked


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that running a bundle takes at least: weights, keys and values of two canvases, activations of a step."""

    weights: int
    prefix: int
    transient: int

    @property
    def total(self) -> int:
        return self.weights + self.prefix + self.transient


def need(manifest: Manifest, engine: str) -> Need:
    """The bound for one engine: onnx multiplies 4-bit weights out to 8 bits, those of experts aside; executorch keeps them."""
    weights = sum(entry.size for name, entry in manifest.files.items() if name.startswith(f"{engine}/"))
    bits = manifest.quantization.get("bits_per_weight")
    n, model = manifest.canvas_length, manifest.model
    if engine == "onnx" and isinstance(bits, (int, float)) and bits < 8:
        held = held_bits(manifest.quantization, engine)
        spared = _experts(manifest) // 2 if held.get("experts") == 4 else 0
        weights = max(weights, int(manifest.quantization.get("parameters", 0)) - spared)
    return Need(weights=weights, prefix=prefix_bytes(model, min(manifest.context, 2 * n)), transient=step_bytes(model, n))


def check(manifest: Manifest, engine: str, where: str | os.PathLike[str]) -> None:
    """Raise EngineError when the bundle cannot fit, naming what is needed, what is free and what would fit."""
    free = available()
    if free is None or not is_checked():
        return
    least = need(manifest, engine)
    if least.total <= free:
        return
    raise EngineError(
        f"{os.fspath(where)}: needs at least {_gb(least.total)} of memory with {engine} (weights {_gb(least.weights)}, prefix "
        f"{_gb(least.prefix)}, a step {_gb(least.transient)}) and {_gb(free)} is free; {_fitting(manifest, engine, free)}close "
        f"other programs, or set {SWITCH}=0 to try anyway"
    )


def _fitting(manifest: Manifest, engine: str, free: int) -> str:
    """What would fit: the bundle's other engine, or a recipe of fewer bits, or else a machine with more memory."""
    for other in manifest.graphs:
        if other != engine and (least := need(manifest, other)).total <= free:
            return f"--engine {other} needs {_gb(least.total)} and would fit; "
    least = need(manifest, engine)
    parameters = int(manifest.quantization.get("parameters") or 0)
    fewest = parameters - _experts(manifest) // 2 if engine == "onnx" else parameters // 2  # bytes, at four bits
    left = free - least.prefix - least.transient
    if parameters and left >= fewest:
        return f"a recipe of at most {8 * left / parameters:.1f} bits per weight would fit; "
    return (
        f"no recipe would fit, but a machine with {_gb(fewest + least.prefix + least.transient)} free; " if parameters else ""
    )


def _experts(manifest: Manifest) -> int:
    """Weights of all experts."""
    found = CostModel(config=manifest.model, bits={}).stack(manifest.model.num_experts or 1)
    return found.get("experts", (0, 0))[1]


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
