"""Which files of a checkpoint folder hold its weights, and which of their tensors are the model's own.

The order of precedence and the ties are those of transformers 5.23 (`_get_resolved_checkpoint_files`,
`DiffusionGemmaModel._tied_weights_keys`). It reads names alone: values, and whether tied copies are equal, are for its callers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dgemma.core.errors import CheckpointError
from dgemma.model.hf_config import CONFIG, Json, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The first that is there is taken, as transformers does; the last two are refused.
PRECEDENCE = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
EXPLICIT = "transformers_weights"  # key of config.json: a file that comes before all of them
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")
DECODER, ENCODER = "model.decoder.", "model.encoder.language_model."
SAVE_AGAIN = "load it with transformers and `save_pretrained` into a new folder"
_BASE = ("decoder.", "encoder.")  # saved from the model below the head
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
_BUFFER = re.compile(r"(^|\.)rotary_emb\.(\w+_)?inv_freq$")  # made from config.json
_ADAPTER_PART = re.compile(r"\.(lora_|base_layer\.|modules_to_save\.)")


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """`files`: name → tensors that the index promises in it, None without an index; `ignored`: other weight files."""

    files: dict[str, frozenset[str] | None]
    index: str | None
    ignored: tuple[str, ...]

    def note(self) -> str | None:
        """What was taken and what was ignored, where something was."""
        if not self.ignored:
            return None
        taken = [self.index] if self.index else []
        return f"weights: {_listed([*taken, *self.files])}; ignored: {_listed(self.ignored)}"


def _listed(names: Iterable[str]) -> str:
    """Names in order, shards as a number."""
    kept = list(names)
    plain = [name for name in kept if not _SHARD.fullmatch(name)]
    shards = len(kept) - len(plain)
    return ", ".join([*plain, *([f"{shards} shard{'s' if shards > 1 else ''}"] if shards else [])])


def find_weights(folder: Path) -> WeightFiles:
    """The files that hold the weights of a folder; raises CheckpointError where there are none that can be read."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    for name in names:
        if _DISTRIBUTED.fullmatch(name):
            raise CheckpointError(
                f"{folder / name}: is a shard of a distributed checkpoint, which is not supported; {SAVE_AGAIN}"
            )
    explicit = read_json(folder / CONFIG).get(EXPLICIT)
    if explicit is not None and (not isinstance(explicit, str) or explicit not in names):
        raise CheckpointError(
            f"{folder / CONFIG}: {EXPLICIT} is {explicit!r}, which is not a file of this folder; copy it again"
        )
    taken = explicit or next((name for name in PRECEDENCE if name in names), None)
    if taken is None:
        raise CheckpointError(f"{folder}: has neither {WEIGHTS} nor {INDEX}; copy the checkpoint again")
    if not taken.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(f"{folder / taken}: is not a .safetensors file, and only those are read; {SAVE_AGAIN}")
    index = taken if taken.endswith(".index.json") else None
    files: dict[str, frozenset[str] | None] = {taken: None}
    if index:
        files = _promised(folder / index, names)
    others = [name for name in names if name.endswith(".safetensors") or name.startswith("pytorch_model") or name == INDEX]
    return WeightFiles(files=files, index=index, ignored=tuple(n for n in others if n not in files and n != index))


def promised_files(index: Path) -> set[str]:
    """Names of the files that an index speaks of; raises CheckpointError."""
    return {str(name) for name in _weight_map(index).values()}


def _weight_map(index: Path) -> Json:
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"{index}: has no weight_map; copy the checkpoint again")
    return mapping


