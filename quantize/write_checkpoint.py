"""Writes quantized checkpoints, tensor by tensor from mapped weights, into a temporary folder that takes its name in the end.

The same checkpoint, recipe and calibration give the same bytes. See `read_checkpoint.py` for the form.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dgemma.core.config import ModelConfig, check_random_weights
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import digest, sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.core.staging import staging
from dgemma.model.checkpoint import MappedWeights, RandomWeights, is_finite, load, random_weights, write_config
from dgemma.model.hf_config import find_config
from dgemma.model.hub import name_of
from dgemma.quantize import calibration
from dgemma.quantize.integers import quantize_matrix
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.packing import pack
from dgemma.quantize.read_checkpoint import DESCRIPTION, FORMAT, SHARD_INDEX, is_quantized
from dgemma.quantize.recipes import CLASSES, Recipe, class_of
from dgemma.quantize.report import matrix_bits

CONFIGS = ("config.json", "generation_config.json")
COPIED = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "processor_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
    "NOTICE.txt",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"
Progress = Callable[[str], None]


def write_quantized(
    checkpoint: Path | str,
    out: Path | str,
    recipe: Recipe,
    *,
    random_seed: int | None = None,
    prompts: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantize a checkpoint folder, or a preset with random weights, into the new folder `out`.

    Args:
        random_seed: of random weights in place of the checkpoint's, the same as `model.checkpoint.random_weights`.
        prompts: calibration file for `gptq`; the float model is then loaded as a whole.
        progress: called with a line for each shard.
    Returns:
        what `quantization.json` holds.
    Raises:
        UsageError, CheckpointError: one line with the cure; nothing is left of `out`.
    """
    out, say = Path(out), progress or (lambda _: None)
    config, sampler, folder = _request(checkpoint, out, recipe, random_seed, prompts)
    recipe.check((), config)
    weights: MappedWeights | RandomWeights
    if random_seed is not None:
        weights = RandomWeights(config, random_seed)
        source: dict[str, Any] = {"shape_of": _shape_of(checkpoint), "random_weights": random_seed}
    else:
        weights = MappedWeights(folder or Path())
        source = {"name": name_of(weights.folder), "files": weights.sources(), "skipped_tensors": weights.skipped}
    hessians, calibrated = _calibrate(folder, config, sampler, random_seed, prompts, say)
    with staging(out, CheckpointError, "quantize") as stage:
        _copy(folder, stage, config, sampler)
        described = _write_shards(stage, weights, recipe, hessians, say)
        values = {
            "format": FORMAT,
            "recipe": recipe.to_dict(),
            **described,
            "activations": "dynamic int8 per token" if recipe.quantizes else "float32",
            "calibration": calibrated,
            "source": source,
            "files": {
                p.name: {"size": p.stat().st_size, "sha256": sha256_file(p)} for p in sorted(stage.iterdir()) if p.is_file()
            },
        }
        values["digest"] = digest(values)
        _write_json(stage / DESCRIPTION, values)
    return values


