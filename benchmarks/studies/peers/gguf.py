"""Random-weights GGUF files with a bundle's dims, for llama.cpp: what a model of that shape costs there, not what it says.

The architecture is `gemma4`, whose layers are the denoiser's own: alternating windows, head sizes of their own, no v_proj in
full layers, and experts beside the MLP. Self-conditioning, which no autoregressive model has, is left out. Every matrix, the
tied embedding included, has the same blocks of 32 weights; routers are float32. ggml's own package `gguf` writes the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np

from dgemma.core.config import FULL, ModelConfig
from dgemma.core.errors import UsageError

ARCHITECTURE = "gemma4"
PACKAGE = "gguf"
ROUTER = "ffn_gate_inp"
_BLOCK, _POOL, _STD = 32, 1 << 16, 0.02  # weights of a block, blocks that are drawn and then repeated, spread

Value = int | float | str | list[int] | list[bool]
Array = np.ndarray[tuple[int], np.dtype[np.uint8 | np.float32]]


def installed() -> bool:
    return util.find_spec(PACKAGE) is not None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A block format: its name in GGUF, the bytes of a block of 32 weights, and the spread of its uniform integers."""

    name: str
    block_bytes: int
    spread: float

    @property
    def bits(self) -> float:
        return 8 * self.block_bytes / _BLOCK


