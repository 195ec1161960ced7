"""What compiling a model's contexts for an NPU takes: seconds, memory and bytes, from the shape alone, with random integers.

    python -m dgemma.benchmarks.studies.npu_compile 2b --chip SM8650 --work FOLDER --out FILE.json [--context N] [--only I …]

One context after the other, as `dgemma export --target qnn:CHIP` groups the graphs; ranges are made up, for they change neither
time nor size. A repeated call goes on with the contexts that FILE.json lacks. Contexts are deleted, but with --keep.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma.benchmarks import report
from dgemma.core import machine
from dgemma.core.accelerators import CHIPS
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.cost import FLOAT
from dgemma.core.errors import UsageError
from dgemma.core.shapes import Shape, parameter_shapes
from dgemma.export.onnx.weights import FILE, WeightFile
from dgemma.export.qnn import lower, parts
from dgemma.export.qnn.checks import PACKAGE
from dgemma.export.qnn.contexts import Context, Contexts
from dgemma.export.request import lengths
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import Recipe, find

_RANGE = 20.0


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Stands for a denoiser whose matrices are all quantized: of what is left, every value is one."""

    config: ModelConfig
    shapes: Mapping[str, Shape]

    def get_parameter(self, name: str) -> Tensor:
        return torch.ones(self.shapes[name])


