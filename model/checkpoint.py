"""Checkpoints in the Hugging Face layout: `.safetensors` to a `Denoiser` and back, and random weights for presets.

Weights are memory-mapped: parameters are views of the files wherever the dtype already fits. Shared text weights are
under `model.decoder.`; the encoder has only its layer scalars. Which files and names are meant is in `weight_files.py`;
here tied copies are held to be equal to the last bit. Configs are read by `hf_config.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import sha256_file
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import Denoiser, rope_frequencies
from dgemma.model.hf_config import CONFIG, GENERATION, read_config, write_config
from dgemma.model.weight_files import DECODER, ENCODER, WEIGHTS, Stored, StoredTensors, differs, find_tensors

__all__ = [
    "Checkpoint", "MappedWeights", "RandomWeights", "assemble", "check_tensor", "load", "notes", "opened", "random_weights",
    "read_config", "save", "tensor_names", "write_config",
]  # fmt: skip

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint; `model` is in eval mode without gradients."""

    folder: Path
    config: ModelConfig
    sampler: SamplerConfig
    model: Denoiser
    stored: StoredTensors

    @property
    def skipped(self) -> int:
        """Vision tensors."""
        return self.stored.vision

    def files(self) -> dict[str, str]:
        """sha256 of every file that this checkpoint was read from, by name; reads them once more."""
        return _hashes(self.stored)


def _hashes(found: StoredTensors) -> dict[str, str]:
    index = [found.sources.index] if found.sources.index else []
    names = sorted({CONFIG, GENERATION, *index, *found.sources.files})
    return {name: sha256_file(found.folder / name) for name in names if (found.folder / name).is_file()}


def tensor_names(model: Denoiser) -> dict[str, str]:
    """Name in the checkpoint → name in the Denoiser's state, for all of its parameters and layer scalars."""
    names = {}
    for name in model.state_dict():
        stem, _, last = name.rpartition(".")
        if last == "encode_scalar":
            names[f"{ENCODER}{stem}.layer_scalar"] = name
        elif last == "denoise_scalar":
            names[f"{DECODER}{stem}.layer_scalar"] = name
        else:
            names[DECODER + name] = name
    return names


def _meta_model(config: ModelConfig) -> Denoiser:
    with torch.device("meta"):
        return Denoiser(config)


def _finish(model: Denoiser) -> Denoiser:
    """Give a model that was built on the meta device its frequencies, which no checkpoint holds."""
    model.sliding_frequencies = rope_frequencies(model.config, full=False)
    model.full_frequencies = rope_frequencies(model.config, full=True)
    return model.requires_grad_(False).eval()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A mapped weight file; what cannot be read of it is a CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is damaged or truncated ({reason}); copy the checkpoint again") from None


def _mapped(folder: Path, stored: Stored) -> Tensor:
    """A view of the tensor's file; the mapping ends with the view."""
    with opened(folder / stored.file) as file:
        tensor: Tensor = file.get_tensor(stored.name)
    return tensor


def _check_copies(found: StoredTensors, name: str) -> None:
    """Hold that tied copies have the very bits of their tensor; one pair is mapped at a time."""
    for copy in found.copies.get(name, ()):
        first, second = _mapped(found.folder, found.tensors[name]), _mapped(found.folder, copy)
        same = (first.dtype, first.shape) == (second.dtype, second.shape)
        if not same or not torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8)):
            raise differs(found.folder, found.tensors[name], copy)


def check_tensor(path: Path, name: str, tensor: Tensor, shape: torch.Size) -> None:
    """Hold that a tensor of a file has a shape, a type that is read, and finite values; raises CheckpointError."""
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
    found = find_tensors(folder, set(names))
    by_file: dict[str, list[str]] = {}
    for name, stored in sorted(found.tensors.items()):
        by_file.setdefault(stored.file, []).append(name)
    state: dict[str, Tensor] = {}
    for file_name, held in by_file.items():
        path = folder / file_name
        with opened(path) as file:
            for name in held:
                tensor = file.get_tensor(found.tensors[name].name)
                check_tensor(path, found.tensors[name].name, tensor, expected[names[name]].shape)
                state[names[name]] = tensor.to(dtype)
    for name in found.copies:
        _check_copies(found, name)
    model.load_state_dict(state, assign=True)
    return Checkpoint(folder=folder, config=config, sampler=sampler, model=_finish(model), stored=found)


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
        self.stored = find_tensors(self.folder, set(self.names.values()))

    def __getitem__(self, name: str) -> Tensor:
        stored = self.stored.tensors[self.names[name]]
        tensor = _mapped(self.folder, stored)
        check_tensor(self.folder / stored.file, stored.name, tensor, self.shapes[name])
        _check_copies(self.stored, self.names[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def skipped(self) -> int:
        """Vision tensors."""
        return self.stored.vision

    def sources(self) -> dict[str, str]:
        """sha256 of every file that this reads, by name."""
        return _hashes(self.stored)


def notes(folder: Path | str) -> tuple[str, ...]:
    """What of a folder's weights is left out or ignored, one line each, from names alone; raises CheckpointError as `load`."""
    folder = Path(folder)
    config, _ = read_config(folder)
    return find_tensors(folder, set(tensor_names(_meta_model(config)))).notes()
