"""What a configuration costs where layers and head run on a neural processing unit, from published figures: a forecast.

The division of work is that of `dgemma export --target qnn` (docs/guides/accelerators.md): products, attention, norms and
gates on the NPU; the cap of the logits, the sampler and the exact soft embedding on the processor, with onnxruntime's
kernels. The logits pass between them. Its precision is 16 bits where a recipe has float32. What it does not know: whether a
recipe can be exported (fp32, w8a16 and w4a16-mixed can), how an NPU chooses experts (counted as if only the chosen ones were
computed), clocks that fall when a device gets warm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma.benchmarks.plan.predict import ROOM, Json, Prediction, Processor, Weights, Work, choose, digits, gb, on_processor
from dgemma.benchmarks.plan.profile import Kernels, Npu, Profile
from dgemma.core.config import ModelConfig
from dgemma.core.cost import FLOAT, Cost, CostModel
from dgemma.core.sampler import EXACT

NPU = "npu"
HALF = 16
CONTEXT = 1.95e9  # bytes of weights that one context holds (export/qnn)


def predict(profile: Profile, npu: Npu, weights: Weights, work: Work) -> Prediction:
    """One configuration."""
    c = work.config
    classes = CostModel(config=c, bits={}).denoise(1, 0).products
    bits = {name: min(weights.bits.get(name, FLOAT), HALF) for name in classes}
    # The head is one product there; a second one with the table, of exact soft embeddings, is the processor's.
    run = CostModel(config=c, bits=bits, soft="gathered")
    kernels = profile.engines.get("onnx") or next(iter(profile.engines.values()))
    on = Processor(
        name=NPU,
        run=run,
        least=run,
        seconds=lambda cost: on_npu(npu, cost) + on_cpu(kernels, cost, c, exact=work.soft == EXACT),
        floor=lambda cost: max(_arithmetic(npu, cost), cost.weight_bytes / npu.bytes_per_s),
        room=min(npu.memory_bytes, ROOM * profile.memory_bytes),
        bits=bits,
    )
    return on_processor(on, weights.recipe, run.weight_bytes(), work)


def on_npu(npu: Npu, cost: Cost) -> float:
    """Seconds of a call's products: the longer of arithmetic and reading weights, and the start of each context."""
    reading = cost.weight_bytes / npu.bytes_per_s
    return max(_arithmetic(npu, cost) / npu.share_products, reading) + npu.call_s * math.ceil(cost.weight_bytes / CONTEXT)


def on_cpu(k: Kernels, cost: Cost, config: ModelConfig, *, exact: bool) -> float:
    """Seconds of what follows on the processor: float32 logits are taken over, capped and, of a step, sampled from."""
    if (head := cost.products.get("embedding")) is None:
        return 0.0  # encoding ends with keys and values
    rows = head.operations // (2 * head.weights)
    logits = rows * config.vocab_size
    step = "self_conditioning" in cost.products
    seconds = (2 if step else 1) * logits / k.functions_per_s + 4 * logits / k.joined_bytes_per_s
    if step:
        seconds += k.sampler_s
        seconds += head.operations / (k.share_products * k.products.float32) if exact else 0.0
    return seconds


def _arithmetic(npu: Npu, cost: Cost) -> float:
    """Seconds at the peak; attention multiplies 16-bit values."""
    return sum(p.operations / npu.peak.rate(p.bits) for p in cost.products.values()) + cost.attention / npu.peak.float16


def joules(npu: Npu, found: Prediction) -> tuple[float, float, float] | None:
    """J for a token: diffusion at few and at many steps, autoregressive; None where no source tells the power."""
    if npu.watts is None:
        return None
    slow, fast = found.diffusion
    return npu.watts / fast, npu.watts / slow, npu.watts / found.autoregressive


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of a device's NPU.

    Args:
        found: a prediction for each recipe and canvas.
        chosen: of those that fit, as `predict.choose` says.
    """

    npu: Npu
    found: tuple[Prediction, ...]
    chosen: Prediction | None

    def sentence(self, work: Work) -> str:
        """What to expect of the chosen recipe, or that none fits."""
        if (p := self.chosen) is None:
            least = min(self.found, key=lambda q: q.resident)
            return (
                f"On its NPU, {self.npu.name}, nothing fits: {least.recipe} needs at least {gb(least.resident)}, and models of "
                f"{gb(self.npu.memory_bytes)} are the largest that are known to run there."
            )
        (few, many), (slow, fast) = work.steps, p.diffusion
        said = (
            f"On its NPU, {self.npu.name}, {p.recipe} is expected to give {digits(slow)} to {digits(fast)} tokens/s by "
            f"diffusion at {many:g} to {few:g} steps per canvas and {digits(p.autoregressive)} autoregressively; both are "
            f"equally fast at {p.break_even:.1f} steps"
        )
        if power := joules(self.npu, p):
            few_j, many_j, causal = (f"{one:.2g} J" if one >= 0.1 else f"{1e3 * one:.2g} mJ" for one in power)
            said += f". A token takes {few_j} to {many_j} by diffusion and {causal} autoregressively"
        return f"{said}. Nothing was measured on an NPU."

    def to_dict(self, work: Work) -> Json:
        """JSON types; joules_per_token are of diffusion at few and at many steps, and autoregressive."""

        def one(p: Prediction) -> Json:
            power = joules(self.npu, p)
            return {**p.to_dict(), "joules_per_token": list(power) if power else None}

        return {
            "name": self.npu.name,
            "predictions": [one(p) for p in self.found],
            "chosen": one(self.chosen) if self.chosen else None,
            "sentence": self.sentence(work),
        }


def forecast(profile: Profile, weights: Sequence[Weights], works: Sequence[Work]) -> Forecast | None:
    """None on a device without an NPU."""
    if profile.npu is None:
        return None
    found = tuple(predict(profile, profile.npu, w, work) for w in weights for work in works)
    return Forecast(npu=profile.npu, found=found, chosen=choose(found))
