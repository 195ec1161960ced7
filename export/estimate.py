"""What an export will take, from the config alone: bytes of each engine's files, peak memory, operations, and time.

Sizes and operations are counted. Memory and time are models fitted to exports of `2b` and of two of its layers (torch 2.13,
executorch 1.5.1; seconds of one core of an AMD EPYC): they know the large terms, and nothing of the machine.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgemma.core.cost import CostModel, prefix_bytes
from dgemma.core.shapes import Shape, parameter_count, parameter_shapes
from dgemma.export.request import ExportRequest
from dgemma.quantize.recipes import file_bytes, stored_bytes

MB = 1e6
_IMPORTS = 650 * MB  # of torch and both exporters
_DISK = 200 * MB  # a second: what an ordinary laptop disk keeps up for large files
_SEARCH = 1.45  # memory of rounding a matrix, in sizes of its float32 form


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one request and its engines."""

    request: ExportRequest
    engines: Sequence[str]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Every parameter."""
        return parameter_shapes(self.request.config)

    @property
    def parameters(self) -> int:
        return parameter_count(self.request.config)

    @property
    def sizes(self) -> dict[str, int]:
        """Engine → bytes of its files."""
        return {engine: file_bytes(self.request.recipe, engine, self.request.config) for engine in self.engines}

    @property
    def disk(self) -> int:
        """Most bytes of files that lie there at once: the engines', and while they are made, the quantized weights too and a
        `.pte` twice, for it is rewritten."""
        again = self.sizes.get("executorch", 0)
        makes_store = self.request.recipe.quantizes and not self.request.is_quantized
        return sum(self.sizes.values()) + again + (max(self.sizes.values()) if makes_store else 0)

    @property
    def stages(self) -> dict[str, int]:
        """Stage → peak of resident memory in bytes, weights mapped from files included."""
        config, layers = self.request.config, self.request.config.num_layers
        quantizes = self.request.recipe.quantizes
        float_model = 0 if quantizes else 4 * self.parameters
        name = "embed_tokens.weight"
        table = stored_bytes(self.request.recipe, "onnx", name, self.shapes[name])
        found = {}
        if quantizes and not self.request.is_quantized:
            found["quantize"] = _IMPORTS + _SEARCH * 4 * max(map(math.prod, self.shapes.values()))
        if "onnx" in self.engines:  # matrices are transposed copies; graphs grow with their layers
            found["onnx"] = _IMPORTS + float_model + self.sizes["onnx"] + (185 + 19 * layers) * MB
        if "executorch" in self.engines:  # copies of the table while constants are collected; caches to trace `generate`
            caches = prefix_bytes(config, self.request.shapes.context)
            more = (70 + 30 * layers) * MB + 0.8 * caches
            found["executorch"] = _IMPORTS + float_model + self.sizes["executorch"] + 3.7 * table + more
        return {stage: int(size) for stage, size in found.items()}

    @property
    def peak(self) -> int:
        """Bytes."""
        return max(self.stages.values())

    @property
    def operations(self) -> dict[str, int]:
        """Operations of one call, a multiply-add being two: a denoising step and a chunk at full context, and one token."""
        shapes = self.request.shapes
        model = CostModel(config=self.request.config, bits={}, soft=self.request.sampler.soft, every_expert=True)
        calls = {
            "denoise": model.denoise(shapes.canvas, shapes.context - shapes.canvas),
            "encode": model.encode(shapes.chunk, shapes.context - shapes.chunk),
            "decode": model.decode(shapes.context - 1),
        }
        return {name: cost.operations for name, cost in calls.items()}

    @property
    def seconds(self) -> list[tuple[str, float]]:
        """Stages in order, by how their names begin, and about how long each takes."""
        layers, billions = self.request.config.num_layers, self.parameters / 1e9
        written = {engine: size / _DISK for engine, size in self.sizes.items()}
        read = max(written.values()) if self.request.is_quantized else 2 * self.parameters / _DISK  # checkpoints are bfloat16
        found = [("load", 3.0 + read)]
        if self.request.recipe.quantizes and not self.request.is_quantized:
            found.append(("quantize", 16 * billions))
        if "onnx" in self.engines:
            found += [("onnx: embed", 3), ("onnx: condition", 1), ("onnx: stack", 5 * layers)]
            found += [("onnx: graphs", 3 + 2 * billions + written["onnx"])]
            found += [("onnx", 12)]  # pieces of the head come before the graphs
        if "executorch" in self.engines:
            found += [("executorch: layers", 4 + 1.8 * layers), ("executorch: encode", 3 + 0.4 * layers)]
            found += [("executorch: denoise", 20 + 5.3 * layers)]  # two methods, of all positions and of some
            found += [("executorch: decode", 3 + 0.5 * layers), ("executorch: check", 3 + 0.8 * layers)]
            found += [("executorch: generate", 5 + 0.9 * layers)]
            found += [("executorch: write", 3 + 15 * billions + written["executorch"])]
        return found

    def lines(self, checkpoint: Path | str) -> list[str]:
        """The plan for people."""
        request, shapes = self.request, self.request.shapes
        kind = f", {request.config.num_experts} experts" if request.config.is_moe else ""
        took = sum(seconds for _, seconds in self.seconds)
        return [
            f"checkpoint  {checkpoint}: {self.parameters:,} parameters, {request.config.num_layers} layers{kind}",
            f"graphs      encode, denoise, denoise_active, generate, decode, check for {', '.join(self.engines)}",
            f"lengths     canvas {shapes.canvas}, chunk {shapes.chunk}, context {shapes.context}, "
            f"{request.sampler.steps} steps",
            f"weights     recipe {request.recipe.name}: "
            + ", ".join(f"{engine} {size / MB:.1f} MB" for engine, size in self.sizes.items()),
            f"memory      peak {self.peak / 1e9:.1f} GB ("
            + ", ".join(f"{stage} {size / 1e9:.1f}" for stage, size in self.stages.items()) + ")",
            "operations  " + ", ".join(f"{graph} {count / 1e9:.3g} G" for graph, count in self.operations.items())
            + " a call at full context",
            f"time        about {_time(took)} on an idle core",
        ]  # fmt: skip


class TimeLeft:
    """Adds to each stage's name how long the rest will take: the model's proportions at the pace seen so far.

    The time left never rises. Where the pace seen calls for more than was last shown, the line says so without a figure.
    """

    def __init__(self, estimate: Estimate, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._stages, self._say, self._clock = estimate.seconds, say, clock
        self._total = sum(seconds for _, seconds in self._stages)
        self._start = clock()
        self._shown = math.inf

    def __call__(self, stage: str) -> None:
        done = self.done(stage)
        elapsed = self._clock() - self._start
        pace = max(elapsed / done, 0.2) if done > 0.05 * self._total else 1.0
        left = (self._total - done) * pace
        if left > self._shown:
            self._say(f"{stage}, longer than planned")
            return
        self._shown = left
        self._say(f"{stage}, about {_time(left)} left" if left >= 1 else stage)

    def done(self, stage: str) -> float:
        """Seconds of the model that lie before a stage that starts, or before the next part of one that counts them."""
        before = 0.0
        for name, seconds in self._stages:
            if stage.startswith(name):
                part = re.search(r"(\d+) of (\d+)", stage)
                return before + (seconds * int(part[1]) / int(part[2]) if part else 0.0)
            before += seconds
        return self._total


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
