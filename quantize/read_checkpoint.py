"""The quantized checkpoint: one folder from which every engine's artifact is made.

`quantization.json` describes it; `.safetensors` shards, one a layer, hold integers (4-bit ones and multipliers two to a
byte), scales, and what stays in float32. Reading is lazy and memory-mapped; writing is in `write_checkpoint.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import digest, is_hub_link, sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import assemble, read_config
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.packing import unpack
from dgemma.quantize.recipes import Recipe, matrix_shapes

DESCRIPTION = "quantization.json"
SHARD_INDEX = "quantized.safetensors.index.json"
FORMAT = 1
AGAIN = "quantize the checkpoint again"
KEYS = (
    "format", "recipe", "bits", "bits_per_weight", "parameters", "activations", "calibration", "source", "matrices", "files",
    "digest",
)  # fmt: skip
MATRIX_KEYS = ("bits", "shape", "group", "rotation")
Value = TypeVar("Value")


def is_quantized(folder: Path | str) -> bool:
    """Whether a folder is a quantized checkpoint, or wants to be one."""
    return (Path(folder) / DESCRIPTION).exists()


class _Lazy(Mapping[str, Value]):
    """Values that are read when they are asked for, and not kept."""

    def __init__(self, names: list[str], read: Callable[[str], Value]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # a mapping's own would read the value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Matrices(_Lazy[QuantizedMatrix]):
    """With what describes them."""

    def __init__(self, described: Mapping[str, dict[str, Any]], read: Callable[[str], QuantizedMatrix]) -> None:
        super().__init__(list(described), read)
        self._described = described

    def outline(self, name: str) -> QuantizedMatrix:
        described = self._described[name]
        *rows, inputs = described["shape"]
        multipliers = None
        if described["group"] is not None:
            multipliers = torch.empty(*rows, inputs // described["group"], dtype=torch.int8, device="meta")
        return QuantizedMatrix(
            bits=described["bits"],
            integers=torch.empty(*rows, inputs, dtype=torch.int8, device="meta"),
            scale=torch.empty(rows, device="meta"),
            multipliers=multipliers,
            rotation=described["rotation"],
        )


def outline(matrices: Mapping[str, QuantizedMatrix], name: str) -> QuantizedMatrix:
    """A matrix on the meta device; of an open checkpoint's matrices nothing is read for it."""
    if isinstance(matrices, _Matrices):
        return matrices.outline(name)
    found = matrices[name]
    multipliers = None if found.multipliers is None else found.multipliers.to("meta")
    return replace(found, integers=found.integers.to("meta"), scale=found.scale.to("meta"), multipliers=multipliers)


@dataclass(frozen=True, kw_only=True)
class QuantizedCheckpoint:
    """An open quantized checkpoint.

    Args:
        matrices: parameter name → integers and scales, mapped and unpacked on access.
        floats: name in the Denoiser's state → float32 tensor, mapped on access.
        description: `quantization.json`.
    """

    folder: Path
    config: ModelConfig
    sampler: SamplerConfig
    recipe: Recipe
    matrices: Mapping[str, QuantizedMatrix]
    floats: Mapping[str, Tensor]
    description: dict[str, Any]

    def model(self) -> Denoiser:
        """A Denoiser of the float tensors; parameters that are in `matrices` stay on the meta device."""
        return assemble(self.config, self.floats)


