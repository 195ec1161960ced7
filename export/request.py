"""What is to be exported, checked from options and configs alone, and the weights and texts of its checkpoint.

A checkpoint is a float one, a quantized one (`dgemma quantize`), or a preset's shape with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dgemma.core.accelerators import CPU, QNN, Target
from dgemma.core.config import PRESETS, ModelConfig, check_random_weights
from dgemma.core.engines import engines_of
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import ChatTemplate
from dgemma.core.sampler import EXACT, MOST_K, TOP_K, SamplerConfig
from dgemma.core.shapes import parameter_count
from dgemma.export.chat import read_chat
from dgemma.export.graphs import Shapes
from dgemma.export.stages import QUANTIZE, Progress, Reached
from dgemma.export.tokenizer import CheckpointTokenizer, read_tokenizer
from dgemma.model import checkpoint as checkpoints
from dgemma.model import hf_config
from dgemma.model.denoiser import Denoiser
from dgemma.model.hub import name_of
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.read_checkpoint import is_quantized, open_quantized
from dgemma.quantize.recipes import CLASSES, Recipe, class_of, find, nearest
from dgemma.quantize.write_checkpoint import write_quantized

LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
DEFAULT_CONTEXT = 4096
LARGE = 2_000_000_000  # bytes of float32 weights above which a recipe is chosen that makes them fit
NO_WEIGHTS = "{!r} is a shape without weights; add --random-weights SEED or give a checkpoint folder"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A checkpoint's tokenizer and chat template, and in `notes` what of them a bundle lacks or reads otherwise."""

    tokenizer: CheckpointTokenizer
    chat: ChatTemplate | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A checked request; `folder` is None for a preset, and `defaulted` says that nobody named the recipe."""

    folder: Path | None
    config: ModelConfig
    sampler: SamplerConfig
    recipe: Recipe
    shapes: Shapes
    random_weights: int | None
    calibration: Path | None
    defaulted: bool = False
    target: Target = field(default_factory=lambda: Target(backend=CPU))

    @property
    def is_quantized(self) -> bool:
        """Whether the checkpoint holds integers already."""
        return self.folder is not None and is_quantized(self.folder)

    @cached_property
    def text(self) -> Text | None:
        """Tokenizer and chat template, where the checkpoint has them, read once; raises CheckpointError."""
        return None if self.folder is None else _read_text(self.folder, self.config)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model whose quantized parameters may be without data, its integers, and what a manifest says of both; `folder` is the
    quantized checkpoint that they are mapped from."""

    folder: Path | None
    model: Denoiser
    quantized: Mapping[str, QuantizedMatrix]
    quantization: dict[str, Any]
    provenance: dict[str, Any]


def check(
    checkpoint: Path | str,
    *,
    engines: Sequence[str],
    recipe: str | None = None,
    steps: int | None = None,
    canvas: int | None = None,
    context: int | None = None,
    random_weights: int | None = None,
    calibration: Path | None = None,
    soft: str | None = None,
    target: str = CPU,
) -> ExportRequest:
    """All that can be wrong with options and configs; raises UsageError or CheckpointError before any weight is read."""
    check_random_weights(random_weights)
    config, sampler, folder = hf_config.find_config(checkpoint)
    if folder is None and random_weights is None:
        raise UsageError(NO_WEIGHTS.format(checkpoint))
    wanted = Target.parse(target)
    default = default_recipe(config, accelerated=wanted.backend == QNN)
    chosen = _recipe(folder, recipe, default, random_weights, calibration)
    if steps is not None:
        try:
            sampler = replace(sampler, steps=steps)
        except UsageError:
            raise UsageError(f"--steps {steps} must be between 1 and 4096") from None
    if soft is not None:
        try:
            sampler = replace(sampler, soft=soft)
        except UsageError:
            raise UsageError(f"--soft {soft!r} must be {EXACT}, or {TOP_K}K with K between 1 and {MOST_K}") from None
    for engine in engines:
        engines_of(engine)
    chosen.check(engines, config)
    if wanted.backend == QNN:
        from dgemma.export.qnn import checks

        checks.check(chosen, config, engines)
    elif wanted.backend != CPU:
        from dgemma.export.delegates.checks import check as check_target

        check_target(wanted.backend, chosen, config, engines)
    elif chosen.activations == 16:
        raise UsageError(
            f"--recipe {chosen.name}: 16-bit activations are for accelerators; add --target {QNN}:CHIP, or use --recipe "
            f"{nearest(chosen, engines[0])}"
        )
    return ExportRequest(
        folder=folder,
        config=config,
        sampler=sampler,
        recipe=chosen,
        shapes=lengths(config, canvas, context),
        random_weights=random_weights,
        calibration=calibration,
        defaulted=recipe is None,
        target=wanted,
    )


def default_recipe(config: ModelConfig, *, accelerated: bool = False) -> str:
    """What an export takes where no recipe is named: float32 for small models, and what fits into a laptop for large ones."""
    if 4 * parameter_count(config) <= LARGE:
        return "fp32"
    return "w4a16-mixed" if accelerated else "w4-mixed"


