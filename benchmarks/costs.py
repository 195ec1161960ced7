"""The cost model that a speed benchmark is read against: operations and bytes of one call, and this machine's ceilings.

Dense models; routed experts count with the experts used per token. Norms, rotations and the sampler are left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from dgemma.core.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one engine call: floating-point operations (a multiply-add is two), and bytes of float32 weights read."""

    operations: int
    weight_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Measured with numpy in this process: float32 matrix product in operations/s, memory copy read in bytes/s."""

    operations_per_s: float
    bytes_per_s: float

    def seconds(self, cost: Cost) -> float:
        """The least that a call can take when arithmetic and weight reading overlap."""
        return max(cost.operations / self.operations_per_s, cost.weight_bytes / self.bytes_per_s)


def stack_weights(config: ModelConfig) -> int:
    """Weights of all layers that one token is multiplied with."""
    hidden, total = config.hidden_size, 0
    for layer in range(config.num_layers):
        head = config.layer_head_dim(layer)
        projections = 2 * config.num_heads + (1 if config.is_full(layer) else 2) * config.layer_kv_heads(layer)
        total += hidden * head * projections + 3 * hidden * config.intermediate_size
        if config.num_experts and config.top_k_experts and config.moe_intermediate_size:
            total += config.top_k_experts * 3 * hidden * config.moe_intermediate_size + hidden * config.num_experts
    return total


def attention(config: ModelConfig, rows: int, prefix: int) -> int:
    """Operations of scores and weighted values for `rows` new tokens over prefix and the rows themselves."""
    total = 0
    for layer in range(config.num_layers):
        seen = prefix if config.is_full(layer) else min(prefix, config.sliding_window - 1)
        total += 4 * rows * (seen + rows) * config.num_heads * config.layer_head_dim(layer)
    return total


def denoise(config: ModelConfig, canvas: int, prefix: int) -> Cost:
    """One denoising step over `canvas` positions: stack, self-conditioning, head, and the next soft embedding."""
    head = config.vocab_size * config.hidden_size
    conditioning = 3 * config.hidden_size * config.intermediate_size
    weights = stack_weights(config) + conditioning + head
    return Cost(
        operations=2 * canvas * (weights + head) + attention(config, canvas, prefix), weight_bytes=4 * weights
    )


def decode(config: ModelConfig, prefix: int) -> Cost:
    """One autoregressive token: stack and head."""
    weights = stack_weights(config) + config.vocab_size * config.hidden_size
    return Cost(operations=2 * weights + attention(config, 1, prefix), weight_bytes=4 * weights)


def ceilings(rows: int, hidden: int, width: int, seconds: float = 0.3) -> Ceilings:
    """Measure both for about `seconds` each: a [rows, hidden] × [hidden, width] product, and a copy of 64 MiB."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, hidden), dtype=np.float32)
    b = rng.standard_normal((hidden, width), dtype=np.float32)
    out = np.empty((rows, width), np.float32)
    source = np.ones(16 << 20, np.float32)
    target = np.empty_like(source)
    product = _best(lambda: np.matmul(a, b, out=out), seconds)
    copy = _best(lambda: np.copyto(target, source), seconds)
    return Ceilings(operations_per_s=2 * rows * hidden * width / product, bytes_per_s=source.nbytes / copy)


def _best(call: object, seconds: float) -> float:
    """Least duration of a call, repeated for `seconds`; a ceiling is a best case."""
    assert callable(call)
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
