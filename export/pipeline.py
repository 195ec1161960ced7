"""Export as named stages: load, quantize, lower for each engine, describe, rename into place.

A bundle is built in a temporary folder beside its destination, so a killed export leaves nothing that loads. It knows
nothing of running graphs: who calls it may hand in `finish`, which adds golden trajectories to the staged bundle.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import CheckpointError, ExportError, UsageError
from dgemma.core.manifest import ChatTemplate, GraphSpec, Manifest, TokenizerSpec, list_files, write_manifest
from dgemma.core.sampler import SamplerConfig
from dgemma.export.chat import chat_template, read_tokenizer
from dgemma.export.graphs import Shapes, specs
from dgemma.model import checkpoint as checkpoints
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import CLASSES, Recipe, class_of, find

ENGINES = ("onnx", "executorch")
LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
# What was tested; a reader with an older engine refuses the bundle.
LOWEST_VERSIONS = {"onnx": "1.32.0", "executorch": "1.5.1"}
TOOLS = {"onnx": ("torch", "onnx", "onnxscript", "onnxruntime"), "executorch": ("torch", "torchao", "executorch")}
DEFAULT_CONTEXT = 4096
NO_WEIGHTS = "{!r} is a shape without weights; add --random-weights SEED or give a checkpoint folder"
Progress = Callable[[str], None]


def engines_of(option: str) -> tuple[str, ...]:
    """`--engine onnx|executorch|all`; raises UsageError."""
    if option == "all":
        return ENGINES
    if option not in ENGINES:
        raise UsageError(f"--engine {option!r} is unknown; choose {', '.join(ENGINES)} or all")
    return (option,)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported, checked from the configs alone; `folder` is None for a preset."""

    folder: Path | None
    config: ModelConfig
    sampler: SamplerConfig
    recipe: Recipe
    shapes: Shapes
    random_weights: int | None


def check(
    checkpoint: Path | str, *, engines: Sequence[str], recipe: str, steps: int | None, canvas: int | None, context: int | None,
    random_weights: int | None,
) -> Request:  # fmt: skip
    """All that can be wrong with options and configs; raises UsageError or CheckpointError before any weight is read."""
    folder = None if str(checkpoint) in PRESETS and not Path(checkpoint).is_dir() else Path(checkpoint)
    chosen = find(recipe)
    if folder is None:
        if random_weights is None:
            raise UsageError(NO_WEIGHTS.format(checkpoint))
        config, sampler = PRESETS[str(checkpoint)], SamplerConfig()
    elif not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder; give one, or a preset: {', '.join(PRESETS)}")
    else:
        config, sampler = checkpoints.read_config(folder)
    if steps is not None:
        try:
            sampler = replace(sampler, steps=steps)
        except UsageError:
            raise UsageError(f"--steps {steps} must be between 1 and 4096") from None
    for engine in engines:
        engines_of(engine)
    chosen.check(tuple(engines), experts=config.is_moe)
    shapes = lengths(config, canvas, context)
    return Request(
        folder=folder, config=config, sampler=sampler, recipe=chosen, shapes=shapes, random_weights=random_weights
    )


def read_weights(request: Request) -> tuple[Denoiser, dict[str, Any]]:
    """The model and its provenance: a checkpoint's weights, or random ones of the same shape."""
    folder, seed = request.folder, request.random_weights
    if seed is not None:
        shape = next(name for name, c in PRESETS.items() if c is request.config) if folder is None else folder.resolve().name
        return checkpoints.random_weights(request.config, seed), {"shape_of": shape, "random_weights": seed}
    assert folder is not None
    loaded = checkpoints.load(folder)
    licence = next((name for name in LICENSES if (folder / name).is_file()), None)
    lines = (folder / licence).read_text(encoding="utf-8", errors="replace").split("\n") if licence else []
    title = next((line.strip() for line in lines if line.strip()), None)
    return loaded.model, {
        "name": folder.resolve().name, "files": loaded.files(), "licence": title, "skipped_tensors": loaded.skipped,
    }  # fmt: skip


