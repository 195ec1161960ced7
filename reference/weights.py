"""Checkpoints in the Hugging Face layout as a tree of JAX arrays, the layers of each kind stacked.

    {"embed": [V, D], "norm": [D], "self_conditioning": {…}, "sliding": {name: [layers, …]}, "full": {name: [layers, …]}}

Matrices keep the layout of the files, [out, in]. `shapes` gives the tree without weights, which is all that compilation
needs. Only the readers of configs and of names (`hf_config.py`, `weight_files.py`) are shared with the PyTorch model.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from dgemma.core.config import FULL, SLIDING, ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.model.weight_files import DECODER, ENCODER, Stored, differs, find_tensors

Weights = dict[str, Any]
Named = dict[str, tuple[str, tuple[int, ...]]]  # own name → name in the file behind the layer's, shape

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_READABLE = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
KINDS = {"sliding": SLIDING, "full": FULL}


def layer_tensors(config: ModelConfig, kind: str) -> Named:
    """Tensors of one `sliding` or `full` layer, without its two scalars."""
    full = kind == "full"
    d, h, f = config.hidden_size, config.num_heads, config.intermediate_size
    head = config.global_head_dim if full else config.head_dim
    kv = (config.global_num_kv_heads if full else config.num_kv_heads) * head
    found: Named = {
        "q_proj": ("self_attn.q_proj.weight", (h * head, d)),
        "k_proj": ("self_attn.k_proj.weight", (kv, d)),
        "o_proj": ("self_attn.o_proj.weight", (d, h * head)),
        "q_norm": ("self_attn.q_norm.weight", (head,)),
        "k_norm": ("self_attn.k_norm.weight", (head,)),
        "gate_proj": ("mlp.gate_proj.weight", (f, d)),
        "up_proj": ("mlp.up_proj.weight", (f, d)),
        "down_proj": ("mlp.down_proj.weight", (d, f)),
    }
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    if not full:
        found["v_proj"] = ("self_attn.v_proj.weight", (kv, d))
    if config.num_experts is not None and config.moe_intermediate_size is not None:
        e, width = config.num_experts, config.moe_intermediate_size
        found |= {
            "router": ("router.proj.weight", (e, d)),
            "router_scale": ("router.scale", (d,)),
            "expert_scale": ("router.per_expert_scale", (e,)),
            "expert_gate_up": ("experts.gate_up_proj", (e, 2 * width, d)),
            "expert_down": ("experts.down_proj", (e, d, width)),
        }
        found |= {
            f"{name}_norm_{i}": (f"{name}_layernorm_{i}.weight", (d,))
            for name, i in (("post_feedforward", 1), ("post_feedforward", 2), ("pre_feedforward", 2))
        }
    return found | {f"{name}_norm": (f"{name}_layernorm.weight", (d,)) for name in norms}


def shared_tensors(config: ModelConfig) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Path in the tree → name in the file and shape, of all that belongs to no layer."""
    d, f = config.hidden_size, config.intermediate_size
    own = {"gate_proj": (f, d), "up_proj": (f, d), "down_proj": (d, f), "pre_norm": (d,)}
    return {
        ("embed",): (DECODER + "embed_tokens.weight", (config.vocab_size, d)),
        ("norm",): (DECODER + "norm.weight", (d,)),
    } | {("self_conditioning", k): (f"{DECODER}self_conditioning.{k}.weight", s) for k, s in own.items()}


def layers_of(config: ModelConfig, kind: str) -> list[int]:
    """Numbers of the layers of a kind, in order."""
    return [i for i, found in enumerate(config.layer_types) if found == KINDS[kind]]


def shapes(config: ModelConfig, dtype: str) -> Weights:
    """The tree with a ShapeDtypeStruct for every array."""

    def struct(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, DTYPES[dtype])

    tree: Weights = {"self_conditioning": {}}
    for path, (_, shape) in shared_tensors(config).items():
        _put(tree, path, struct(*shape))
    for kind in KINDS:
        count = len(layers_of(config, kind))
        tree[kind] = {name: struct(count, *shape) for name, (_, shape) in layer_tensors(config, kind).items()}
        tree[kind] |= {f"{mode}_scalar": struct(count, 1) for mode in ("encode", "denoise")}
    return tree


