"""The denoiser in PyTorch: one weight stack, run causally (`encode`) or bidirectionally (`denoise`).

Shapes: B batch, N canvas or chunk, S prefix, D hidden, V vocabulary, H heads, K kv heads, d head dim, E experts.
Semantics follow transformers 5.23 `diffusion_gemma` with its DynamicCache. This module knows nothing of files,
quantization, sampling or text.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgemma.core.config import ModelConfig
from dgemma.model.taps import tap

Mode = Literal["encode", "denoise"] | Tensor  # or bool [1], true for denoise, in a graph that does both
KV = tuple[Tensor, Tensor]  # keys, values [B, S, K, d]: keys after norm and rope, values after v_norm; slots lead, so
# that a host can append to its cache, and hand out the filled part of it, without copying


HIDDEN = -1e30  # added to the score of a key that must not be seen; exp of it is exactly 0


class RMSNorm(nn.Module):
    """x / rms(x), times a plain weight where there is one (not 1 + weight, as earlier Gemmas had)."""

    def __init__(self, dim: int, eps: float, *, scale: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        normed = x.float()
        normed = normed / torch.sqrt(normed.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed if self.weight is None else normed * self.weight.float()).type_as(x)


def rope_frequencies(config: ModelConfig, *, full: bool) -> Tensor:
    """Inverse frequencies [d/2]. Full layers are "proportional": exponents over the whole head dim, then zeros.

    Source: transformers `modeling_rope_utils._compute_proportional_rope_parameters`.
    """
    dim = config.global_head_dim if full else config.head_dim
    theta = config.full_rope_theta if full else config.sliding_rope_theta
    rotated = int(config.full_partial_rotary_factor * dim // 2) if full else dim // 2
    inverse = theta ** -(torch.arange(0, 2 * rotated, 2, dtype=torch.float32) / dim)
    return torch.cat([inverse, torch.zeros(dim // 2 - rotated)])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves paired over the whole head. x [B, N, H, d]; cos, sin [N, 1, d/2]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attend(q: Tensor, new: KV, prefix: KV | None, bias: Tensor) -> Tensor:
    """Grouped-query attention with scale 1 over the prefix and the rows' own keys and values.

    Args:
        q: [B, N, H, d].
        new, prefix: keys and values [B, N, K, d] and [B, S, K, d].
        bias: broadcasts to [B, K, H/K, N, S+N], and hides keys.
    Returns:
        [B, N, H·d].
    """
    batch, n, heads, dim = q.shape
    keys, values = new if prefix is None else (torch.cat([old, own], 1) for old, own in zip(prefix, new, strict=True))
    slots, kv_heads = keys.shape[1:3]
    groups = heads // kv_heads
    q = q.transpose(1, 2).reshape(batch, kv_heads, groups * n, dim)  # one product per kv head
    scores = (q @ keys.permute(0, 2, 3, 1)).view(batch, kv_heads, groups, n, slots)
    weights = torch.softmax(scores + bias, -1, dtype=torch.float32).type_as(q)
    out = weights.view(batch, kv_heads, groups * n, slots) @ values.transpose(1, 2)
    return out.view(batch, heads, n, dim).transpose(1, 2).reshape(batch, n, heads * dim)


class Attention(nn.Module):
    """Grouped-query attention with q, k, v norms; full layers have no v_proj (values are raw keys)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attend = attend  # may be replaced by what does the same
        self.taps = f"layers.{layer}."
        self.heads, self.kv_heads = config.num_heads, config.layer_kv_heads(layer)
        self.head_dim = config.layer_head_dim(layer)
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.q_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = None if config.is_full(layer) else nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, hidden, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)
        self.v_norm = RMSNorm(self.head_dim, eps, scale=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, prefix: KV | None) -> tuple[Tensor, KV]:
        """x [B, N, D]; bias broadcasts to [B, K, H/K, N, S+N] and hides keys. Returns output and the new keys/values."""
        batch, n, _ = x.shape
        q = self.q_proj(x).view(batch, n, self.heads, self.head_dim)
        k = self.k_proj(x).view(batch, n, self.kv_heads, self.head_dim)
        v = k if self.v_proj is None else self.v_proj(x).view(batch, n, self.kv_heads, self.head_dim)
        q = tap(f"{self.taps}q", rotate(self.q_norm(q), cos, sin))
        k = tap(f"{self.taps}k", rotate(self.k_norm(k), cos, sin))  # [B, N, K, d]
        v = tap(f"{self.taps}v", self.v_norm(v))
        return self.o_proj(self.attend(q, (k, v), prefix, bias)), (k, v)