# A block is a float16 scale and 32 integers: of 4 bits, -8 … 7; of 8 bits, -128 … 127.
KINDS = {
    "q4_0": Kind(name="Q4_0", block_bytes=18, spread=16 / 12**0.5),
    "q8_0": Kind(name="Q8_0", block_bytes=34, spread=256 / 12**0.5),
}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Dimensions as GGUF counts them, the innermost first; vectors and routers are float32."""

    name: str
    dims: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return len(self.dims) == 1 or ROUTER in self.name

    @property
    def size(self) -> int:
        return int(np.prod(self.dims, dtype=np.int64))

    def bytes(self, kind: Kind) -> int:
        return 4 * self.size if self.is_float else self.size // _BLOCK * kind.block_bytes


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """All tensors in file order.

    Raises:
        UsageError: a dimension that blocks of 32 do not fill.
    """
    d, f = config.hidden_size, config.intermediate_size
    experts, width = config.num_experts or 0, config.moe_intermediate_size or 0
    widths = [d, f, width, *(config.num_heads * config.layer_head_dim(i) for i in range(config.num_layers))]
    if bad := [width for width in widths if width % _BLOCK]:
        raise UsageError(f"a width of {bad[0]} is not a multiple of the {_BLOCK} weights of a GGUF block")
    yield Tensor(name="token_embd.weight", dims=(d, config.vocab_size))
    yield Tensor(name="output_norm.weight", dims=(d,))
    yield Tensor(name="rope_freqs.weight", dims=(config.global_head_dim // 2,))
    for i in range(config.num_layers):
        head, queries = config.layer_head_dim(i), config.num_heads * config.layer_head_dim(i)
        keys = config.layer_kv_heads(i) * head
        matrices: dict[str, tuple[int, ...]] = {
            "attn_q": (d, queries),
            "attn_k": (d, keys),
            "attn_v": (d, keys),
            "attn_output": (queries, d),
        }
        if config.is_full(i):
            del matrices["attn_v"]
        matrices |= {"ffn_gate": (d, f), "ffn_up": (d, f), "ffn_down": (f, d)}
        norms = {"attn_norm": d, "post_attention_norm": d, "ffn_norm": d, "post_ffw_norm": d}
        norms |= {"attn_q_norm": head, "attn_k_norm": head, "layer_output_scale": 1}
        if experts:
            matrices |= {ROUTER: (d, experts), "ffn_gate_up_exps": (d, 2 * width, experts)}
            matrices |= {"ffn_down_exps": (width, d, experts)}
            norms |= {"pre_ffw_norm_2": d, "post_ffw_norm_1": d, "post_ffw_norm_2": d}
            yield Tensor(name=f"blk.{i}.{ROUTER}.scale", dims=(d,))
            yield Tensor(name=f"blk.{i}.ffn_down_exps.scale", dims=(experts,))
        yield from (Tensor(name=f"blk.{i}.{name}.weight", dims=dims) for name, dims in matrices.items())
        yield from (Tensor(name=f"blk.{i}.{name}.weight", dims=(size,)) for name, size in norms.items())


def metadata(config: ModelConfig, context: int) -> dict[str, Value]:
    """Keys as llama.cpp reads them; the vocabulary is a number of nameless tokens."""
    own: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "embedding_length_per_layer_input": 0,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": [config.layer_kv_heads(i) for i in range(config.num_layers)],
        "attention.key_length": config.global_head_dim,
        "attention.value_length": config.global_head_dim,
        "attention.key_length_swa": config.head_dim,
        "attention.value_length_swa": config.head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind != FULL for kind in config.layer_types],
        "attention.shared_kv_layers": 0,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.global_head_dim,
        "rope.dimension_count_swa": config.head_dim,
        "rope.freq_base": config.full_rope_theta,
        "rope.freq_base_swa": config.sliding_rope_theta,
        "final_logit_softcapping": config.final_logit_softcapping,
    }
    if config.num_experts and config.top_k_experts and config.moe_intermediate_size:
        own["expert_count"], own["expert_used_count"] = config.num_experts, config.top_k_experts
        own["expert_feed_forward_length"] = config.moe_intermediate_size
    return {"tokenizer.ggml.model": "none", **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()}}


def file_bytes(config: ModelConfig, kind: Kind) -> int:
    """What `write` takes on disk, to within the header."""
    return sum(tensor.bytes(kind) for tensor in tensors(config))


def write(path: Path, config: ModelConfig, kind: Kind, context: int, seed: int = 0) -> None:
    """Write the file; weights have mean about 0 and standard deviation about 0.02, and repeat every 2 M weights.

    Raises:
        UsageError: as `tensors`.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    own, pool = list(tensors(config)), _pool(kind, seed)
    forms = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}
    with closing(GGUFWriter(path, ARCHITECTURE)) as writer:
        writer.add_custom_alignment(writer.data_alignment)
        for key, value in metadata(config, context).items():
            if isinstance(value, list):
                writer.add_key_value(key, value, GGUFValueType.ARRAY, forms[type(value[0])])
            else:
                writer.add_key_value(key, value, forms[type(value)])
        for tensor in own:
            form = GGMLQuantizationType["F32" if tensor.is_float else kind.name]
            writer.add_tensor_info(tensor.name, tensor.dims[::-1], np.dtype(np.float32), tensor.bytes(kind), form)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in own:
            writer.write_tensor_data(_values(tensor, config, kind, pool))


def _values(tensor: Tensor, config: ModelConfig, kind: Kind, pool: Array) -> Array:
    """Blocks that repeat; vectors of ones; routers of random scores, so that rows choose different experts."""
    if not tensor.is_float:
        return np.resize(pool, tensor.bytes(kind))
    if tensor.name.startswith("rope_freqs"):
        return _frequencies(config)
    if len(tensor.dims) == 1:
        return np.ones(tensor.size, np.float32)
    return np.random.default_rng(len(tensor.name)).normal(0.0, _STD, tensor.size).astype(np.float32)


def _frequencies(config: ModelConfig) -> Array:
    """Divisors of the full layers' frequencies: 1 where they rotate, and so much elsewhere that nothing does."""
    half = config.global_head_dim // 2
    found = np.full(half, 1e30, np.float32)
    found[: int(half * config.full_partial_rotary_factor)] = 1.0
    return found


def _pool(kind: Kind, seed: int) -> Array:
    """Bytes of blocks of one scale and random integers."""
    blocks = np.random.default_rng(seed).integers(0, 256, (_POOL, kind.block_bytes), np.uint8)
    blocks[:, :2] = np.frombuffer(np.array(_STD / kind.spread, "<f2").tobytes(), np.uint8)
    return blocks.ravel()
