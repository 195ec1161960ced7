"""What a denoising step must compute and read, counted by `core/cost.py`, and the time that a chip needs at least.

Only matrix products count. It knows nothing of compilers; `tests/parity/test_reference_compile.py` holds the count
against XLA's own of an unrolled step. N canvas, S prefix slots, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgemma.core.config import ModelConfig
from dgemma.core.cost import CostModel, prefix_values
from dgemma.reference.weights import parameters, shapes


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
    program = CostModel(config=config, bits={}, every_expert=True, slot_step=1).denoise(canvas, slots)
    chosen = CostModel(config=config, bits={}, slot_step=1).denoise(canvas, slots)
    table = config.vocab_size * config.hidden_size
    read = parameters(shapes(config, "bfloat16")) + table + prefix_values(config, slots)
    return StepCost(flops=program.operations, flops_chosen=chosen.operations, bytes=read * bytes_per_value)


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
    return Floor(compute=steps * cost.flops / (chips * chip.flops), memory=steps * cost.bytes / (chips * chip.bandwidth))