def _promised(index: Path, present: list[str]) -> dict[str, frozenset[str] | None]:
    mapping = _weight_map(index)
    files: dict[str, set[str]] = {}
    for tensor, name in mapping.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: tensor {tensor} is in {name!r}, which is not a .safetensors file of this folder")
        if name not in present:
            raise CheckpointError(f"{index}: names {name} for tensor {tensor}, which is missing; copy the checkpoint again")
        files.setdefault(name, set()).add(tensor)
    return {name: frozenset(tensors) for name, tensors in sorted(files.items())}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor by its name in a file of the folder."""

    name: str
    file: str


@dataclass(frozen=True, kw_only=True)
class StoredTensors:
    """Where the model's tensors are.

    Args:
        tensors: name in the layout (`model.decoder.…`) → where it is; a file may spell the name otherwise.
        copies: name in the layout → other tensors that transformers ties to it; callers hold that they are equal.
        vision: tensors of the vision tower, which are left out.
        buffers: rotary frequencies, which are made from `config.json`.
    """

    folder: Path
    sources: WeightFiles
    tensors: dict[str, Stored]
    copies: dict[str, tuple[Stored, ...]]
    vision: int
    buffers: int

    def notes(self) -> tuple[str, ...]:
        """What is left out or ignored, one line each."""
        found = [line] if (line := self.sources.note()) else []
        copies = sorted(copy.name for group in self.copies.values() for copy in group)
        if copies:
            shown = copies[0] if len(copies) == 1 else f"{copies[0]}, …"
            found.append(f"weights: tied copies left out, which must be equal: {len(copies)} ({shown})")
        if self.buffers:
            found.append(f"weights: rotary buffers left out, recomputed from {CONFIG}: {self.buffers}")
        if self.vision:
            found.append(f"weights: vision tensors left out, since a bundle handles only text: {self.vision}")
        return tuple(found)


def in_layout(name: str) -> str:
    """A tensor's name with `model.` in front, which files saved from the model below the head leave out."""
    return f"model.{name}" if name.startswith(_BASE) else name


def tied_to(name: str) -> str | None:
    """The tensor that transformers ties a name of the layout to, if any."""
    if name == "lm_head.weight":
        return f"{DECODER}embed_tokens.weight"
    rest = name.removeprefix(ENCODER)
    if rest != name and not rest.endswith(".layer_scalar") and rest.startswith(("embed_tokens.", "norm.", "layers.")):
        return DECODER + rest
    return None


def find_tensors(folder: Path, known: set[str]) -> StoredTensors:
    """Find the tensors that a model has (`known`, by their names in the layout); raises CheckpointError.

    Where a tensor is not there but one that is tied to it is, that one is taken, as transformers does.
    """
    sources = find_weights(folder)
    seen: dict[str, str] = {}  # name in the layout → file
    found: dict[str, list[Stored]] = {}
    vision = buffers = 0
    for file, promised in sources.files.items():
        for stored in _names(folder / file, promised, sources.index):
            name = in_layout(stored)
            if name in seen:
                raise CheckpointError(f"{folder / file}: tensor {stored} is in {seen[name]} as well; copy the checkpoint again")
            seen[name] = file
            if name.startswith(VISION):
                vision += 1
            elif name in known:
                found.setdefault(name, []).insert(0, Stored(name=stored, file=file))
            elif (target := tied_to(name)) in known:
                found.setdefault(str(target), []).append(Stored(name=stored, file=file))
            elif _BUFFER.search(name):
                buffers += 1
            elif _ADAPTER_PART.search(name):
                raise CheckpointError(f"{folder / file}: tensor {stored} is an adapter's; merge it (PEFT: `merge_and_unload`)")
            else:
                raise CheckpointError(f"{folder / file}: tensor {stored} is unexpected; {CONFIG} does not describe it")
    if missing := sorted(known - set(found)):
        first = folder / min(sources.files)
        raise CheckpointError(f"{first}: tensor {missing[0]} is missing ({len(missing)} in all); see {CONFIG}")
    return StoredTensors(
        folder=folder,
        sources=sources,
        tensors={name: group[0] for name, group in found.items()},
        copies={name: tuple(group[1:]) for name, group in found.items() if len(group) > 1},
        vision=vision,
        buffers=buffers,
    )


def differs(folder: Path, tensor: Stored, copy: Stored) -> CheckpointError:
    """The error of a tied copy that is not equal to its tensor."""
    return CheckpointError(
        f"{folder / copy.file}: tensor {copy.name} differs from {tensor.name}, which it is tied to; {SAVE_AGAIN}, "
        "with the one that was trained in both places"
    )


def _names(path: Path, promised: frozenset[str] | None, index: str | None) -> list[str]:
    """All tensors of one file; those that an index promises must be among them."""
    try:
        with safe_open(path, framework="numpy") as file:
            held = sorted(file.keys())
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is damaged or truncated ({reason}); copy the checkpoint again") from None
    if lost := sorted((promised or frozenset()) - set(held)):
        raise CheckpointError(f"{path}: lacks tensor {lost[0]}, which {index} promises; copy the checkpoint again")
    return held
