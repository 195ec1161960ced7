"""Export as named stages: load, quantize, lower for each engine, describe, rename into place.

A bundle is built in a temporary folder beside its destination, so a killed export leaves nothing that can be loaded. It knows
nothing of running graphs: the caller may pass `finish`, which adds golden trajectories to the staged bundle.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dgemma.core.accelerators import CPU, QNN
from dgemma.core.engines import ENGINES
from dgemma.core.errors import ExportError
from dgemma.core.manifest import GraphSpec, Manifest, TargetSpec, list_files, write_manifest
from dgemma.core.staging import staging
from dgemma.export import room
from dgemma.export.estimate import Estimate
from dgemma.export.graphs import PREFIX_DIMS, specs
from dgemma.export.processes import Lowered, lower_all
from dgemma.export.request import ExportRequest, Weights, check, read_weights
from dgemma.export.stages import GOLDEN, LOAD, Progress, Reached

# What was tested; a reader with an older engine refuses the bundle.
# Of releases that were tried. onnxruntime 1.23.2 … 1.29.0 give the float tokens of 1.32; integers follow from float sums that
# 1.32 rounds otherwise, so a quantized bundle's near-ties fall otherwise there (and alike in all of the older ones).
LOWEST_VERSIONS = {"onnx": "1.23.2", "executorch": "1.5.1"}
TOOLS = {"onnx": ("torch", "onnx", "onnxscript", "onnxruntime"), "executorch": ("torch", "torchao", "executorch")}


def lower(engine: str, request: ExportRequest, weights: Weights, stage: Path, progress: Progress) -> Lowered:
    """Write one engine's files below `stage`; returns its graphs and what lowering reports."""
    sampler, shapes = request.sampler, request.shapes
    model, quantized = weights.model, weights.quantized
    wanted = specs(model.config, shapes, sampler)
    if engine == "onnx":
        from dgemma.export.onnx import lower as onnx

        files = onnx.lower(model, quantized, sampler, shapes, stage / "onnx", progress)
        graphs = {
            name: GraphSpec(file=f"onnx/{file}", inputs=tuple(wanted[name][0]), outputs=tuple(wanted[name][1]))
            for name, file in files.items()
        }
        return graphs, {}
    from dgemma.export.executorch import lower as executorch

    (stage / "executorch").mkdir()
    report = executorch.lower(model, quantized, sampler, shapes, stage / "executorch" / "model.pte", progress)
    graphs = {}
    for name, (inputs, outputs) in wanted.items():
        if name == "generate":  # its prefix is always the whole context
            inputs = [replace(t, shape=tuple(shapes.context if d in PREFIX_DIMS else d for d in t.shape)) for t in inputs]
        graphs[name] = GraphSpec(file="executorch/model.pte", method=name, inputs=tuple(inputs), outputs=tuple(outputs))
    return graphs, {"operations": report}


def export_bundle(
    checkpoint: Path | str,
    out: Path | str,
    *,
    engines: Sequence[str] = ENGINES,
    progress: Progress | None = None,
    finish: Callable[[Path], None] | None = None,
    **options: Any,
) -> Path:
    """`write_bundle` of a request that is checked here; `options` are recipe, steps, canvas, context, random_weights,
    calibration, soft, target, as in `request.check`. Raises UsageError, CheckpointError, ExportError: a line with the cure."""
    request = check(checkpoint, engines=engines, **options)
    return write_bundle(request, out, engines=engines, progress=progress, finish=finish)


def write_bundle(
    request: ExportRequest,
    out: Path | str,
    *,
    engines: Sequence[str] = ENGINES,
    progress: Progress | None = None,
    finish: Callable[[Path], None] | None = None,
    at_once: bool = False,
) -> Path:
    """Write a bundle at `out`, which must not exist.

    Args:
        progress: called as each stage begins, with what can be printed.
        finish: called with the staged, loadable bundle before it is sealed.
        at_once: lower the engines at the same time, in processes of their own; `room.at_once` tells whether they fit. Files
            are the same. The program's own module has to be importable without side effects, as for `multiprocessing`.
    Raises:
        CheckpointError, ExportError: one line with the cure.
    """
    out, say = Path(out), progress or (lambda _: None)
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out}: exists already; choose another --out or remove it")
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent}: no such folder to write into; make it first")
    room.check(Estimate(request=request, engines=engines), out)
    text, sampler, shapes = request.text, request.sampler, request.shapes
    kept = out.with_name(f"{out.name}.contexts")
    with staging(out, ExportError, "export") as stage:
        say(Reached(LOAD))
        scratch = stage / "quantized"
        weights = read_weights(request, scratch, say)
        if text:
            text.tokenizer.save(stage)
        lowered = lower_all(lower, engines, request, weights, stage, at_once=at_once, progress=say)
        graphs = {engine: found for engine, (found, _) in lowered.items()}
        reports = {engine: report for engine, (_, report) in lowered.items()}
        targets = _lower_target(request, weights, stage, say, kept)
        shutil.rmtree(scratch, ignore_errors=True)
        quantization = {**weights.quantization, "stored_bits_per_weight": _stored(stage, engines, weights)}
        tools = {name: version(name) for engine in engines for name in TOOLS[engine]}
        manifest = Manifest(
            engines={engine: LOWEST_VERSIONS[engine] for engine in engines},
            model=request.config,
            tokenizer=text.tokenizer.spec if text else None,
            chat=text.chat if text else None,
            canvas_length=shapes.canvas,
            steps=sampler.steps,
            context=shapes.context,
            chunk=shapes.chunk,
            sampler=sampler,
            noise={"generator": "threefry2x32", "rows": ["sample", "renoise"]},
            dims={
                **dict.fromkeys(PREFIX_DIMS, (1, shapes.context)),
                **dict.fromkeys(("C", "R"), (1, shapes.chunk)),
                "A": (1, shapes.canvas),
            },
            graphs=graphs,
            quantization={**quantization, "lowering": reports},
            tools=dict(sorted(tools.items())),
            provenance=weights.provenance,
            targets=targets,
        )
        manifest = seal(stage, manifest)
        if finish is not None:
            say(Reached(GOLDEN))
            finish(stage)
            seal(stage, manifest)
    shutil.rmtree(kept, ignore_errors=True)
    return out


def _lower_target(
    request: ExportRequest, weights: Weights, stage: Path, progress: Progress, kept: Path
) -> dict[str, TargetSpec]:
    """What an accelerator needs beside the graphs; nothing for a processor. `kept`: where what takes long survives an export
    that is ended."""
    if request.target.backend == CPU:
        return {}
    if request.target.backend == QNN:
        from dgemma.export.qnn.lower import lower as lower_qnn

        return lower_qnn(request, weights, stage, progress, kept)
    from dgemma.export.delegates.lower import lower as lower_delegate

    return lower_delegate(request, weights, stage, progress)


def _stored(stage: Path, engines: Sequence[str], weights: Weights) -> dict[str, float]:
    """Engine → bits of its files for each parameter, graphs and everything included."""
    sizes = {engine: sum(f.stat().st_size for f in (stage / engine).rglob("*") if f.is_file()) for engine in engines}
    return {engine: round(8 * size / weights.quantization["parameters"], 4) for engine, size in sizes.items()}


def seal(stage: Path, manifest: Manifest) -> Manifest:
    """Write the manifest over all files that are there now; those that it lists already are not hashed again."""
    manifest = replace(manifest, files=list_files(stage, manifest.files))
    write_manifest(stage, manifest)
    return manifest
