"""What an export will take, from the config alone: bytes of each engine's files, peak memory, operations, and time.

Sizes and operations are counted. Memory is a model fitted to exports of `2b` and of `26b-a4b`, whole and cut; time one fitted
to `tiny` and to a few layers with and without experts (torch 2.13, executorch 1.5.1; seconds of one core of an AMD EPYC 7003).
They know the large terms; the countdown adds the machine's pace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgemma.core.accelerators import QNN
from dgemma.core.cost import FLOAT, CostModel, prefix_bytes, step_bytes
from dgemma.core.memory import available
from dgemma.core.shapes import Shape, parameter_count, parameter_shapes
from dgemma.export.countdown import spoken
from dgemma.export.qnn.contexts import Contexts
from dgemma.export.request import ExportRequest
from dgemma.export.stages import EXECUTORCH, LOAD, ONNX, QUANTIZE, Stage
from dgemma.export.stages import QNN as QNN_STAGES
from dgemma.quantize.recipes import file_bytes, held_bytes, stored_bytes

MB = 1e6
_IMPORTS = 850 * MB  # of torch and both exporters
_RUNTIME = 120 * MB  # of Python and an engine, without a model
_DISK = 200 * MB  # a second, an assumption: what an ordinary laptop disk keeps up for large files
_ROUNDED = 3.5  # bytes for a value of what is rounded together, beside its float form: chunks, and all of them joined
_FLOPS = 40e9  # a second in torch on two cores, where weights of 8 and 4 bits are made float for every product
_WRITTEN = 1.85  # of a layer of experts as it is laid out: constants of a `.pte` are joined again where they are written


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
    def _experts(self) -> tuple[int, int]:
        """Values and stored bytes of a layer's quantized experts."""
        found = {name: shape for name, shape in self.shapes.items() if name.startswith("layers.0.experts.")}
        stored = sum(stored_bytes(self.request.recipe, "onnx", name, shape) for name, shape in found.items())
        return (sum(map(math.prod, found.values())), stored) if self._routes else (0, 0)

    @property
    def _routes(self) -> bool:
        """Whether experts are quantized, so that those that are chosen are computed, and written a layer at a time."""
        return self.request.config.is_moe and self.request.recipe.bits_of("layers.0.experts.down_proj") < FLOAT

    @cached_property
    def contexts(self) -> Contexts | None:
        """What is compiled for an NPU."""
        request = self.request
        if request.target.backend != QNN:
            return None
        return Contexts(config=request.config, recipe=request.recipe, shapes=request.shapes)

    @property
    def _table(self) -> int:
        """Bytes of the table of ids in a file."""
        name = "embed_tokens.weight"
        return stored_bytes(self.request.recipe, "onnx", name, self.shapes[name])

    @property
    def disk(self) -> int:
        """Most bytes of files that lie there at once: the engines', an NPU's graphs and contexts, and while they are made, the
        quantized weights too and the copies of the table that a `.pte` has until they are removed."""
        copies = 2 * self._table if "executorch" in self.engines else 0
        makes_store = self.request.recipe.quantizes and not self.request.is_quantized
        compiled = self.contexts.stored * (1 + len(self.request.target.chips)) if self.contexts else 0
        return sum(self.sizes.values()) + compiled + copies + (max(self.sizes.values()) if makes_store else 0)

    @property
    def stages(self) -> dict[str, int]:
        """Stage → peak of resident memory in bytes, weights mapped from files included."""
        config, layers = self.request.config, self.request.config.num_layers
        quantizes = self.request.recipe.quantizes
        float_model = 0 if quantizes else 4 * self.parameters
        values, stored = self._experts
        held = {engine: float_model + size - layers * stored for engine, size in self.sizes.items()}  # all else is in memory
        layer = values + 2 * stored  # of integers, what they are laid out to, and that joined
        found = {}
        if quantizes and not self.request.is_quantized:
            source = 4 if self.request.random_weights is not None else 2  # checkpoints are bfloat16
            largest = max(values, *map(math.prod, self.shapes.values()))  # a layer's experts are rounded together
            found["quantize"] = _IMPORTS + (source + _ROUNDED) * largest
        if "onnx" in self.engines:  # matrices are transposed copies; graphs grow with their layers
            found["onnx"] = _IMPORTS + held["onnx"] + layer + (185 + 19 * layers) * MB
        if "executorch" in self.engines:  # caches to trace `generate`
            caches = prefix_bytes(config, self.request.shapes.context)
            more = (70 + 30 * layers) * MB + 0.8 * caches
            if not quantizes:  # float experts are laid out again
                more += 4 * sum(math.prod(shape) for name, shape in self.shapes.items() if ".experts." in name)
            found["executorch"] = _IMPORTS + held["executorch"] + max(_WRITTEN * layer, 1.5 * self._table) + more
        if self.contexts:  # one compiler at least; or the generations for ranges, where matrices are float one by one
            ranges = (
                held["onnx"] + 8 * max(map(math.prod, self.shapes.values())) + prefix_bytes(config, self.request.shapes.canvas)
            )
            found["qnn"] = _IMPORTS + max(self.contexts.memory, ranges)
        return {stage: int(size) for stage, size in found.items()}

    @property
    def peak(self) -> int:
        """Bytes."""
        return max(self.stages.values())

    @property
    def together(self) -> int:
        """Bytes of engines that are lowered at the same time."""
        return sum(self.stages[engine] for engine in self.engines)

    @property
    def resident(self) -> dict[str, int]:
        """Engine → bytes that a program has in memory that runs the bundle: weights, keys and values of two canvases, and what
        a step needs."""
        config, canvas = self.request.config, self.request.shapes.canvas
        beside = _RUNTIME + prefix_bytes(config, min(self.request.shapes.context, 2 * canvas)) + step_bytes(config, canvas)
        return {engine: int(held_bytes(self.request.recipe, engine, config) + beside) for engine in self.engines}

    @property
    def operations(self) -> dict[str, int]:
        """Operations of one call, a multiply-add being two: a denoising step and a chunk at full context, and one token."""
        shapes = self.request.shapes
        model = CostModel(config=self.request.config, bits={}, soft=self.request.sampler.soft, every_expert=not self._routes)
        calls = {
            "denoise": model.denoise(shapes.canvas, shapes.context - shapes.canvas),
            "encode": model.encode(shapes.chunk, shapes.context - shapes.chunk),
            "decode": model.decode(shapes.context - 1),
        }
        return {name: cost.operations for name, cost in calls.items()}

    @property
    def _quantizing(self) -> float:
        """Seconds to make random weights and to round: by the bits, for scales of fewer are searched longer."""
        made = 4e-9 if self.request.random_weights is not None else 0.0
        each = {FLOAT: 0.0, 8: 22e-9, 4: 46e-9}
        return sum(math.prod(shape) * (made + each[self.request.recipe.bits_of(n)]) for n, shape in self.shapes.items())

    @property
    def plan(self) -> list[Stage]:
        """Stages in order."""
        layers, billions = self.request.config.num_layers, self.parameters / 1e9
        written = {engine: size / _DISK for engine, size in self.sizes.items()}
        read = max(written.values()) if self.request.is_quantized else 2 * self.parameters / _DISK  # checkpoints are bfloat16
        found = [Stage(name=LOAD, seconds=3.5 + read)]
        if self.request.recipe.quantizes and not self.request.is_quantized:
            found.append(Stage(name=QUANTIZE, seconds=self._quantizing))
        if "onnx" in self.engines:
            parts = {
                "embed": 4.5,
                "condition": 1.3,
                "stack": 3.2 * layers,
                "head": 14,
                "graphs": 4 + 2 * billions + written["onnx"],
            }
            found += [Stage(name=ONNX[part], seconds=seconds, engine="onnx") for part, seconds in parts.items()]
        if "executorch" in self.engines:
            parts = {
                "layers": 6 + 3.8 * layers,  # experts are three products or one operator, whatever their number
                "encode": 4 + 0.1 * layers,
                "denoise": 10 + 0.1 * layers,
                "denoise_guided": 10 + 0.1 * layers,
                "denoise_active": 16 + 0.1 * layers,
                "decode": 6 + 0.1 * layers,
                "check": 6 + 0.1 * layers,
                "generate": 17 + 0.1 * layers,
                "write": 11 + 15 * billions + written["executorch"],
            }
            found += [Stage(name=EXECUTORCH[part], seconds=seconds, engine="executorch") for part, seconds in parts.items()]
        if self.contexts:
            parts = {
                "ranges": self._recording,
                "graphs": 2 + 12 * billions + self.contexts.stored / _DISK,
                "compile": self.contexts.seconds * len(self.request.target.chips) / self.contexts.at_once(available()),
            }
            found += [Stage(name=QNN_STAGES[part], seconds=seconds, engine="onnx") for part, seconds in parts.items()]
        return found

    @property
    def _recording(self) -> float:
        """Seconds of generations for ranges: two steps of random weights, else four prompts of half of all steps."""
        steps = 2 if self.request.random_weights is not None else 2 * self.request.sampler.steps
        return 1 + steps * self.operations["denoise"] / _FLOPS

    def lines(self, checkpoint: Path | str) -> list[str]:
        """The plan for people."""
        request, shapes = self.request, self.request.shapes
        kind = f", {request.config.num_experts} experts" if request.config.is_moe else ""
        took = sum(stage.seconds for stage in self.plan)
        return [
            f"checkpoint  {checkpoint}: {self.parameters:,} parameters, {request.config.num_layers} layers{kind}",
            f"graphs      encode, denoise, denoise_guided, denoise_active, generate, decode, check for "
            f"{', '.join(self.engines)}",
            f"lengths     canvas {shapes.canvas}, chunk {shapes.chunk}, context {shapes.context}, "
            f"{request.sampler.steps} steps",
            f"weights     recipe {request.recipe.name}: "
            + ", ".join(f"{engine} {_size(size)}" for engine, size in self.sizes.items()),
            f"memory      peak {self.peak / 1e9:.1f} GB ("
            + ", ".join(f"{stage} {size / 1e9:.1f}" for stage, size in self.stages.items())
            + ")",
            "to run      "
            + ", ".join(f"{engine} {size / 1e9:.1f} GB" for engine, size in self.resident.items())
            + " of memory",
            "operations  "
            + ", ".join(f"{graph} {_count(count)}" for graph, count in self.operations.items())
            + " a call at full context",
            *self._npu,
            f"time        about {spoken(took)} on an idle core, if the disk takes {_DISK / MB:.0f} MB/s",
        ]

    @property
    def _npu(self) -> list[str]:
        """What an NPU's compiler has to do."""
        if self.contexts is None:
            return []
        found, several = self.contexts, self.contexts.at_once(available())
        return [
            f"npu         {found.graphs} graphs in {len(found.all)} contexts of {_size(found.stored)} for each of "
            f"{', '.join(self.request.target.chips)}: {spoken(found.seconds)} of processor time, {several} at a time, up "
            f"to {found.memory / 1e9:.1f} GB each"
        ]


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / MB:.1f} MB"


def _count(operations: float) -> str:
    return f"{operations / 1e12:.2f} T" if operations >= 1e12 else f"{operations / 1e9:.3g} G"