def read_text(request: Request) -> tuple[TokenizerSpec | None, ChatTemplate | None]:
    """Tokenizer and chat template of the checkpoint, where it has them; raises CheckpointError."""
    found = read_tokenizer(request.folder) if request.folder else None
    if found is None or request.folder is None:
        return None, None
    spec, encode, piece = found
    if spec.vocab_size > request.config.vocab_size:
        where, most = request.folder / spec.file, request.config.vocab_size
        raise CheckpointError(f"{where}: has {spec.vocab_size} pieces but the model {most} ids; copy the right tokenizer")
    return spec, chat_template(request.folder, request.config, encode, piece)


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name in the end, or vanishes; raises ExportError."""
    stage = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield stage
        stage.chmod(0o755)
        stage.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(f"{out}: the disk is full; free space and export again") from None
        raise ExportError(f"{out}: cannot be written ({error.strerror or error}); see its folder's permissions") from None
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def lengths(config: ModelConfig, canvas: int | None, context: int | None) -> Shapes:
    """Check --canvas and --context against the model; raises UsageError."""
    canvas = config.canvas_length if canvas is None else canvas
    context = min(config.max_position_embeddings, DEFAULT_CONTEXT) if context is None else context
    if canvas < 1:
        raise UsageError(f"--canvas {canvas} must be at least 1")
    if context <= canvas:
        raise UsageError(f"--context {context} must be larger than the canvas of {canvas} tokens")
    if context > config.max_position_embeddings:
        raise UsageError(f"--context {context} exceeds the model's {config.max_position_embeddings} positions")
    return Shapes(canvas=canvas, chunk=min(256, max(64, canvas), context), context=context)


def quantization(model: Denoiser, recipe: Recipe, quantized: dict[str, QuantizedMatrix]) -> dict[str, Any]:
    """Recipe, bits per tensor class, and the mean bits of a weight with its scales."""
    bits = parameters = 0
    present = set()
    for name, parameter in model.named_parameters():
        parameters += parameter.numel()
        present.add(class_of(name))
        matrix = quantized.get(name)
        bits += 32 * parameter.numel() if matrix is None else 8 * matrix.integers.numel() + 32 * matrix.scale.numel()
    return {
        "recipe": recipe.name, "bits": {c: recipe.bits[c] for c in CLASSES if c in present}, "parameters": parameters,
        "bits_per_weight": round(bits / parameters, 4),
        "activations": "dynamic int8 per token" if recipe.quantizes else "float32",
    }  # fmt: skip


def lower(
    engine: str, model: Denoiser, quantized: dict[str, QuantizedMatrix], sampler: SamplerConfig, shapes: Shapes, stage: Path,
    progress: Progress,
) -> tuple[dict[str, GraphSpec], dict[str, Any]]:  # fmt: skip
    """Write one engine's files below `stage`; returns its graphs and what lowering reports."""
    wanted = specs(model.config, shapes, sampler.steps)
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
            inputs = [replace(t, shape=tuple(shapes.context if d == "S" else d for d in t.shape)) for t in inputs]
        graphs[name] = GraphSpec(file="executorch/model.pte", method=name, inputs=tuple(inputs), outputs=tuple(outputs))
    return graphs, {"operations": report}


def export_bundle(
    checkpoint: Path | str,
    out: Path | str,
    *,
    engines: Sequence[str] = ENGINES,
    recipe: str = "fp32",
    steps: int | None = None,
    canvas: int | None = None,
    context: int | None = None,
    random_weights: int | None = None,
    progress: Progress | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Write a bundle at `out`, which must not exist.

    Args:
        steps, canvas, context: lengths in place of the checkpoint's.
        random_weights: seed; needed for presets, replaces a checkpoint's weights otherwise.
        progress: called with the name of each stage.
        finish: called with the staged, loadable bundle before it is sealed.
    Raises:
        UsageError, CheckpointError, ExportError: one line with the cure.
    """
    out, say = Path(out), progress or (lambda _: None)
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out}: exists already; choose another --out or remove it")
    if not out.parent.is_dir():
        raise ExportError(f"{out.parent}: no such folder to write into; make it first")
    request = check(
        checkpoint, engines=engines, recipe=recipe, steps=steps, canvas=canvas, context=context, random_weights=random_weights
    )
    tokenizer, chat = read_text(request)
    sampler, shapes = request.sampler, request.shapes
    say("load")
    model, provenance = read_weights(request)
    say("quantize")
    quantized = quantize(model, request.recipe)
    with staging(out) as stage:
        if tokenizer and request.folder:
            shutil.copyfile(request.folder / tokenizer.file, stage / tokenizer.file)
        graphs, reports = {}, {}
        for engine in engines:
            graphs[engine], reports[engine] = lower(engine, model, quantized, sampler, shapes, stage, say)
        tools = {name: version(name) for engine in engines for name in TOOLS[engine]}
        manifest = Manifest(
            engines={engine: LOWEST_VERSIONS[engine] for engine in engines}, model=request.config,
            tokenizer=tokenizer, chat=chat,
            canvas_length=shapes.canvas, steps=sampler.steps, context=shapes.context, chunk=shapes.chunk, sampler=sampler,
            noise={"generator": "threefry2x32", "rows": ["sample", "renoise"]},
            dims={"S": (1, shapes.context), "C": (1, shapes.chunk)}, graphs=graphs,
            quantization={**quantization(model, request.recipe, quantized), "lowering": reports},
            tools=dict(sorted(tools.items())), provenance=provenance,
        )  # fmt: skip
        seal(stage, manifest)
        if finish is not None:
            say("golden")
            finish(stage)
            seal(stage, manifest)
    return out


def seal(stage: Path, manifest: Manifest) -> None:
    """Write the manifest over all files that are there now."""
    write_manifest(stage, replace(manifest, files=list_files(stage)))


def plan(
    checkpoint: Path | str, *, engines: Sequence[str], recipe: str, steps: int | None, canvas: int | None, context: int | None,
    random_weights: int | None,
) -> list[str]:  # fmt: skip
    """What an export would do, from the configs alone; raises as `export_bundle` does for bad input."""
    request = check(
        checkpoint, engines=engines, recipe=recipe, steps=steps, canvas=canvas, context=context, random_weights=random_weights
    )
    config, sampler, chosen, shapes = request.config, request.sampler, request.recipe, request.shapes
    read_text(request)
    with torch.device("meta"):
        model = Denoiser(config)
    bits = {name: 32 if (c := class_of(name)) is None else chosen.bits[c] for name, _ in model.named_parameters()}
    size = sum(parameter.numel() * bits[name] for name, parameter in model.named_parameters()) // 8
    return [
        f"checkpoint  {checkpoint}: {sum(p.numel() for p in model.parameters()):,} parameters, {config.num_layers} layers",
        f"graphs      encode, denoise, generate, decode for {', '.join(engines)}",
        f"lengths     canvas {shapes.canvas}, chunk {shapes.chunk}, context {shapes.context}, {sampler.steps} steps",
        f"weights     recipe {chosen.name}: {size / 1e6:.1f} MB per engine",
    ]