def file_names(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]]:
    """Name in the checkpoint → path in the tree, index in the stack (None: not stacked), shape."""
    found: dict[str, tuple[tuple[str, ...], int | None, tuple[int, ...]]] = {
        name: (path, None, shape) for path, (name, shape) in shared_tensors(config).items()
    }
    for kind in KINDS:
        for index, layer in enumerate(layers_of(config, kind)):
            for own, (name, shape) in layer_tensors(config, kind).items():
                found[f"{DECODER}layers.{layer}.{name}"] = ((kind, own), index, shape)
            for mode, stem in (("encode", ENCODER), ("denoise", DECODER)):
                found[f"{stem}layers.{layer}.layer_scalar"] = ((kind, f"{mode}_scalar"), index, (1,))
    return found


def load(folder: Path | str, config: ModelConfig, dtype: str = "float32", *, sharding: Any = None) -> Weights:
    """Read a checkpoint.

    Args:
        folder: one or many `.safetensors`; tensors are read from the mapped files one stack at a time.
        config: its `config.json`, read by `dgemma.model.hf_config.read_config`.
        dtype: `float32` or `bfloat16`; every tensor is cast to it.
        sharding: a tree like `shapes` of shardings, where arrays go; None for the default device.
    Raises:
        CheckpointError: one line naming file and tensor.
    """
    folder, names = Path(folder), file_names(config)
    found = find_tensors(folder, set(names))
    where = found.tensors
    tree = shapes(config, dtype)
    stacks: dict[tuple[str, ...], list[str]] = {}
    for name, (path, _, _) in sorted(names.items(), key=lambda item: item[1][1] or 0):
        stacks.setdefault(path, []).append(name)
    with _Files(folder) as files:
        for path, members in stacks.items():
            arrays = [files.tensor(where[name], names[name][2]) for name in members]
            for name, array in zip(members, arrays, strict=True):
                for copy in found.copies.get(name, ()):
                    if files.tensor(copy, array.shape).tobytes() != array.tobytes():
                        raise differs(folder, where[name], copy)
            stacked = names[members[0]][1] is not None
            host = np.stack(arrays) if stacked else arrays[0]
            place = None if sharding is None else _get(sharding, path)
            _put(tree, path, jax.device_put(host.astype(DTYPES[dtype]), place))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x, tree)


def random(config: ModelConfig, seed: int, dtype: str, sharding: Any = None) -> Weights:
    """Random weights made where they will live: N(0, 0.02²) for matrices, 1 for norms and scalars; other than PyTorch's."""

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "norm" in name or "scal" in name:
            return jnp.ones(leaf.shape, leaf.dtype)
        key = jax.random.fold_in(jax.random.key(seed & 0xFFFFFFFF), zlib.crc32(name.encode()))
        return jax.random.normal(key, leaf.shape, leaf.dtype) * jnp.asarray(0.02, leaf.dtype)

    def make() -> Weights:
        made: Weights = jax.tree_util.tree_map_with_path(fill, shapes(config, dtype))
        return made

    made: Weights = jax.jit(make, out_shardings=sharding)()
    return made


def _put(tree: Weights, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def _get(tree: Weights, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


class _Files:
    """Open `.safetensors` of a folder, mapped; errors name the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: dict[str, Any] = {}

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.clear()

    def _open(self, file: str) -> Any:
        if file not in self.opened:
            path = self.folder / file
            try:
                self.opened[file] = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                reason = str(error).splitlines()[0]
                raise CheckpointError(f"{path}: is damaged or truncated ({reason}); copy the checkpoint again") from None
        return self.opened[file]

    def tensor(self, stored: Stored, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        name, path = stored.name, self.folder / stored.file
        array: npt.NDArray[Any] = self._open(stored.file).get_tensor(name)
        if array.shape != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(array.shape)} instead of {list(shape)}; see config.json"
            )
        if array.dtype not in _READABLE:
            raise CheckpointError(f"{path}: tensor {name} is {array.dtype}; only float32, bfloat16 and float16 are supported")
        if not np.isfinite(array.astype(np.float32).sum()) and not np.isfinite(array.astype(np.float32)).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; copy or save the checkpoint again")
        return array


def parameters(tree: Mapping[str, Any]) -> int:
    """Number of parameters in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
