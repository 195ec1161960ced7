"""The bundle's manifest: its schema, its canonical bytes, and the checks before any file reaches an engine.

It knows nothing of engines' contents: a graph is a file with named tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import BundleError, CheckpointError, UsageError
from dgemma.core.roles import GEMMA, TRIMS, Roles
from dgemma.core.sampler import SamplerConfig
from dgemma.core.schema import UnknownKey, WrongKind, read_as
from dgemma.core.shipped import NAMES

FORMAT_VERSION = 2  # 2: the sampler has `soft`, without which a bundle's is exact
MANIFEST = "manifest.json"
UNHASHED = (MANIFEST, "verify.json")
_MOST_BYTES = 8 << 20
_MOST_DEPTH = 100  # containers inside one another
_MOST_VALUES = 1 << 18  # in one manifest, containers included
_NEVER_IN_NAMES = re.compile(r"[\\:\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output; `shape` holds integers, and names for dimensions that vary (their ranges: `Manifest.dims`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """Where one graph is and what goes in and out; `method` names it inside a file that holds several."""

    file: str
    method: str | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """`kind` is sentencepiece or tokenizers (Hugging Face `tokenizer.json`)."""

    file: str
    kind: str
    vocab_size: int


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """Ids around the turns of a chat, and what is done to the text between them, which cannot forge a turn.

    The text is trimmed, and encoded in one piece with `user_lead` before and `user_tail` after it. Fields that hold their
    default are left out of the manifest, so that bundles without them stay as they were.
    """

    start: tuple[int, ...]
    user_prefix: tuple[int, ...]
    user_suffix: tuple[int, ...]
    model_prefix: tuple[int, ...]
    model_suffix: tuple[int, ...]  # after the stop token of a finished answer
    user_lead: str = ""
    user_tail: str = ""
    trim: str = "none"  # a key of TRIMS
    roles: Roles | None = None  # where the template names other roles, thinking or tools


@dataclass(frozen=True, kw_only=True)
class StaticGraph:
    """A graph of fixed shapes that was compiled for an accelerator. Keys without a value are left out.

    Args:
        part: condition (embeddings and soft embeddings → what the layers read), layers (`first` up to `last`, which include the
            final norm where they are the last ones), or head (hidden states → products with the ids `first` up to `last`).
        rows: of the canvas or chunk.
        slots: of the prefix.
        file: what the accelerator's engine opens: an ONNX wrapper around a context in `binary`, which may hold several graphs;
            or a `.pte` file, whose method is `method`.
        source: the ONNX graph that was compiled; its weights are shared with those of the other graphs.
        inputs: of a method, in its order.
        outputs: likewise.
    """

    part: Literal["condition", "layers", "head"]
    first: int
    last: int
    rows: int
    slots: int
    file: str
    binary: str | None = None
    source: str | None = None
    method: str | None = None
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """Where the table of ids [V, D] lies in a file, float32, or int8 with a float32 scale for each id."""

    file: str
    dtype: Literal["float32", "int8"]
    offset: Annotated[int, 64]
    scales: Annotated[int, 64] | None


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """What a bundle holds for one accelerator, beside the graphs for processors. Keys without a value are left out.

    Args:
        chip: that contexts were compiled for.
        precision: fp16; of integers a16 (16-bit activations in products, float16 elsewhere) or w16 (float16 activations).
        versions: of the tools that compiled the graphs; qairt must be the runtime's.
        options: that the engine opens contexts with, or that methods were compiled for, by name.
        placement: part of a step → npu, the backend of ExecuTorch, or cpu.
        needs: lowest operating systems, or what else has to be there.
        local: most slots of a sliding layer's prefix.
        constants: file of layer scalars and frequencies, which are inputs of the graphs.
    """

    chip: str | None = None
    precision: str
    versions: dict[str, str]
    options: dict[str, str]
    placement: dict[str, str]
    needs: str | None = None
    local: int
    constants: str
    table: TableSpec
    graphs: tuple[StaticGraph, ...]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    size: Annotated[int, 64]  # bits
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a reader must know to run the bundle's graphs."""

    format_version: int = FORMAT_VERSION
    engines: dict[str, str]  # engine → lowest version that runs these graphs
    model: ModelConfig
    tokenizer: TokenizerSpec | None
    chat: ChatTemplate | None
    canvas_length: int
    steps: int
    context: int
    chunk: int
    sampler: SamplerConfig
    noise: dict[str, Any]
    # By name: S slots of a prefix, L the last of them, which are what sliding layers take (all of the S, or at least those that
    # are not filled and the window before), C tokens of a chunk, R rows for the head, A active positions.
    dims: dict[str, tuple[int, int]]
    graphs: dict[str, dict[str, GraphSpec]]  # engine → graph name → where and what
    quantization: dict[str, Any]
    tools: dict[str, str]
    provenance: dict[str, Any]
    targets: dict[str, TargetSpec] = field(default_factory=dict)  # by name, such as qnn:SM8650; left out where there are none
    files: dict[str, FileEntry] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON types with the digest as the last key."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values["model"], values["sampler"] = self.model.to_dict(), self.sampler.to_dict()
        plain = json.loads(json.dumps(values, default=asdict))
        if not self.targets:
            del plain["targets"]
        for target in plain.get("targets", {}).values():
            for described in (target, *target["graphs"]):
                for key in [k for k, v in described.items() if v is None]:
                    del described[key]
        if self.chat is not None:
            defaults = {f.name: f.default for f in fields(ChatTemplate) if f.default is not MISSING}
            plain["chat"] = {k: v for k, v in plain["chat"].items() if k not in defaults or v != defaults[k]}
        return {**plain, "digest": digest(plain)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: str = MANIFEST) -> Manifest:
        """Inverse of `to_dict` but for the digest; raises BundleError on an unknown, missing or mistyped key."""
        plain = {k: v for k, v in values.items() if k != "digest"}
        try:
            return read_as(cls, plain)
        except UnknownKey as error:
            raise BundleError(f"{where}: {error}; this bundle was written by a newer dgemma, or edited") from None
        except (CheckpointError, UsageError, WrongKind) as error:
            raise BundleError(f"{where}: a value is missing or has the wrong type ({error}); export the bundle again") from None