def _request(
    checkpoint: Path | str, out: Path, recipe: Recipe, random_seed: int | None, prompts: Path | None
) -> tuple[ModelConfig, SamplerConfig, Path | None]:
    """All that can be wrong before weights are read; the folder is None for a preset."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out}: exists already; choose another or remove it")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: its folder does not exist; make it first")
    check_random_weights(random_seed)
    if recipe.needs_calibration and prompts is None:
        raise UsageError(f"recipe {recipe.name!r} uses gptq, which needs calibration prompts; give --calibration FILE.jsonl")
    if prompts is not None and not recipe.takes_calibration:
        raise UsageError(f"--calibration {prompts}: recipe {recipe.name!r} does not use it; leave it out")
    config, sampler, folder = find_config(checkpoint)
    if folder is None:
        if random_seed is None:
            raise UsageError(f"{checkpoint!r} is a shape without weights; add --random-weights SEED or give a folder")
        return config, sampler, None
    if is_quantized(folder):
        raise CheckpointError(f"{folder}: is quantized already ({DESCRIPTION}); give the float checkpoint it was made from")
    return config, sampler, folder


def _shape_of(checkpoint: Path | str) -> str:
    return name_of(Path(checkpoint)) if Path(checkpoint).is_dir() else str(checkpoint)


def _calibrate(
    folder: Path | None, config: ModelConfig, sampler: SamplerConfig, seed: int | None, prompts: Path | None, say: Progress
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    if prompts is None:
        return {}, None
    ids = calibration.read_prompts(prompts, config.vocab_size)
    model = random_weights(config, seed) if seed is not None else load(folder or Path()).model
    return calibration.hessians(model, sampler, ids, progress=say), {"prompts": len(ids), "sha256": sha256_file(prompts)}


def _unit(name: str) -> str:
    """The shard that a tensor goes into: one a layer, and one for each part outside the layers."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def _write_shards(
    stage: Path, weights: MappedWeights | RandomWeights, recipe: Recipe, hessians: Mapping[str, Tensor], say: Progress
) -> dict[str, Any]:
    """All shards and their index; returns what there is to say of the matrices."""
    units: dict[str, list[str]] = {}
    for name in weights:
        units.setdefault(_unit(name), []).append(name)
    matrices: dict[str, dict[str, Any]] = {}
    where: dict[str, str] = {}
    bits = parameters = 0
    for number, (unit, names) in enumerate(units.items(), 1):
        tensors: dict[str, Tensor] = {}
        for name in names:
            weight = weights[name]
            matrix = quantize_matrix(name, weight, recipe, hessians.get(name))
            if not name.endswith("_scalar"):  # buffers are no parameters
                parameters += weight.numel()
                bits += 32 * weight.numel() if matrix is None else matrix_bits(matrix)
            if matrix is None:
                tensors[name] = _float(name, weight)
            else:
                tensors.update(_tensors(name, matrix))
                matrices[name] = _describe(matrix)
        file = f"quantized-{number:05}-of-{len(units):05}.safetensors"
        _save(tensors, stage / file)
        where.update(dict.fromkeys(tensors, file))
        say(f"{number} of {len(units)}  {unit}")
    _write_json(stage / SHARD_INDEX, {"weight_map": dict(sorted(where.items()))})
    classes = {class_of(name) for name in weights}
    return {
        "bits": {c: recipe.bits[c] for c in CLASSES if c in classes},
        "bits_per_weight": round(bits / parameters, 4),
        "parameters": parameters,
        "matrices": matrices,
    }


def _float(name: str, weight: Tensor) -> Tensor:
    made = weight.to(torch.float32).contiguous()
    if not is_finite(made):
        raise CheckpointError(f"tensor {name} holds NaN or infinity; copy or save the checkpoint again")
    return made


def _describe(matrix: QuantizedMatrix) -> dict[str, Any]:
    return {
        "bits": matrix.bits,
        "shape": list(matrix.integers.shape),
        "group": matrix.group,
        "rotation": matrix.rotation,
    }


def _tensors(name: str, matrix: QuantizedMatrix) -> dict[str, Tensor]:
    if matrix.multipliers is None:
        return {f"{name}.integers": matrix.integers.contiguous(), f"{name}.scale": matrix.scale}
    return {
        f"{name}.integers": pack(matrix.integers),
        f"{name}.scale": matrix.scale,
        f"{name}.multipliers": pack(matrix.multipliers),
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
        path.chmod(0o644)  # safetensors leaves it to the owner alone
    except SafetensorError as error:
        full = "No space left" in str(error) or f"os error {errno.ENOSPC}" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error).splitlines()[0]) from None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(folder: Path | None, stage: Path, config: ModelConfig, sampler: SamplerConfig) -> None:
    if folder is None:
        write_config(stage, config, sampler)
        return
    for name in (*CONFIGS, *COPIED):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, stage / name)
    for path in (folder / TEMPLATES).glob("*.jinja"):
        (stage / TEMPLATES).mkdir(exist_ok=True)
        shutil.copyfile(path, stage / TEMPLATES / path.name)