class GatedMLP(nn.Module):
    """GeGLU with the tanh approximation of GELU."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Router(nn.Module):
    """Top-k expert weights, normalized to 1 and scaled per expert; reads the raw residual."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.num_experts is not None and config.top_k_experts is not None
        self.taps = f"layers.{layer}."
        self.top_k, self.root_size = config.top_k_experts, config.hidden_size**-0.5
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, scale=False)
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def scores(self, x: Tensor) -> Tensor:
        """x [..., D] → [..., E], before the softmax."""
        scores: Tensor = self.proj(self.norm(x) * self.scale * self.root_size)
        return scores

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., D] → weights [..., top_k] and the experts that they are of, int64 [..., top_k]."""
        scores = tap(f"{self.taps}router", self.scores(x))
        probabilities = scores.float().softmax(-1)
        top, index = probabilities.topk(self.top_k, dim=-1)
        top = top / top.sum(-1, keepdim=True) * self.per_expert_scale[index]
        return top.type_as(x), index


def for_all_experts(weights: Tensor, ids: Tensor, experts: int) -> Tensor:
    """Weights [..., top_k] of some experts → of all [..., E], zero for those that were not chosen."""
    return weights.new_zeros(*weights.shape[:-1], experts).scatter(-1, ids, weights)


class Experts(nn.Module):
    """Gated expert MLPs as stacked matrices; every expert is computed and weighted, so that graphs stay static."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.num_experts is not None and config.moe_intermediate_size is not None
        experts, width, hidden = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, width))

    def forward(self, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """x [..., D], weights and ids [..., top_k] → [..., D]."""
        weights = for_all_experts(weights, ids, self.gate_up_proj.shape[0]).flatten(0, -2)  # [M, E]
        gate, up = torch.matmul(x.reshape(1, -1, x.shape[-1]), self.gate_up_proj.transpose(1, 2)).chunk(2, dim=-1)  # [E, M, W]
        out = torch.matmul(F.gelu(gate, approximate="tanh") * up, self.down_proj.transpose(1, 2))  # [E, M, D]
        return (out * weights.t()[:, :, None]).sum(0).view_as(x)


class Layer(nn.Module):
    """Sandwich-normed attention and feed-forward; with experts, a dense MLP and routed experts side by side."""

    encode_scalar: Tensor
    denoise_scalar: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.taps = f"layers.{layer}."
        self.self_attn = Attention(config, layer)
        self.mlp = GatedMLP(hidden, config.intermediate_size)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm = RMSNorm(hidden, eps)
        self.post_feedforward_layernorm = RMSNorm(hidden, eps)
        if config.is_moe:
            self.router, self.experts = Router(config, layer), Experts(config)
            self.post_feedforward_layernorm_1 = RMSNorm(hidden, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(hidden, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(hidden, eps)
        self.is_moe = config.is_moe
        self.register_buffer("encode_scalar", torch.ones(1))
        self.register_buffer("denoise_scalar", torch.ones(1))

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.mlp(tap(f"{self.taps}mlp_in", self.pre_feedforward_layernorm(x)))
        if self.is_moe:
            routed = self.experts(self.pre_feedforward_layernorm_2(x), *self.router(x))
            hidden = self.post_feedforward_layernorm_1(hidden) + self.post_feedforward_layernorm_2(routed)
        return self.post_feedforward_layernorm(tap(f"{self.taps}mlp_out", hidden))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor, prefix: KV | None, mode: Mode) -> tuple[Tensor, KV]:
        entering = tap(f"{self.taps}attention_in", self.input_layernorm(x))
        attended, new = self.self_attn(entering, cos, sin, bias, prefix)
        x = x + self.post_attention_layernorm(tap(f"{self.taps}attention_out", attended))
        x = x + self.feed_forward(x)
        if isinstance(mode, Tensor):
            scalar = torch.where(mode, self.denoise_scalar, self.encode_scalar)
        else:
            scalar = self.encode_scalar if mode == "encode" else self.denoise_scalar
        return tap(f"{self.taps}out", x * scalar), new


class SelfConditioning(nn.Module):
    """x = norm(embedding + ffn(norm(soft))); the outer norm has no scale and is applied on the first step too."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, scale=False)
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, embedded: Tensor, soft: Tensor) -> Tensor:
        x = self.pre_norm(soft)
        signal = self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return self.post_norm(embedded + signal)


class TiedEmbedding(nn.Embedding):
    """One table [V, D] for embedding, head and soft embedding; what replaces it must offer the same three."""

    def logits(self, x: Tensor) -> Tensor:
        """x [B, N, D] → [B, N, V]."""
        return F.linear(x, self.weight)

    def expected(self, probabilities: Tensor) -> Tensor:
        """Mean embedding under probabilities [B, N, V] float32 → [B, N, D]."""
        return probabilities.type_as(self.weight) @ self.weight


class Denoiser(nn.Module):
    """The whole model. Masks and prefixes are arguments, so that training, export and replay share one stack."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TiedEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        for full in (False, True):
            name = "full_frequencies" if full else "sliding_frequencies"
            self.register_buffer(name, rope_frequencies(config, full=full), persistent=False)

    @property
    def embed_scale(self) -> float:
        """sqrt(hidden), rounded to the dtype of the weights as the released code does; integer ones stand for float32."""
        stored = self.embed_tokens.weight.dtype
        dtype = stored if stored.is_floating_point else torch.float32
        return float(torch.tensor(math.sqrt(self.config.hidden_size), dtype=dtype))

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens [B, N] → [B, N, D]."""
        return tap("embedded", self.embed_tokens(tokens) * self.embed_scale)

    def soft_embed(self, tempered: Tensor, top_k: int | None = None) -> Tensor:
        """Soft embedding of the tempered logits [B, N, V] → [B, N, D], the next step's self-conditioning.

        With `top_k`, the mean of that many likeliest ids' embeddings alone (see `SamplerConfig.soft`).
        """
        if top_k is None:
            return self.embed_tokens.expected(tempered.softmax(-1, dtype=torch.float32)) * self.embed_scale
        best, ids = tempered.topk(min(top_k, tempered.shape[-1]), dim=-1)  # [B, N, K]
        rows = self.embed_tokens(ids.flatten(-2)).unflatten(1, ids.shape[-2:]) * self.embed_scale  # [B, N, K, D]
        return (best.softmax(-1, dtype=torch.float32).type_as(rows).unsqueeze(-2) @ rows).squeeze(-2)

    def head(self, x: Tensor) -> Tensor:
        """Last hidden states [B, N, D] → softcapped logits [B, N, V] in float32."""
        cap = self.config.final_logit_softcapping
        return torch.tanh(self.embed_tokens.logits(x).float() / cap) * cap

    def stack(
        self, x: Tensor, positions: Tensor, masks: tuple[Tensor, Tensor], prefix: list[KV] | None, mode: Mode
    ) -> tuple[Tensor, list[KV]]:
        """Run all layers. x [B, N, D]; positions [N] or [B, N]; masks (sliding, full) for [S+N] keys; gives new keys/values."""
        tables = []
        for frequencies in (self.sliding_frequencies, self.full_frequencies):
            angle = positions.float()[..., None, None] * frequencies  # type: ignore[operator]
            tables.append((angle.cos().type_as(x), angle.sin().type_as(x)))
        biases = [torch.zeros(mask.shape, dtype=x.dtype).masked_fill(~mask, HIDDEN) for mask in masks]
        new: list[KV] = []
        for i, layer in enumerate(self.layers):
            full = self.config.is_full(i)
            cos, sin = tables[full]
            x, kv = layer(x, cos, sin, biases[full], None if prefix is None else prefix[i], mode)
            new.append(kv)
        return tap("hidden", self.norm(x)), new

    def encode(self, tokens: Tensor, prefix: list[KV] | None = None, length: Tensor | int = 0) -> tuple[Tensor, list[KV]]:
        """Causal pass over new prefix tokens.

        Args:
            tokens: [B, N] ids at positions length … length+N−1; rows past the valid count are the caller's to drop.
            prefix: per layer keys/values [B, S, K, d]; slot s holds position s, slots ≥ length are ignored.
            length: valid prefix tokens.
        Returns:
            last hidden states [B, N, D] after the final norm, and per layer the keys/values of the N tokens.
        """
        n = tokens.shape[1]
        masks = encode_masks(self.config, n, 0 if prefix is None else prefix[0][0].shape[1], length)
        return self.stack(self.embed(tokens), torch.arange(n) + length, masks, prefix, "encode")

    def denoise(self, canvas: Tensor, soft: Tensor, prefix: list[KV] | None, length: Tensor | int) -> Tensor:
        """Bidirectional pass over a canvas; never writes the prefix.

        Args:
            canvas: [B, N] ids at positions length … length+N−1.
            soft: [B, N, D] soft embeddings of the last step, zeros on the first.
            prefix, length: as in `encode`.
        Returns:
            logits [B, N, V] float32, softcapped, before temperature.
        """
        return self.head(self.denoise_hidden(canvas, soft, prefix, length))

    def denoise_hidden(self, canvas: Tensor, soft: Tensor, prefix: list[KV] | None, length: Tensor | int) -> Tensor:
        """What `denoise` gives the head: hidden states [B, N, D] after the final norm."""
        n = canvas.shape[1]
        masks = denoise_masks(self.config, n, 0 if prefix is None else prefix[0][0].shape[1], length)
        x = tap("conditioned", self.self_conditioning(self.embed(canvas), soft))
        return self.stack(x, torch.arange(n) + length, masks, prefix, "denoise")[0]

    def denoise_active(
        self, canvas: Tensor, positions: Tensor, soft: Tensor, prefix: list[KV], length: Tensor | int, settled: Tensor
    ) -> tuple[Tensor, list[KV]]:
        """`denoise` of the active positions; with all of them active it is the same.

        Args:
            canvas: [B, A] ids of the active positions.
            positions: [A] where they are in the canvas.
            soft: [B, A, D].
            prefix: as in `encode`, with the keys/values of the canvas's last passes in slots length … length+N−1.
            settled: bool [N], canvas positions whose keys/values are to be read from there; active ones are not.
        Returns:
            logits [B, A, V] as in `denoise`, and per layer the keys/values of the active positions.
        """
        masks = denoise_masks(self.config, canvas.shape[1], prefix[0][0].shape[1], length, settled)
        x = self.self_conditioning(self.embed(canvas), soft)
        x, new = self.stack(x, positions + length, masks, prefix, "denoise")
        return self.head(x), new


def encode_masks(
    config: ModelConfig, n: int, slots: int, length: Tensor | int, local: int | None = None
) -> tuple[Tensor, Tensor]:
    """Visible keys for causal encoding, (sliding, full), each [N, slots+N]: itself and the W−1 before it.

    `local`: sliding layers have that many slots alone, the last ones.
    """
    own = torch.arange(n)
    query = (own + length)[:, None]

    def causal(slot: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of all keys, and which of them each query may see."""
        position = torch.cat([slot, own + length])
        filled = torch.cat([slot < length, torch.ones(n, dtype=torch.bool)])
        return position, filled & (position <= query)

    position, near = causal(_last_slots(slots, local))
    return near & (position > query - config.sliding_window), causal(torch.arange(slots))[1]


def denoise_masks(
    config: ModelConfig, n: int, slots: int, length: Tensor | int, settled: Tensor | None = None, local: int | None = None
) -> tuple[Tensor, Tensor]:
    """Visible keys for denoising, (sliding, full), each [1, slots+N]: sliding layers see the last W−1 prefix tokens.

    `settled`, bool of any length: slot length+i is visible as well where settled[i] is true. `local` as in `encode_masks`.
    """
    canvas = torch.ones(n, dtype=torch.bool)

    def filled(slot: Tensor) -> Tensor:
        if settled is None:
            return slot < length
        behind, most = slot - length, settled.shape[-1] - 1
        return (slot < length) | (behind >= 0) & (behind <= most) & settled[behind.clamp(0, most)]

    slot = _last_slots(slots, local)
    recent = filled(slot) & (slot >= length - (config.sliding_window - 1))
    return torch.cat([recent, canvas])[None], torch.cat([filled(torch.arange(slots)), canvas])[None]


def _last_slots(slots: int, local: int | None) -> Tensor:
    return torch.arange(slots) if local is None else torch.arange(local) + (slots - local)