def canonical(values: dict[str, Any]) -> bytes:
    """Canonical JSON: keys sorted, no spaces, UTF-8, without the digest."""
    plain = {k: v for k, v in values.items() if k != "digest"}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(values)).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_sha256(path: Path, sha256: str) -> bool:
    return sha256_file(path) == sha256


def inner_path(bundle: Path, name: str) -> Path:
    """A bundle's file by its manifest name; raises BundleError for anything that could leave the folder.

    Links are refused, with one exception: a file may be a link where a hub's cache made it (see `is_hub_link`).
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or _NEVER_IN_NAMES.search(name):
        raise BundleError(f"{MANIFEST}: file name {name!r} leaves the bundle; export the bundle again")
    path = bundle.joinpath(*pure.parts)
    for part in (path, *path.parents):
        if part == bundle:
            break
        if part.is_symlink() and not (part is path and is_hub_link(bundle, part)):
            raise BundleError(f"{part}: is a link; a bundle holds plain files only, so copy it with cp -rL")
    return path


def is_hub_link(folder: Path, link: Path) -> bool:
    """Whether a link of a folder stays inside the layout of a hub's cache.

    That layout is `models--OWNER--NAME/snapshots/REVISION/…`, whose files are links into `models--OWNER--NAME/blobs/`; it may
    begin with `datasets--` or `spaces--` too. With all links resolved, the folder must lie in or be `ROOT/snapshots/REVISION`,
    and the file must lie directly in `ROOT/blobs`, of the same ROOT, the nearest above the folder with such a name.
    """
    place, target = folder.resolve(), link.resolve()
    root = next((p for p in place.parents if p.name.startswith(("models--", "datasets--", "spaces--"))), None)
    if root is None:
        return False
    inside = place.relative_to(root).parts
    return len(inside) >= 2 and inside[0] == "snapshots" and target.parent == root / "blobs" and target.is_file()


def write_manifest(bundle: Path, manifest: Manifest) -> str:
    """Write manifest.json and return its digest; `files` must be complete (see `list_files`)."""
    values = manifest.to_dict()
    (bundle / MANIFEST).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(values["digest"])


def list_files(bundle: Path, known: Mapping[str, FileEntry] | None = None) -> dict[str, FileEntry]:
    """Size and sha256 of every file that the manifest vouches for, by relative name, sorted; known ones are taken over."""
    names = sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())
    entries = dict(known or {})
    for name in names:
        if name not in UNHASHED and name not in entries:
            entries[name] = FileEntry(size=(bundle / name).stat().st_size, sha256=sha256_file(bundle / name))
    return dict(sorted(entries.items()))


def read_manifest(
    bundle: Path, *, check_files: bool = True, holds: Callable[[Path, str], bool] = has_sha256
) -> tuple[Manifest, str]:
    """Read and verify a bundle: version, digest, then size and sha256 of every file.

    Args:
        check_files: False leaves the hashes out.
        holds: whether a file has a sha256; what it raises but OSError passes through.
    Returns:
        the manifest and its digest (hex).
    Raises:
        BundleError: naming the file and the cure.
    """
    try:
        values = _read_json(bundle)
        path, expected = bundle / MANIFEST, _digest_or_none(values)
        if expected is None or values.get("digest") != expected:
            raise BundleError(f"{path}: was changed after export (digest differs); export the bundle again")
        manifest = Manifest.from_dict(values, where=str(path))
        for name, entry in manifest.files.items():
            _check_file(inner_path(bundle, name), entry, holds if check_files else None)
    except OSError as error:
        raise BundleError(
            f"{bundle}: cannot be read ({error.strerror}); check its permissions, copy the bundle again or export it again"
        ) from None
    for engine, graphs in manifest.graphs.items():
        for graph in graphs.values():
            if graph.file not in manifest.files:
                raise BundleError(f"{path}: {engine!r} graph file {graph.file!r} is not listed; export the bundle again")
    for target, spec in manifest.targets.items():
        used = {spec.table.file, spec.constants, *(n for g in spec.graphs for n in (g.file, g.binary, g.source) if n)}
        if missing := sorted(used - manifest.files.keys()):
            raise BundleError(f"{path}: {target!r} file {missing[0]!r} is not listed; export the bundle again")
    if manifest.chat and (unknown := _unknown_form(manifest.chat)):
        raise BundleError(f"{path}: {unknown} is unknown; upgrade dgemma, or export the bundle again")
    if manifest.tokenizer and manifest.tokenizer.file not in manifest.files:
        raise BundleError(f"{path}: tokenizer {manifest.tokenizer.file!r} is not listed; export the bundle again")
    return manifest, expected


def _unknown_form(chat: ChatTemplate) -> str | None:
    """The first value of the chat template that names a form which this version does not have."""
    if chat.trim not in TRIMS:
        return f"chat.trim {chat.trim!r}"
    if chat.roles:
        trims = (chat.roles.opening_trim, *(turn.trim for turn in chat.roles.turns.values()))
        if wrong := [trim for trim in trims if trim not in TRIMS]:
            return f"chat.roles trim {wrong[0]!r}"
        if chat.roles.tools and chat.roles.tools.form != GEMMA:
            return f"chat.roles.tools.form {chat.roles.tools.form!r}"
    return None


def _making(folder: Path) -> str:
    """The command that makes a bundle, of this folder if it is a checkpoint."""
    return (
        f"make one with `dgemma export {folder} --out {folder.name}.dgemma`"
        if (folder / "config.json").is_file()
        else "make one with `dgemma export`"
    )


def _read_json(bundle: Path) -> dict[str, Any]:
    """The manifest's values, of a version that can be read; nothing else about them is checked."""
    path = bundle / MANIFEST
    if bundle.is_file():
        raise BundleError(f"{bundle}: is a file, not a bundle made by `dgemma export`; unpack an archive and give the folder")
    if not bundle.is_dir():
        preset = "presets are for `dgemma export` and `dgemma plan`; " if str(bundle) in PRESETS else ""
        cure = f"give the path of a bundle made by `dgemma export`, or {', '.join(NAMES)}, the shipped bundle"
        raise BundleError(f"{bundle}: no such folder; {preset}{cure}")
    if not path.is_file():
        raise BundleError(f"{bundle}: has no {MANIFEST}, so it is not a bundle; {_making(bundle)}")
    if path.stat().st_size > _MOST_BYTES:
        raise BundleError(f"{path}: is too large for a manifest; export the bundle again")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1 or not _is_small(values):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BundleError(f"{path}: is not a manifest; export the bundle again") from None
    if version > FORMAT_VERSION:
        raise BundleError(f"{path}: format version {version} is newer than {FORMAT_VERSION}; upgrade dgemma")
    assert isinstance(values, dict)  # it has a key
    return values


def _is_small(values: Any) -> bool:
    """Neither deep nor many: what every reader can take, those on phones included."""
    level, depth, count = [values], 0, 1
    while level := [v for v in level if isinstance(v, dict | list)]:
        level = [v for container in level for v in (container.values() if isinstance(container, dict) else container)]
        depth, count = depth + 1, count + len(level)
    return depth <= _MOST_DEPTH and count <= _MOST_VALUES


def _digest_or_none(values: dict[str, Any]) -> str | None:
    """None where the values have no canonical form: NaN, infinity, lone surrogates."""
    try:
        return digest(values)
    except ValueError:
        return None


def _check_file(path: Path, entry: FileEntry, holds: Callable[[Path, str], bool] | None) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: is missing; copy the bundle again or export it again")
    if (size := path.stat().st_size) != entry.size:
        raise BundleError(f"{path}: has {size} bytes instead of {entry.size}; copy the bundle again or export it again")
    if not os.access(path, os.R_OK):
        raise BundleError(f"{path}: cannot be read; check its permissions")
    if holds and not holds(path, entry.sha256):
        raise BundleError(f"{path}: content differs from the manifest (sha256); copy the bundle again or export it again")
