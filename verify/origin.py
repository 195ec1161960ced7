"""The float model that a bundle came from: found, checked against the hashes in the manifest, and loaded.

Needs torch when a model is loaded, not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import Manifest, sha256_file

if TYPE_CHECKING:
    from dgemma.verify.eager import Eager

QUANTIZED = "quantization.json"  # in a folder that `dgemma quantize` wrote


def load(manifest: Manifest, given: str, *, force: bool) -> tuple[Eager, dict[str, Any]]:
    """The float model with the bundle's canvas and sampler, and what is to be remembered of it.

    Args:
        given: checkpoint folder; or, for a bundle of random weights, the preset that it was exported from.
        force: take another checkpoint than the bundle's as well.
    Returns:
        the model, and {"name", "files": file → sha256, "same": whether it is the bundle's own}.
    Raises:
        UsageError: another checkpoint, without `force`.
        CheckpointError: it is quantized, cannot be read, or describes another shape.
    """
    from dgemma.model import checkpoint
    from dgemma.verify.eager import Eager

    provenance = manifest.provenance
    if "random_weights" in provenance and given == provenance.get("shape_of"):
        model = checkpoint.random_weights(manifest.model, int(provenance["random_weights"]))
        facts = {"name": f"{given}, random weights, seed {provenance['random_weights']}", "files": {}, "same": True}
        return Eager(model, manifest.sampler, manifest.canvas_length), facts
    folder = Path(given)
    if not folder.is_dir():
        raise CheckpointError(f"{given}: no such folder; give the folder of the checkpoint that the bundle was made from")
    if (folder / QUANTIZED).exists():
        raise CheckpointError(f"{folder}: is a quantized checkpoint ({QUANTIZED}); give the float checkpoint it was made from")
    different = difference(manifest, folder)
    if different and not force:
        raise UsageError(f"--checkpoint {different}; give the bundle's own, or --force to compare anyway")
    loaded = checkpoint.load(folder)
    check_shape(manifest, loaded.config, folder)
    facts = {"name": folder.resolve().name, "files": loaded.files(), "same": different is None}
    return Eager(loaded.model, manifest.sampler, manifest.canvas_length), facts


def difference(manifest: Manifest, folder: Path) -> str | None:
    """The first file that is not what the bundle was made from, as "PATH is …"; None when all are."""
    files = manifest.provenance.get("files")
    if not isinstance(files, dict) or not files:
        return f"{folder} is not what the bundle was made from ({_source(manifest)})"
    for name, sha256 in sorted(files.items()):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            return f"{path} is missing, so this is not the checkpoint that the bundle was made from"
        if sha256_file(path) != sha256:
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
        "vocabulary": config.vocab_size, "hidden size": config.hidden_size, "number of layers": config.num_layers,
        "kv heads by layer": [config.layer_kv_heads(i) for i in layers],
        "head size by layer": [config.layer_head_dim(i) for i in layers],
    }  # fmt: skip


def _source(manifest: Manifest) -> str:
    if "random_weights" in manifest.provenance:
        return f"random weights of shape {manifest.provenance.get('shape_of')}, seed {manifest.provenance['random_weights']}"
    return "its manifest names no files"