def open_quantized(folder: Path | str, *, check_files: bool = True) -> QuantizedCheckpoint:
    """Open a quantized checkpoint.

    Args:
        check_files: compare every file's sha256; sizes and names are compared in any case.
    Raises:
        CheckpointError: one line that names the file and the cure.
    """
    folder = Path(folder)
    values = _read_description(folder)
    for name, entry in values["files"].items():
        _check_file(folder, name, entry, check_files)
    try:
        recipe = Recipe.from_dict(values["recipe"], str(folder / DESCRIPTION))
    except UsageError as error:
        raise CheckpointError(f"{error}; {AGAIN}") from None
    config, sampler = read_config(folder)
    where = _read_index(folder, set(values["files"]))
    described: dict[str, dict[str, Any]] = values["matrices"]
    parts = {name: [f"{name}.{part}" for part in _parts(d["bits"])] for name, d in described.items()}
    known = {tensor for tensors in parts.values() for tensor in tensors}
    floats = [tensor for tensor in where if tensor not in known]
    _check_names(folder, config, where, described, known, floats)

    def tensor(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        return _read(folder / where[name], name, dtype, shape)

    def matrix(name: str) -> QuantizedMatrix:
        return _matrix(name, described[name], tensor)

    shapes = {name: tuple(t.shape) for name, t in assemble(config, {}).state_dict().items()}
    return QuantizedCheckpoint(
        folder=folder,
        config=config,
        sampler=sampler,
        recipe=recipe,
        description=values,
        matrices=_Matrices(described, matrix),
        floats=_Lazy(floats, lambda name: tensor(name, torch.float32, shapes[name])),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: has no {DESCRIPTION}; make a quantized checkpoint with `dgemma quantize`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {AGAIN}") from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise CheckpointError(f"{path}: has no format number; {AGAIN}")
    if values["format"] > FORMAT:
        raise CheckpointError(f"{path}: format {values['format']} is newer than {FORMAT}; upgrade dgemma")
    if wrong := sorted(set(values) ^ set(KEYS)):
        raise CheckpointError(f"{path}: key {wrong[0]!r} is missing or unknown; {AGAIN}")
    if values["digest"] != digest(values):
        raise CheckpointError(f"{path}: was changed after it was written (digest differs); {AGAIN}")
    return values


def _check_file(folder: Path, name: str, entry: dict[str, Any], hashes: bool) -> None:
    path = folder / name
    if Path(name).name != name or (path.is_symlink() and not is_hub_link(folder, path)):
        raise CheckpointError(f"{folder / DESCRIPTION}: file {name!r} is not a plain file of this folder; copy it with cp -rL")
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; copy the checkpoint again, or {AGAIN}")
    if (size := path.stat().st_size) != entry["size"]:
        raise CheckpointError(f"{path}: has {size} bytes instead of {entry['size']}; copy the checkpoint again, or {AGAIN}")
    if hashes and sha256_file(path) != entry["sha256"]:
        raise CheckpointError(f"{path}: content differs from {DESCRIPTION} (sha256); copy the checkpoint again, or {AGAIN}")


def _read_index(folder: Path, files: set[str]) -> dict[str, str]:
    """Tensor → shard."""
    path = folder / SHARD_INDEX
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        where = {str(tensor): str(file) for tensor, file in mapping.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: has no weight_map; {AGAIN}") from None
    if unknown := sorted(set(where.values()) - files):
        raise CheckpointError(f"{path}: names {unknown[0]}, which {DESCRIPTION} does not list; {AGAIN}")
    return where


def _parts(bits: int) -> tuple[str, ...]:
    return ("integers", "scale", "multipliers") if bits == 4 else ("integers", "scale")


def _check_names(
    folder: Path,
    config: ModelConfig,
    where: Mapping[str, str],
    described: Mapping[str, dict[str, Any]],
    known: set[str],
    floats: list[str],
) -> None:
    """Every tensor of the model is there once, as integers or in float, with its shape; nothing else is."""
    shapes = matrix_shapes(config)
    for name, values in described.items():
        if set(values) != set(MATRIX_KEYS) or tuple(values["shape"]) != tuple(shapes.get(name, ())):
            raise CheckpointError(f"{folder / DESCRIPTION}: matrix {name} does not fit config.json; {AGAIN}")
    model = set(assemble(config, {}).state_dict())
    if missing := sorted((known - set(where)) | (model - set(described) - set(floats))):
        raise CheckpointError(f"{folder / SHARD_INDEX}: tensor {missing[0]} is missing; {AGAIN}")
    if surplus := sorted(set(floats) - (model - set(described))):
        raise CheckpointError(f"{folder / SHARD_INDEX}: tensor {surplus[0]} is unexpected; {AGAIN}")


def _read(path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged ({str(error).splitlines()[0]}); {AGAIN}") from None
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise CheckpointError(f"{path}: tensor {name} is {found} instead of {dtype} {list(shape)}; {AGAIN}")
    return tensor


def _matrix(
    name: str, described: dict[str, Any], tensor: Callable[[str, torch.dtype, tuple[int, ...]], Tensor]
) -> QuantizedMatrix:
    bits, rotation = described["bits"], described["rotation"]
    *rows, inputs = described["shape"]
    scale = tensor(f"{name}.scale", torch.float32, tuple(rows))
    if bits == 8:
        integers = tensor(f"{name}.integers", torch.int8, (*rows, inputs))
        return QuantizedMatrix(bits=8, integers=integers, scale=scale, rotation=rotation)
    groups = inputs // described["group"]
    packed = tensor(f"{name}.integers", torch.uint8, (*rows, -(-inputs // 2)))
    multipliers = tensor(f"{name}.multipliers", torch.uint8, (*rows, -(-groups // 2)))
    return QuantizedMatrix(
        bits=4,
        integers=unpack(packed, inputs, signed=True),
        scale=scale,
        multipliers=unpack(multipliers, groups, signed=False),
        rotation=rotation,
    )