def integers(recipe: Recipe, name: str, shape: Shape) -> QuantizedMatrix:
    """Random ones, with the scales of a recipe; 4-bit ones have a rotation only where the recipe has one."""
    make = torch.Generator().manual_seed(zlib.crc32(name.encode()))  # equal matrices would be stored once
    outputs, inputs = shape
    scale = torch.full((outputs,), 3e-4)
    if recipe.bits_of(name) == 8:
        return QuantizedMatrix(bits=8, integers=torch.randint(-127, 128, shape, dtype=torch.int8, generator=make), scale=scale)
    groups = (outputs, inputs // recipe.group_of(name, inputs))
    return QuantizedMatrix(
        bits=4,
        integers=torch.randint(-8, 8, shape, dtype=torch.int8, generator=make),
        scale=scale,
        multipliers=torch.randint(1, 16, groups, dtype=torch.int8, generator=make),
    )


def write(context: Context, contexts: Contexts, folder: Path) -> list[Any]:
    """The graphs of one context; returns what a manifest says of them."""
    shapes = parameter_shapes(contexts.config)
    layers = {piece.first: piece.last for piece in context.pieces if piece.part == "layers"}
    prefixes = [f"layers.{i}." for first, last in layers.items() for i in range(first, last)]
    prefixes += ["self_conditioning."] * any(piece.part == "condition" for piece in context.pieces)
    prefixes += ["embed_tokens."] * any(piece.part == "head" for piece in context.pieces)
    names = [name for name, shape in shapes.items() if len(shape) == 2 and name.startswith(tuple(prefixes))]
    if any(contexts.recipe.bits_of(name) == FLOAT for name in names):
        raise UsageError(f"--recipe {contexts.recipe.name}: leaves matrices in float; use w8a16 or w4a16-mixed")
    ends = {f"{name.removesuffix('.weight')}.{end}": _RANGE for name in names for end in ("in", "out")}
    with (folder / FILE).open("wb") as file:
        source = parts.Source(
            model=Shapes(config=contexts.config, shapes=shapes),  # type: ignore[arg-type]  # as much of one as is read
            quantized={name: integers(contexts.recipe, name, shapes[name]) for name in names},
            ranges=ends,
            weights=WeightFile(file),
        )
        return list(lower.written(source, context, contexts.sizes.local, folder))


def compile_one(context: Context, contexts: Contexts, chip: str, work: Path) -> dict[str, Any]:
    """Write, compile and measure one context below `work`, which is emptied first."""
    shutil.rmtree(work, ignore_errors=True)
    (work / lower.FOLDER).mkdir(parents=True)
    begun = time.monotonic()
    graphs = write(context, contexts, work / lower.FOLDER)
    written = time.monotonic()
    compiler = lower.Chip(name=chip, stage=work, kept=None)
    compiled = compiler.compile([graphs], 1, lambda *_: None)
    took = compiler.took[0]
    return {
        "first": context.pieces[0].name,
        "graphs": [{"name": Path(g.source or "").stem, **cost} for g, cost in zip(compiled, took, strict=True)],
        "seconds": {"graphs": written - begun, "compile": time.monotonic() - written},
        "processor_s": took[-1]["processor_s"],
        "peak_bytes": took[-1]["peak_bytes"],
        "bytes": (work / str(compiled[0].binary)).stat().st_size,
        "planned": {"processor_s": context.seconds, "peak_bytes": context.memory, "bytes": context.stored},
        "load_average": machine.load_average(),
    }


def earlier(out: Path | None, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Contexts that were measured with the same settings; raises UsageError for a file of others."""
    if out is None or not out.exists():
        return []
    values = json.loads(out.read_text(encoding="utf-8"))
    if any(values.get(key) != value for key, value in settings.items()):
        raise UsageError(f"--out {out}: holds figures of another model, recipe, context or compiler; remove it")
    found: list[dict[str, Any]] = values["contexts"]
    return found


def totals(measured: Sequence[Mapping[str, Any]], whole: Contexts) -> dict[str, Any]:
    """Of the contexts that were measured, and of all by the plan's shares."""
    seconds = sum(c["processor_s"] for c in measured)
    share = sum(c["planned"]["processor_s"] for c in measured) / whole.seconds
    return {
        "contexts": len(measured),
        "of": len(whole.all),
        "graphs": sum(len(c["graphs"]) for c in measured),
        "share_of_the_work": share,
        "processor_s": seconds,
        "whole_processor_s": seconds / share if share else None,
        "seconds": sum(c["seconds"]["compile"] for c in measured),
        "peak_bytes": max((c["peak_bytes"] for c in measured), default=0),
        "bytes": sum(c["bytes"] for c in measured),
        "largest_bytes": max((c["bytes"] for c in measured), default=0),
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.npu_compile", description="What contexts take.")
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--chip", choices=sorted(CHIPS), default="SM8650")
    parser.add_argument("--recipe", default="w4a16-mixed")
    parser.add_argument("--context", type=int)
    parser.add_argument("--only", type=int, nargs="+", metavar="I", help="only these contexts, counted from 0; default: all")
    parser.add_argument("--work", type=Path, required=True, help="a folder for graphs and contexts")
    parser.add_argument("--keep", action="store_true", help="leave every context there")
    parser.add_argument("--out", type=Path, help="JSON; a call goes on from one that is there")
    options = parser.parse_args(argv)
    report.check_out(options.out)
    options.work.mkdir(parents=True, exist_ok=True)
    config = PRESETS[options.preset]
    whole = Contexts(config=config, recipe=find(options.recipe), shapes=lengths(config, None, options.context))
    settings = {
        "benchmark": "npu_compile",
        "preset": options.preset,
        "recipe": options.recipe,
        "chip": options.chip,
        "context": whole.shapes.context,
        "versions": {PACKAGE: metadata.version(PACKAGE), "qairt": lower.qairt()},
    }
    measured = earlier(options.out, settings)
    known = {c["first"] for c in measured}
    for i, context in enumerate(whole.all):
        if context.pieces[0].name in known or (options.only and i not in options.only):
            continue
        place = options.work / (f"context-{i}" if options.keep else "context")
        measured.append(compile_one(context, whole, options.chip, place))
        print(json.dumps({key: measured[-1][key] for key in ("first", "processor_s", "peak_bytes", "bytes")}), flush=True)
        if options.out:
            values = {**settings, "totals": totals(measured, whole), "contexts": measured, "machine": machine.facts()}
            report.write_json(options.out, values)
    if not options.keep:
        shutil.rmtree(options.work / "context", ignore_errors=True)
    return 0


if __name__ == "__main__":
    report.main(run)