def _recipe(
    folder: Path | None, name: str | None, default: str, random_weights: int | None, calibration: Path | None
) -> Recipe:
    """The recipe asked for, or that of a quantized checkpoint, or the default."""
    if folder is None or not is_quantized(folder):
        return find(name or default)
    made = open_quantized(folder, check_files=False).recipe
    if name is not None and find(name) != made:
        raise UsageError(
            f"--recipe {name}: {folder} was quantized with {made.name!r}; leave the option out, or give the float checkpoint"
        )
    for option, value in (("--random-weights", random_weights), ("--calibration", calibration)):
        if value is not None:
            raise UsageError(f"{option}: {folder} is quantized already; leave the option out, or give the float checkpoint")
    return made


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


def read_weights(request: ExportRequest, scratch: Path, progress: Progress) -> Weights:
    """The weights; where the recipe quantizes, a quantized checkpoint is made at `scratch`, the caller's to remove."""
    if request.is_quantized or not request.recipe.quantizes:
        return open_weights(request, request.folder if request.is_quantized else None)
    write_quantized(
        request.folder or _preset(request.config),
        scratch,
        request.recipe,
        random_seed=request.random_weights,
        prompts=request.calibration,
        progress=lambda line: progress(_quantizing(line)),
    )
    return open_weights(request, scratch)


def open_weights(request: ExportRequest, quantized: Path | None) -> Weights:
    """Those of a quantized checkpoint, or of the float one that the request names."""
    if quantized is not None:
        store = open_quantized(quantized, check_files=request.is_quantized)
        described = store.description
        keys = ("bits", "parameters", "bits_per_weight", "activations", "calibration")
        provenance = {**described["source"], "quantized": described["digest"]}
        return Weights(
            folder=quantized,
            model=store.model(),
            quantized=store.matrices,
            quantization={"recipe": described["recipe"]["name"], **{key: described[key] for key in keys}},
            provenance=_licensed(request.folder, provenance),
        )
    model, provenance = _float_weights(request)
    parameters = sum(p.numel() for p in model.parameters())
    present = {class_of(name) for name, _ in model.named_parameters()}
    quantization = {
        "recipe": request.recipe.name,
        "bits": {c: 32 for c in CLASSES if c in present},
        "parameters": parameters,
        "bits_per_weight": 32.0,
        "activations": "float32",
        "calibration": None,
    }
    return Weights(
        folder=None, model=model, quantized={}, quantization=quantization, provenance=_licensed(request.folder, provenance)
    )


def _quantizing(line: str) -> Reached:
    """What quantizing says of its parts, as `3 of 8  layers.1`."""
    number, of, rest = line.partition(" of ")
    total = rest.partition(" ")[0]
    share = int(number) / int(total) if of and number.isdecimal() and total.isdecimal() else 0.0
    return Reached(QUANTIZE, line, share)


def _preset(config: ModelConfig) -> str:
    return next(name for name, other in PRESETS.items() if other is config)


def _float_weights(request: ExportRequest) -> tuple[Denoiser, dict[str, Any]]:
    folder, seed = request.folder, request.random_weights
    if seed is not None:
        shape = _preset(request.config) if folder is None else name_of(folder)
        return checkpoints.random_weights(request.config, seed), {"shape_of": shape, "random_weights": seed}
    assert folder is not None
    loaded = checkpoints.load(folder)
    return loaded.model, {"name": name_of(folder), "files": loaded.files(), "skipped_tensors": loaded.skipped}


def _licensed(folder: Path | None, provenance: dict[str, Any]) -> dict[str, Any]:
    """With the first line of the checkpoint's licence, unless the weights are random."""
    if folder is None or "random_weights" in provenance:
        return provenance
    licence = next((name for name in LICENSES if (folder / name).is_file()), None)
    lines = (folder / licence).read_text(encoding="utf-8", errors="replace").split("\n") if licence else []
    return {**provenance, "licence": next((line.strip() for line in lines if line.strip()), None)}


def notes(request: ExportRequest) -> tuple[str, ...]:
    """Choices made for the caller, what the checkpoint folder lacks and what of it is ignored, one line each.

    Raises:
        CheckpointError: the folder's weights or texts cannot be read.
    """
    chosen = _chosen(request)
    if request.folder is None:
        return chosen
    weights = () if request.is_quantized or request.random_weights is not None else checkpoints.notes(request.folder)
    text = request.text.notes if request.text else ()
    return (*chosen, *weights, *hf_config.notes(request.folder), *text)


def _chosen(request: ExportRequest) -> tuple[str, ...]:
    """The recipe, where nobody named one and the model is large."""
    size = 4 * parameter_count(request.config)
    if not request.defaulted or request.is_quantized or size <= LARGE:
        return ()
    return (f"recipe {request.recipe.name}, because float32 weights take {size / 1e9:.1f} GB; --recipe chooses another",)


def _read_text(folder: Path, config: ModelConfig) -> Text | None:
    found = read_tokenizer(folder)
    if found is None:
        return None
    size, most = found.spec.vocab_size, config.vocab_size
    if size > most:
        raise CheckpointError(f"{found.source}: has {size} pieces, but the model has only {most} ids; copy the right tokenizer")
    chat, said = read_chat(folder, config, found)
    return Text(tokenizer=found, chat=chat, notes=said)
