"""What a denoising step must compute and read, counted from the config, and the time that a chip needs at least.

Only matrix products count. It knows nothing of compilers; `tests/parity/test_reference_compile.py` holds the count
against XLA's own of an unrolled step. N canvas, S prefix slots, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgemma.core.config import ModelConfig
from dgemma.reference.weights import KINDS, layer_tensors, layers_of, parameters, shapes


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Peak rates of one chip: FLOP/s in bfloat16, bytes/s of HBM, and bytes of HBM that programs may use."""

    name: str
    flops: float
    bandwidth: float
    memory: int


# Source: Jouppi et al., "TPU v4" (arXiv 2304.01433), table 4; usable memory is what libtpu enforces (32 GiB less its own).
V4 = Chip(name="TPU v4", flops=275e12, bandwidth=1.2e12, memory=int(30.75 * 2**30))


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One denoising step: FLOPs of the program, FLOPs with chosen experts only, bytes that must be read from memory."""

    flops: int
    flops_chosen: int
    bytes: int


def step_cost(config: ModelConfig, *, canvas: int, slots: int, bytes_per_value: int) -> StepCost:
    """Count one step: canvas N, prefix of S slots, weights and prefix read once, the embedding table twice (head and soft)."""
    n, d, f = canvas, config.hidden_size, config.intermediate_size
    table = config.vocab_size * d
    conditioning = 3 * d * f
    flops = 2 * n * (2 * table + conditioning)
    chosen, prefix = flops, 0
    for kind in KINDS:
        count = len(layers_of(config, kind))
        tensors = layer_tensors(config, kind)
        dense = sum(s[0] * s[1] for _, s in tensors.values() if len(s) == 2)
        expert = sum(s[0] * s[1] * s[2] for _, s in tensors.values() if len(s) == 3)
        head = config.global_head_dim if kind == "full" else config.head_dim
        kv_heads = config.global_num_kv_heads if kind == "full" else config.num_kv_heads
        attention = 2 * config.num_heads * head * (slots + n)  # scores and the mix of values
        share = (config.top_k_experts or 0) / (config.num_experts or 1)
        flops += count * 2 * n * (dense + attention + expert)
        chosen += count * 2 * n * (dense + attention + int(expert * share))
        prefix += count * 2 * slots * kv_heads * head
    read = parameters(shapes(config, "bfloat16")) + table + prefix
    return StepCost(flops=flops, flops_chosen=chosen, bytes=read * bytes_per_value)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds that T steps need at least: `compute` at peak FLOP/s, `memory` at peak bandwidth, and the larger of both."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory)


def floor(cost: StepCost, *, steps: int, chips: int, chip: Chip = V4) -> Floor:
    """The roofline's floor for T steps on `chips` chips that share all work and all bytes evenly."""
    return Floor(
        compute=steps * cost.flops / (chips * chip.flops), memory=steps * cost.bytes / (chips * chip.bandwidth)
    )  # fmt: skip
