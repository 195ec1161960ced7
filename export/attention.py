"""Attention of a layer as one operator, which the native kernel of `runtime/native/attention` runs in every engine.

It reads the prefix's keys and values where they lie. The engines' own operators first join them with the rows' own and
transpose what they have joined, which takes longer than the attention itself where rows are few. Models that need the native
library in any case have it: those with quantized experts. Letters: M rows, S prefix slots, H heads, K kv heads, d head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgemma.export.experts import RoutedExperts
from dgemma.model.denoiser import KV, Layer, attend


@torch.library.custom_op("dgemma::attention", mutates_args=())
def attention(q: Tensor, old_keys: Tensor, old_values: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """As the model's `attend`, up to the order of sums.

    Args:
        q: float32 [1, M, H, d].
        old_keys, old_values: of the prefix, float32 [1, S, K, d].
        keys, values: of the rows, float32 [1, M, K, d].
        bias: float32 [M or 1, S + M].
    Returns:
        float32 [1, M, H·d].
    """
    return attend(q, (keys, values), (old_keys, old_values), bias)


@attention.register_fake
def _(q: Tensor, *_: Tensor) -> Tensor:
    return q.new_empty((*q.shape[:2], q.shape[2] * q.shape[3]))


def native_attend(q: Tensor, new: KV, prefix: KV | None, bias: Tensor) -> Tensor:
    """Same function as the model's `attend`, with a batch of 1 and a prefix."""
    assert prefix is not None
    return attention(q, *prefix, *new, bias)


def replace_attention(model: nn.Module) -> None:
    """Give every layer with routed experts the native operator, in place; replace quantized experts before it."""
    for module in model.modules():
        if isinstance(module, Layer) and module.is_moe and isinstance(module.experts, RoutedExperts):
            module.self_attn.attend = native_attend
