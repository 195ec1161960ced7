"""Operators that torch does not name, or that XNNPACK does not take in torch's form: integer products under the activation rule
that all engines share, and norms and attention over open lengths.

Here they are plain torch, with integer products exact up to the last rounding; `visitors.py` translates them for XNNPACK.
The K columns of a weight are followed by columns of zeros: XNNPACK gets each row with its extremes appended, which turns
XNNPACK's asymmetric rule into the symmetric one of `quantize.activations`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.model import denoiser
from dgemma.quantize.activations import quantize_tokens
from dgemma.quantize.hadamard import hadamard

POOLED = 16  # columns at once


def padding(group: int) -> int:
    """Columns of zeros after a weight's own: the two extremes, or what fills a group."""
    return group or 2


def pack(integers: Tensor) -> Tensor:
    """int8 [out, in] of −8 … 7 → uint8 [out, in/2]: plus 8, even columns in the low half, as XNNPACK has them."""
    unsigned = (integers + 8).to(torch.uint8)
    return unsigned[..., ::2] | unsigned[..., 1::2] << 4


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2).to(torch.int8) - 8


def rotate_blocks(x: Tensor, size: int) -> Tensor:
    """x [..., K], every block of `size` columns times an orthonormal Hadamard matrix; x itself for 0."""
    return (x.unflatten(-1, (-1, size)) @ hadamard(size)).flatten(-2) if size else x


@torch.library.custom_op("dgemma::integer_linear", mutates_args=())
def integer_linear(x: Tensor, weight: Tensor, scale: Tensor, group: int, rotation: int) -> Tensor:
    """Product with integer weights, x rounded to 8 bits per token.

    Args:
        x: float32 [..., K].
        weight: int8 [out, K + padding], or with a group uint8 [out, (K + padding) / 2] as `pack` makes it.
        scale: float32 [out], or with a group bfloat16 [out, (K + padding) / group].
        group: columns to a scale, a multiple of 32; 0 for 8 bits.
        rotation: block size of the Hadamard matrix that x is rotated by before it is rounded; 0 for none.
    Returns:
        float32 [..., out].
    """
    integers, inverse = quantize_tokens(rotate_blocks(x, rotation))
    integers = F.pad(integers, (0, padding(group))).double()
    if not group:
        return (integers @ weight.double().t() / inverse * scale).float()
    groups = unpack(weight).double().unflatten(-1, (-1, group)) * scale.double()[..., None]
    return (integers @ groups.flatten(-2).t() / inverse).float()


@integer_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, group: int, rotation: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("dgemma::to_float", mutates_args=())
def to_float(stored: Tensor) -> Tensor:
    """int8 or uint8, constant or not → float32 of the same shape and values; of constants when it runs, not in the file."""
    return stored.float()


@to_float.register_fake
def _(stored: Tensor) -> Tensor:
    return torch.empty_like(stored, dtype=torch.float32)


@torch.library.custom_op("dgemma::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / rms(x) over the last dimension, times a weight where there is one; float32 [..., d]."""
    normed = x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("dgemma::sums", mutates_args=())
def sums(x: Tensor, size: int) -> Tensor:
    """Sums of every `size` neighbours in a row: float32 [1, R, d] or [1, R, G, d / G] → [1, R, d / size]."""
    return x.flatten(2).unflatten(-1, (-1, size)).sum(-1)


@sums.register_fake
def _(x: Tensor, size: int) -> Tensor:
    return x.new_empty((*x.shape[:2], math.prod(x.shape[2:]) // size))


@torch.library.custom_op("dgemma::largest", mutates_args=())
def largest(x: Tensor) -> Tensor:
    """Maxima over G: float32 [1, R, G, C] → [1, R, C]."""
    return x.amax(-2)


@largest.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], x.shape[3]))


def windows(columns: int) -> list[int]:
    """Factors of a number, by which to pool its columns to one, of at most 16 where it has such.

    XNNPACK keeps a pointer to whatever every pooling reads, as long as a program is loaded: 0.6 MB to pool 256 rows of 9,216
    columns to 32 at once.
    """
    found = []
    while columns > 1:
        divisors = [n for n in range(2, columns + 1) if columns % n == 0]
        found.append(max([n for n in divisors if n <= POOLED] or divisors[:1]))
        columns //= found[-1]
    return found


@torch.library.custom_op("dgemma::tanh_gelu", mutates_args=())
def tanh_gelu(x: Tensor) -> Tensor:
    """GELU with the tanh approximation. XNNPACK's is the exact one, and its partitioner takes `approximate="tanh"` for it
    without a word (seen with executorch 1.5.1): every GELU would be off by up to 5e-4.
    """
    return F.gelu(x, approximate="tanh")


@tanh_gelu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("dgemma::heads", mutates_args=())
def heads(x: Tensor, count: int) -> Tensor:
    """[1, M, H·d] → [1, M, H, d] for count = H; a view, but XNNPACK's partitioner takes none of an open length M."""
    return x.unflatten(-1, (count, -1)).clone()


@heads.register_fake
def _(x: Tensor, count: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], count, x.shape[-1] // count))


@torch.library.custom_op("dgemma::flat", mutates_args=())
def flat(x: Tensor) -> Tensor:
    """The inverse of `heads`: [1, M, H, d] → [1, M, H·d]."""
    return x.flatten(2).clone()


@flat.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], x.shape[2] * x.shape[3]))


@torch.library.custom_op("dgemma::rotate", mutates_args=())
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves paired over the whole head. x [1, M, H, d]; cos, sin [M, 1, d/2]."""
    return denoiser.rotate(x, cos, sin)


@rotate.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("dgemma::attend", mutates_args=())
def attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Grouped-query attention with scale 1, all in one operator.

    Args:
        q: [1, M, H, d].
        keys, values: [1, L, K, d], H a multiple of K.
        bias: [M, L] or [1, L], added to the scores.
    Returns:
        [1, M, H·d].
    """
    rows, count, dim = q.shape[1:]
    grouped = q.transpose(1, 2).reshape(keys.shape[2], -1, rows, dim)  # [K, H/K, M, d]
    scores = grouped @ keys[0].permute(1, 2, 0).unsqueeze(1) + bias
    out = torch.softmax(scores, -1) @ values[0].transpose(0, 1).unsqueeze(1)
    return out.reshape(count, rows, dim).transpose(0, 1).reshape(1, rows, count * dim).contiguous()


@attend.register_fake
def _(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    return q.new_empty((1, q.shape[1], q.shape[2] * q.shape[3]))
