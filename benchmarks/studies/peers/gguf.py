"""Random-weights GGUF files with a bundle's dims, for llama.cpp: what a model of that shape costs there, not what it says.

The architecture is `gemma4`, whose layers are the dense denoiser's own: alternating windows, head sizes of their own and no
v_proj in full layers. Self-conditioning, which no autoregressive model has, is left out. Every matrix, the tied embedding
included, has the same blocks of 32 weights. The format is ggml's `docs/gguf.md`, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dgemma.core.config import FULL, ModelConfig
from dgemma.core.errors import UsageError

ARCHITECTURE = "gemma4"
_ALIGNMENT, _BLOCK, _POOL = 32, 32, 1 << 16  # bytes, weights of a block, blocks that are drawn and then repeated
_F32, _STD = 0, 0.02
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9

Value = int | float | str | list[int] | list[bool]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A block format: its number in GGUF, the bytes of a block of 32 weights, and the spread of its uniform integers."""

    name: str
    number: int
    block_bytes: int
    spread: float

    @property
    def bits(self) -> float:
        return 8 * self.block_bytes / _BLOCK


# A block is a float16 scale and 32 integers: of 4 bits, -8 … 7; of 8 bits, -128 … 127.
KINDS = {
    "q4_0": Kind(name="Q4_0", number=2, block_bytes=18, spread=16 / 12**0.5),
    "q8_0": Kind(name="Q8_0", number=8, block_bytes=34, spread=256 / 12**0.5),
}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Dimensions as GGUF counts them, the innermost first; one dimension means a float32 vector."""

    name: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.dims, dtype=np.int64))

    def bytes(self, kind: Kind) -> int:
        return 4 * self.size if len(self.dims) == 1 else self.size // _BLOCK * kind.block_bytes


def tensors(config: ModelConfig) -> Iterator[Tensor]:
    """All tensors in file order.

    Raises:
        UsageError: experts, or a dimension that blocks of 32 do not fill.
    """
    if config.is_moe:
        raise UsageError("a mixture of experts is not written as GGUF; take a dense bundle")
    d, f = config.hidden_size, config.intermediate_size
    widths = [d, f, *(config.num_heads * config.layer_head_dim(i) for i in range(config.num_layers))]
    if bad := [width for width in widths if width % _BLOCK]:
        raise UsageError(f"a width of {bad[0]} is no multiple of the {_BLOCK} weights of a GGUF block")
    yield Tensor(name="token_embd.weight", dims=(d, config.vocab_size))
    yield Tensor(name="output_norm.weight", dims=(d,))
    yield Tensor(name="rope_freqs.weight", dims=(config.global_head_dim // 2,))
    for i in range(config.num_layers):
        head, queries = config.layer_head_dim(i), config.num_heads * config.layer_head_dim(i)
        keys = config.layer_kv_heads(i) * head
        matrices = {"attn_q": (d, queries), "attn_k": (d, keys), "attn_v": (d, keys), "attn_output": (queries, d)}
        if config.is_full(i):
            del matrices["attn_v"]
        matrices |= {"ffn_gate": (d, f), "ffn_up": (d, f), "ffn_down": (f, d)}
        norms = {"attn_norm": d, "post_attention_norm": d, "ffn_norm": d, "post_ffw_norm": d}
        norms |= {"attn_q_norm": head, "attn_k_norm": head, "layer_output_scale": 1}
        yield from (Tensor(name=f"blk.{i}.{name}.weight", dims=dims) for name, dims in matrices.items())
        yield from (Tensor(name=f"blk.{i}.{name}.weight", dims=(size,)) for name, size in norms.items())


def metadata(config: ModelConfig, context: int) -> dict[str, Value]:
    """Keys as llama.cpp reads them; the vocabulary is a number of nameless tokens."""
    own: dict[str, Value] = {
        "vocab_size": config.vocab_size, "context_length": context, "embedding_length": config.hidden_size,
        "block_count": config.num_layers, "feed_forward_length": config.intermediate_size,
        "embedding_length_per_layer_input": 0,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": [config.layer_kv_heads(i) for i in range(config.num_layers)],
        "attention.key_length": config.global_head_dim, "attention.value_length": config.global_head_dim,
        "attention.key_length_swa": config.head_dim, "attention.value_length_swa": config.head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind != FULL for kind in config.layer_types],
        "attention.shared_kv_layers": 0, "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.global_head_dim, "rope.dimension_count_swa": config.head_dim,
        "rope.freq_base": config.full_rope_theta, "rope.freq_base_swa": config.sliding_rope_theta,
        "final_logit_softcapping": config.final_logit_softcapping,
    }  # fmt: skip
    general: dict[str, Value] = {"general.architecture": ARCHITECTURE, "general.alignment": _ALIGNMENT}
    return {**general, "tokenizer.ggml.model": "none", **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()}}


def file_bytes(config: ModelConfig, kind: Kind) -> int:
    """What `write` takes on disk, to within the header."""
    return sum(tensor.bytes(kind) for tensor in tensors(config))


def write(path: Path, config: ModelConfig, kind: Kind, context: int, seed: int = 0) -> None:
    """Write the file; weights have mean about 0 and standard deviation about 0.02, and repeat every 2 M weights.

    Raises:
        UsageError: as `tensors`.
    """
    own, values = list(tensors(config)), metadata(config, context)
    pool = _pool(kind, seed)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(own), len(values))]
    head += [_string(key) + _value(value) for key, value in values.items()]
    offset = 0
    for tensor in own:
        number = _F32 if len(tensor.dims) == 1 else kind.number
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        head.append(_string(tensor.name) + dims + struct.pack("<IQ", number, offset))
        offset += -(-tensor.bytes(kind) // _ALIGNMENT) * _ALIGNMENT
    with path.open("wb") as file:
        file.write(b"".join(head))
        _pad(file)
        for tensor in own:
            if len(tensor.dims) > 1:
                whole, rest = divmod(tensor.bytes(kind), len(pool))
                for part in (*[pool] * whole, pool[:rest]):
                    file.write(part)
            elif tensor.name.startswith("rope_freqs"):
                file.write(_frequencies(config).tobytes())
            else:
                file.write(np.ones(tensor.size, "<f4").tobytes())
            _pad(file)


def _frequencies(config: ModelConfig) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Divisors of the full layers' frequencies: 1 where they rotate, and so much elsewhere that nothing does."""
    half = config.global_head_dim // 2
    found = np.full(half, 1e30, "<f4")
    found[: int(half * config.full_partial_rotary_factor)] = 1.0
    return found


def _pool(kind: Kind, seed: int) -> bytes:
    """Blocks of one scale and random integers."""
    blocks = np.random.default_rng(seed).integers(0, 256, (_POOL, kind.block_bytes), np.uint8)
    blocks[:, :2] = np.frombuffer(np.array(_STD / kind.spread, "<f2").tobytes(), np.uint8)
    return blocks.tobytes()


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    kind, form = (_BOOL, "?") if isinstance(value[0], bool) else (_UINT32, "I")
    return struct.pack(f"<IIQ{len(value)}{form}", _ARRAY, kind, len(value), *value)
