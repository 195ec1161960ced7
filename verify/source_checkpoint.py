"""The float model that a bundle came from: found, checked against the hashes in the manifest, and loaded.

Needs torch when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import Manifest, sha256_file
from dgemma.verify.backend import Backend

if TYPE_CHECKING:
    from dgemma.verify.torch_backend import TorchBackend

QUANTIZED = "quantization.json"  # in a folder that `dgemma quantize` wrote


def load(manifest: Manifest, given: str, reference: str = "torch") -> tuple[Backend, dict[str, Any]]:
    """The float model with the bundle's canvas and sampler, and what is to be remembered of it.

    Args:
        given: checkpoint folder; or, for a bundle of random weights, the preset that it was exported from.
        reference: `torch`, or `tpu` for the JAX reference in bfloat16.
    Returns:
        the model, and the facts of `describe`.
    Raises:
        CheckpointError: it is quantized, cannot be read, or describes another shape.
        UsageError: random weights, which the JAX reference cannot make again.
    """
    facts = describe(manifest, given)
    if facts["folder"] is not None and reference == "tpu":
        from dgemma.verify.jax_backend import JaxBackend

        backend: Backend = JaxBackend(facts["folder"], "bfloat16", manifest)
    elif reference == "tpu":
        raise UsageError(f"--reference tpu: {facts['name']} can only be made by torch; use --reference torch")
    else:
        backend = load_torch(manifest, facts["folder"])
    return backend, {name: facts[name] for name in ("name", "files", "same")}


def load_torch(manifest: Manifest, folder: Path | None) -> TorchBackend:
    """The float model in eager PyTorch; None is the bundle's random weights."""
    from dgemma.model import checkpoint
    from dgemma.verify.torch_backend import TorchBackend

    if folder is not None:
        return TorchBackend(folder, manifest.sampler, manifest.canvas_length)
    model = checkpoint.random_weights(manifest.model, int(manifest.provenance["random_weights"]))
    return TorchBackend(model, manifest.sampler, manifest.canvas_length)


def describe(manifest: Manifest, given: str) -> dict[str, Any]:
    """What is given as the float model, checked without loading it; reads every file for its hash.

    Returns:
        "name"; "folder": None for random weights; "files": file → sha256; "same": whether it is the bundle's own; "difference":
        why not, in one line.
    Raises:
        CheckpointError: as `folder_of`.
    """
    from dgemma.model.hub import name_of

    folder = folder_of(manifest, given)
    if folder is None:
        name = f"{given}, random weights, seed {manifest.provenance['random_weights']}"
        return {"name": name, "folder": None, "files": {}, "same": True, "difference": None}
    files = {path.name: sha256_file(path) for path in sorted(folder.glob("*")) if path.suffix in (".json", ".safetensors")}
    why = difference(manifest, folder, files)
    return {"name": name_of(folder), "folder": folder, "files": files, "same": why is None, "difference": why}


def folder_of(manifest: Manifest, given: str) -> Path | None:
    """The checkpoint's folder, its shape checked; None for the bundle's own random weights.

    Raises:
        CheckpointError: it is quantized, cannot be read, or describes another shape.
    """
    from dgemma.model.hf_config import read_config
    from dgemma.model.hub import folder_of as find_folder

    if "random_weights" in manifest.provenance and given == manifest.provenance.get("shape_of"):
        return None
    folder = find_folder(given)
    if not folder.exists():
        raise CheckpointError(f"{given}: no such folder; give the folder of the checkpoint that the bundle was made from")
    if (folder / QUANTIZED).exists():
        raise CheckpointError(f"{folder}: is a quantized checkpoint ({QUANTIZED}); give the float checkpoint it was made from")
    check_shape(manifest, read_config(folder)[0], folder)
    return folder


def difference(manifest: Manifest, folder: Path, hashes: Mapping[str, str]) -> str | None:
    """The first file that is not what the bundle was made from, as "PATH is …"; None when all are.

    Args:
        hashes: file → sha256, of those that are known already.
    """
    files = manifest.provenance.get("files")
    if not isinstance(files, dict) or not files:
        return f"{folder} is not what the bundle was made from ({_source(manifest)})"
    for name, sha256 in sorted(files.items()):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return f"{path} is missing, so this is not the checkpoint that the bundle was made from"
        if (hashes.get(name) or sha256_file(path)) != sha256:
            return f"{path} is not the file that the bundle was made from (sha256 differs)"
    return None


def check_shape(manifest: Manifest, config: ModelConfig, folder: Path) -> None:
    """Raises CheckpointError when steps of the two models cannot be laid side by side."""
    wanted, held = _shape(manifest.model), _shape(config)
    if wrong := [name for name in wanted if wanted[name] != held[name]]:
        name = wrong[0]
        raise CheckpointError(f"{folder}: {name} is {held[name]}, not {wanted[name]}; give a checkpoint of the bundle's shape")


def _shape(config: ModelConfig) -> dict[str, Any]:
    layers = range(config.num_layers)
    return {
        "vocabulary": config.vocab_size,
        "hidden size": config.hidden_size,
        "number of layers": config.num_layers,
        "kv heads by layer": [config.layer_kv_heads(i) for i in layers],
        "head size by layer": [config.layer_head_dim(i) for i in layers],
    }


def _source(manifest: Manifest) -> str:
    if "random_weights" in manifest.provenance:
        return f"random weights of shape {manifest.provenance.get('shape_of')}, seed {manifest.provenance['random_weights']}"
    return "its manifest names no files"
