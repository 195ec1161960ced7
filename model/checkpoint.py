"""Checkpoints in the Hugging Face layout: `.safetensors` to a `Denoiser` and back, and random weights for presets.

Weights are memory-mapped: parameters are views of the files wherever the dtype already fits. Shared text weights are
under `model.decoder.`; the encoder has only its layer scalars. transformers ties everything else and writes it once, so
a second copy under `model.encoder.language_model.` or `lm_head.` is a surplus tensor, which is an error. The vision
tensors of released checkpoints are skipped by name and counted. Configs are read by `hf_config.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser, rope_frequencies
from dgemma.model.hf_config import CONFIG, GENERATION, read_config, read_json, write_config

__all__ = [
    "Checkpoint", "MappedWeights", "RandomWeights", "assemble", "load", "random_weights", "read_config", "save", "tensor_names",
    "write_config",
]  # fmt: skip

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DECODER, _ENCODER = "model.decoder.", "model.encoder.language_model."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint; `model` is in eval mode without gradients, `skipped` counts vision tensors."""

    folder: Path
    config: ModelConfig
    sampler: SamplerConfig
    model: Denoiser
    skipped: int
    weight_files: tuple[str, ...]

    def files(self) -> dict[str, str]:
        """sha256 of every file that this checkpoint was read from, by name; reads them once more."""
        names = [CONFIG, GENERATION, INDEX, *self.weight_files]
        return {name: sha256_file(self.folder / name) for name in sorted(names) if (self.folder / name).is_file()}


def tensor_names(model: Denoiser) -> dict[str, str]:
    """Name in the checkpoint → name in the Denoiser's state, for all of its parameters and layer scalars."""
    names = {}
    for name in model.state_dict():
        stem, _, last = name.rpartition(".")
        if last == "encode_scalar":
            names[f"{_ENCODER}{stem}.layer_scalar"] = name
        elif last == "denoise_scalar":
            names[f"{_DECODER}{stem}.layer_scalar"] = name
        else:
            names[_DECODER + name] = name
    return names


def _meta_model(config: ModelConfig) -> Denoiser:
    with torch.device("meta"):
        return Denoiser(config)


def _finish(model: Denoiser) -> Denoiser:
    """Give a model that was built on the meta device its frequencies, which no checkpoint holds."""
    model.sliding_frequencies = rope_frequencies(model.config, full=False)
    model.full_frequencies = rope_frequencies(model.config, full=True)
    return model.requires_grad_(False).eval()


def _weight_files(folder: Path) -> dict[str, set[str] | None]:
    """Weight file name → the tensors that the index promises in it, or None where there is no index."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder}: has neither {WEIGHTS} nor {INDEX}; copy the checkpoint again")
        return {WEIGHTS: None}
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{index}: has no weight_map; copy the checkpoint again")
    files: dict[str, set[str] | None] = {}
    for tensor, name in mapping.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: tensor {tensor} is in {name!r}, which is no .safetensors file of this folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index}: names {name} for tensor {tensor}, which is missing; copy the checkpoint again")
        promised = files.setdefault(name, set())
        assert promised is not None
        promised.add(tensor)
    return files


def _tensors(path: Path, promised: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    """All text tensors of one file as views of its mapping, and the names alone (meta tensors) of vision tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            if promised is not None and held != promised:
                tensor = sorted(held ^ promised)[0]
                raise CheckpointError(f"{path}: tensor {tensor} is in the file or in {INDEX}, but not in both")
            for name in sorted(held):
                yield name, torch.empty(0, device="meta") if name.startswith(VISION) else file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is damaged or truncated ({reason}); copy the checkpoint again") from None


def _check(path: Path, name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise CheckpointError(f"{path}: tensor {name} has shape {list(tensor.shape)} instead of {list(shape)}; see {CONFIG}")
    if tensor.dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name} is {tensor.dtype}; only float32, bfloat16 and float16 are supported")
    if not is_finite(tensor):
        raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; copy or save the checkpoint again")


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; the extremes show it without a mask of the tensor's size."""
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def load(folder: Path | str, *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read a checkpoint folder into a Denoiser.

    Args:
        folder: holds `config.json`, perhaps `generation_config.json`, and one or many `.safetensors`.
        dtype: dtype of the weights; tensors that have it already stay mapped, others are converted one by one.
    Raises:
        CheckpointError: one line naming file and tensor or key.
    """
    folder = Path(folder)
    config, sampler = read_config(folder)
    model = _meta_model(config)
    names, expected = tensor_names(model), model.state_dict()
    state: dict[str, Tensor] = {}
    skipped = 0
    files = _weight_files(folder)
    for file, promised in sorted(files.items()):
        for name, tensor in _tensors(folder / file, promised):
            if name.startswith(VISION):
                skipped += 1
            elif (own := names.get(name)) is None:
                raise CheckpointError(f"{folder / file}: tensor {name} is surplus; {CONFIG} describes no such tensor")
            elif own in state:
                raise CheckpointError(f"{folder / file}: tensor {name} is in another file as well; copy the checkpoint again")
            else:
                _check(folder / file, name, tensor, expected[own].shape)
                state[own] = tensor.to(dtype)
    if missing := sorted(name for name, own in names.items() if own not in state):
        raise CheckpointError(f"{folder / min(files)}: tensor {missing[0]} is missing ({len(missing)} in all); see {CONFIG}")
    model.load_state_dict(state, assign=True)
    return Checkpoint(
        folder=folder, config=config, sampler=sampler, model=_finish(model), skipped=skipped, weight_files=tuple(sorted(files))
    )


def save(folder: Path | str, model: Denoiser, sampler: SamplerConfig, *, dtype: torch.dtype = torch.float32) -> None:
    """Write `model.safetensors` and both configs; the same weights give the same bytes.

    Raises:
        CheckpointError: the folder cannot be written, or a weight is NaN or infinite.
    """
    folder = Path(folder)
    state = model.state_dict()
    tensors = {name: state[own].detach().to(dtype).contiguous() for name, own in tensor_names(model).items()}
    if broken := sorted(name for name, tensor in tensors.items() if not is_finite(tensor)):
        raise CheckpointError(f"{folder / WEIGHTS}: tensor {broken[0]} holds NaN or infinity in {dtype}; nothing was written")
    partial = folder / (WEIGHTS + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, folder / WEIGHTS)
        write_config(folder, model.config, sampler, dtype=str(dtype).removeprefix("torch."))
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CheckpointError(f"{folder}: cannot be written ({error}); choose another folder or free some space") from None


def random_weights(config: ModelConfig, seed: int, *, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A model of a given shape with reproducible random weights: N(0, 0.02²) for matrices, 1 for norms and scalars.

    Every tensor has a generator of its own, seeded by `seed` and its name, and is filled in place: no second copy.
    """
    model = _meta_model(config).to(dtype).to_empty(device="cpu")
    for name, tensor in model.state_dict().items():
        _fill(tensor, name, seed)
    return _finish(model)


def _fill(tensor: Tensor, name: str, seed: int) -> Tensor:
    if tensor.ndim < 2:
        return tensor.fill_(1.0)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return tensor.normal_(0.0, 0.02, generator=generator)


def assemble(config: ModelConfig, state: Mapping[str, Tensor]) -> Denoiser:
    """A model of the given tensors, by their names in its state; those that are not given stay on the meta device."""
    model = _meta_model(config)
    model.load_state_dict(dict(state), strict=False, assign=True)
    return _finish(model)


class RandomWeights(Mapping[str, Tensor]):
    """The tensors of `random_weights` by their names in the Denoiser's state, each made when it is asked for."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.seed = seed
        self.shapes = {name: tensor.shape for name, tensor in _meta_model(config).state_dict().items()}

    def __getitem__(self, name: str) -> Tensor:
        return _fill(torch.empty(self.shapes[name]), name, self.seed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class MappedWeights(Mapping[str, Tensor]):
    """A checkpoint's tensors by their names in the Denoiser's state, each mapped and checked when it is asked for.

    A tensor's mapping ends with the tensor, so that going through all of them takes the memory of one.

    Raises:
        CheckpointError: as `load`; names are checked at once, shapes and values with each tensor.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config, self.sampler = read_config(self.folder)
        model = _meta_model(self.config)
        self.names = {own: name for name, own in tensor_names(model).items()}
        self.shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        self.files: dict[str, str] = {}  # tensor in the checkpoint → file
        known = set(self.names.values())
        for file, promised in sorted(_weight_files(self.folder).items()):
            for name in _names(self.folder / file, promised):
                if name in self.files:
                    raise CheckpointError(f"{self.folder / file}: tensor {name} is in another file as well; copy it again")
                if name not in known and not name.startswith(VISION):
                    raise CheckpointError(f"{self.folder / file}: tensor {name} is surplus; {CONFIG} describes no such tensor")
                self.files[name] = file
        if missing := sorted(known - set(self.files)):
            raise CheckpointError(f"{self.folder}: tensor {missing[0]} is missing ({len(missing)} in all); see {CONFIG}")

    def __getitem__(self, name: str) -> Tensor:
        stored = self.names[name]
        path = self.folder / self.files[stored]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: is damaged ({str(error).splitlines()[0]}); copy the checkpoint again") from None
        _check(path, stored, tensor, self.shapes[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def skipped(self) -> int:
        """Vision tensors."""
        return sum(name.startswith(VISION) for name in self.files)

    def sources(self) -> dict[str, str]:
        """sha256 of every file that this reads, by name."""
        names = {CONFIG, GENERATION, INDEX, *self.files.values()}
        return {name: sha256_file(self.folder / name) for name in sorted(names) if (self.folder / name).is_file()}


def _names(path: Path, promised: set[str] | None) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            held = sorted(file.keys())
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is damaged or truncated ({reason}); copy the checkpoint again") from None
    if promised is not None and set(held) != promised:
        tensor = sorted(set(held) ^ promised)[0]
        raise CheckpointError(f"{path}: tensor {tensor} is in the file or in {INDEX}, but not in both")
    return held
