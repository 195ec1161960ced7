"""The denoiser in JAX: one weight stack, run causally (`encode`) or bidirectionally (`denoise`). One text, no batch.

Written from the semantics of transformers 5.23 `diffusion_gemma` with its DynamicCache and from the official JAX code's
choice of dtypes; nothing is shared with the PyTorch model. Letters: N canvas or chunk, S prefix slots, D hidden,
V vocabulary, H heads, K kv heads, G = H/K, d head dim, E experts, W expert width.

**Dtypes.** Weights and whatever enters a matrix product, a prefix or the residual are in the dtype of the weights; all
between is float32: products accumulate in float32, and norms, rope, GELU, softmax and logits are computed in it. So in
bfloat16 every tensor that has a name is rounded once, explicitly (`rounded`), and no compiler flag for excess precision
changes the result. XLA for TPU fuses elementwise chains in float32 likewise; TPU v4 has no bfloat16 vector arithmetic.

**Taps.** `encode` and `denoise` can return tensors by name: `embedded`, `conditioned` (denoise), `layers.I.NAME` with the
names of `layer_taps`, `hidden` (after the final norm) and `logits` (denoise).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from dgemma.core.config import FULL, ModelConfig
from dgemma.reference.weights import Weights

Mode = Literal["encode", "denoise"]
KV = tuple[Array, Array]
Prefix = dict[str, KV]  # "sliding" and "full": keys (after norm and rope) and values (after norm) [layers, S, K, d]
Taps = dict[str, Array]

# attention_in: after input_layernorm; q, k: after norm and rope; v: after norm; attention_out: after o_proj;
# mlp_in: after pre_feedforward_layernorm; mlp_out: before post_feedforward_layernorm; out: times the layer scalar.
LAYER_TAPS = ("attention_in", "q", "k", "v", "attention_out", "mlp_in", "mlp_out", "out")


def layer_taps(config: ModelConfig) -> tuple[str, ...]:
    """Names of a layer's tensors: `LAYER_TAPS`, and in a mixture `router`, its scores before the softmax."""
    return (*LAYER_TAPS, "router") if config.is_moe else LAYER_TAPS


def rounded(x: Array, dtype: Any) -> Array:
    """float32 → dtype; XLA may drop a cast to bfloat16 and back, but never a reduce_precision."""
    return lax.reduce_precision(x, 8, 7).astype(dtype) if dtype == jnp.bfloat16 else x.astype(dtype)


def product(spec: str, a: Array, b: Array) -> Array:
    """einsum of two arrays of one dtype, accumulated in float32, which it returns."""

    def widened(a: Array, b: Array) -> Array:
        wide = (a.astype(jnp.float32), b.astype(jnp.float32))
        return jnp.einsum(spec, *wide, precision=lax.Precision.HIGHEST)

    def native(a: Array, b: Array) -> Array:
        return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)

    if a.dtype == jnp.float32:
        return widened(a, b)
    # XLA for CPU lacks some products of bfloat16 to float32; widened operands give the same exact products.
    return lax.platform_dependent(a, b, cpu=widened, default=native)


def rms_norm(x: Array, eps: float, scale: Array | None = None) -> Array:
    """float32 x / rms(x) over the last axis, times a plain scale (not 1 + scale) where there is one."""
    wide = x.astype(jnp.float32)
    normed = wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return normed if scale is None else normed * scale.astype(jnp.float32)


def rope_frequencies(config: ModelConfig, *, full: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Angles per position, float32 [d/2]: theta^(−2i/d); full layers rotate only the leading `partial` share of pairs."""
    dim = config.global_head_dim if full else config.head_dim
    theta = config.full_rope_theta if full else config.sliding_rope_theta
    pairs = np.arange(dim // 2, dtype=np.float64)
    rotated = int(config.full_partial_rotary_factor * dim // 2) if full else dim // 2
    return np.where(pairs < rotated, theta ** (-2.0 * pairs / dim), 0.0).astype(np.float32)


def rope(x: Array, angle: Array) -> Array:
    """Rotate pairs (i, i + d/2) of float32 x [N, heads, d] by angle [N, d/2]."""
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(w: Weights, config: ModelConfig, x: Array, angle: Array, visible: Array, prefix: KV | None) -> tuple[Array, Taps]:
    """Grouped-query attention with scale 1. Layers without v_proj take the raw key product as value.

    Args:
        x: [N, D], after the input norm.
        angle: float32 [N, d/2].
        visible: bool [N or 1, S + N], prefix slots first.
        prefix: keys and values [S, K, d].
    Returns:
        float32 [N, D], and q [N, H, d], k, v [N, K, d] in the dtype of x.
    """
    n, dtype, eps = x.shape[0], x.dtype, config.rms_norm_eps

    def heads(name: str) -> Array:
        return product("nd,od->no", x, w[name]).reshape(n, -1, w["q_norm"].shape[-1])

    key = rounded(heads("k_proj"), dtype)
    value = rounded(heads("v_proj"), dtype) if "v_proj" in w else key
    q = rounded(rope(rms_norm(rounded(heads("q_proj"), dtype), eps, w["q_norm"]), angle), dtype)
    k = rounded(rope(rms_norm(key, eps, w["k_norm"]), angle), dtype)
    v = rounded(rms_norm(value, eps), dtype)
    keys, values = (k, v) if prefix is None else (jnp.concatenate([prefix[0], k]), jnp.concatenate([prefix[1], v]))
    grouped = q.reshape(n, k.shape[1], -1, q.shape[-1])  # [N, K, G, d]
    scores = product("nkgd,skd->kgns", grouped, keys)
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    mixed = rounded(product("kgns,skd->nkgd", rounded(weights, dtype), values), dtype)
    return product("nh,dh->nd", mixed.reshape(n, -1), w["o_proj"]), {"q": q, "k": k, "v": v}


def gated(gate: Array, up: Array) -> Array:
    """GeGLU with the tanh approximation, of float32 products."""
    return jax.nn.gelu(gate, approximate=True) * up


def mlp(w: Weights, x: Array) -> Array:
    """x [N, D] → float32 [N, D]."""
    gate, up = (rounded(product("nd,fd->nf", x, w[name]), x.dtype) for name in ("gate_proj", "up_proj"))
    hidden = rounded(gated(gate.astype(jnp.float32), up.astype(jnp.float32)), x.dtype)
    return product("nf,df->nd", hidden, w["down_proj"])


def route(w: Weights, config: ModelConfig, x: Array) -> tuple[Array, Array]:
    """Weights of the experts, zero for those not chosen, and scores before the softmax, float32 [N, E] each; x is the raw
    residual [N, D]."""
    normed = rms_norm(x, config.rms_norm_eps) * w["router_scale"].astype(jnp.float32) * config.hidden_size**-0.5
    scores = product("nd,ed->ne", rounded(normed, x.dtype), w["router"])
    assert config.top_k_experts is not None
    chosen, index = lax.top_k(jax.nn.softmax(scores, axis=-1), config.top_k_experts)
    shares = chosen / chosen.sum(-1, keepdims=True) * w["expert_scale"].astype(jnp.float32)[index]
    return (jax.nn.one_hot(index, scores.shape[-1], dtype=jnp.float32) * shares[..., None]).sum(-2), scores


def experts(w: Weights, x: Array, shares: Array) -> Array:
    """x [N, D], shares [N, E] → float32 [N, D]. All experts run, so that shapes are static; one product sums them."""
    both = rounded(product("nd,efd->enf", x, w["expert_gate_up"]), x.dtype).astype(jnp.float32)
    gate, up = jnp.split(both, 2, axis=-1)  # [E, N, W]
    hidden = gated(gate, up) * shares.T[..., None]
    return product("enf,edf->nd", rounded(hidden, x.dtype), w["expert_down"])


def layer(
    w: Weights, config: ModelConfig, x: Array, angle: Array, visible: Array, prefix: KV | None, mode: Mode
) -> tuple[Array, Taps]:
    """One sandwich-normed layer: x [N, D] → [N, D], and its tensors by the names of `layer_taps`."""
    dtype, eps = x.dtype, config.rms_norm_eps
    attention_in = rounded(rms_norm(x, eps, w["input_norm"]), dtype)
    attended, taps = attention(w, config, attention_in, angle, visible, prefix)
    attended = rounded(attended, dtype)
    x = rounded(x.astype(jnp.float32) + rms_norm(attended, eps, w["post_attention_norm"]), dtype)
    mlp_in = rounded(rms_norm(x, eps, w["pre_feedforward_norm"]), dtype)
    out = rounded(mlp(w, mlp_in), dtype)
    if config.is_moe:
        expert_in = rounded(rms_norm(x, eps, w["pre_feedforward_norm_2"]), dtype)
        shares, taps["router"] = route(w, config, x)
        routed = rounded(experts(w, expert_in, shares), dtype)
        sides = ((out, w["post_feedforward_norm_1"]), (routed, w["post_feedforward_norm_2"]))
        out = rounded(sum(rms_norm(side, eps, scale) for side, scale in sides), dtype)  # type: ignore[arg-type]
    fed = rounded(rms_norm(out, eps, w["post_feedforward_norm"]), dtype).astype(jnp.float32)
    scalar = w[f"{mode}_scalar"].astype(jnp.float32)
    new = rounded((x.astype(jnp.float32) + fed) * scalar, dtype)
    own = {"attention_in": attention_in, "attention_out": attended, "mlp_in": mlp_in, "mlp_out": out, "out": new}
    return new, taps | own


def runs(config: ModelConfig) -> list[tuple[int, int]]:
    """The layers as runs of equal blocks, a block being some sliding layers and a full one: (blocks, sliding in each)."""
    fulls = [i for i, kind in enumerate(config.layer_types) if kind == FULL]
    sizes = [at - before - 1 for before, at in zip([-1, *fulls], fulls, strict=False)]
    return [(len(list(group)), size) for size, group in groupby(sizes)]


def stack(
    weights: Weights,
    config: ModelConfig,
    x: Array,
    positions: Array,
    visible: tuple[Array, Array],
    prefix: Prefix | None,
    mode: Mode,
    names: tuple[str, ...],
    unroll: bool = False,
) -> tuple[Array, dict[str, Taps]]:
    """All layers, scanned over the stacks so that a layer is compiled once per kind and run.

    Args:
        x: [N, D]; positions int32 [N]; visible: (sliding, full) as in `attention`.
        names: which of `layer_taps` to return.
        unroll: no loops, for who counts operations.
    Returns:
        last residual [N, D], and for "sliding" and "full" the named tensors [layers, N, …].
    """
    angles = [positions.astype(jnp.float32)[:, None] * rope_frequencies(config, full=full) for full in (False, True)]
    found: dict[str, list[Taps]] = {"sliding": [], "full": []}
    first = (0, 0)  # sliding and full layers before the run

    def run_layer(kind: str, x: Array, index: Array) -> tuple[Array, Taps]:
        full = kind == "full"
        w = {name: lax.dynamic_index_in_dim(a, index, keepdims=False) for name, a in weights[kind].items()}
        at = None if prefix is None else tuple(lax.dynamic_index_in_dim(a, index, keepdims=False) for a in prefix[kind])
        x, taps = layer(w, config, x, angles[full], visible[full], at, mode)
        return x, {name: taps[name] for name in names}

    for blocks, inner in runs(config):

        def block(x: Array, i: Array, inner: int = inner, at: tuple[int, int] = first) -> tuple[Array, dict[str, Taps]]:
            taps: dict[str, Taps] = {}
            if inner:
                indices = at[0] + i * inner + jnp.arange(inner, dtype=jnp.int32)
                x, taps["sliding"] = lax.scan(lambda x, j: run_layer("sliding", x, j), x, indices, unroll=unroll)
            x, taps["full"] = run_layer("full", x, at[1] + i)
            return x, taps

        x, taps = lax.scan(block, x, jnp.arange(blocks, dtype=jnp.int32), unroll=unroll)
        if inner:
            found["sliding"].append({k: a.reshape(blocks * inner, *a.shape[2:]) for k, a in taps["sliding"].items()})
        found["full"].append(taps["full"])
        first = (first[0] + blocks * inner, first[1] + blocks)
    joined = {kind: jax.tree.map(lambda *parts: jnp.concatenate(parts), *parts) for kind, parts in found.items() if parts}
    return x, joined


def by_layer(config: ModelConfig, stacked: dict[str, Taps]) -> Taps:
    """`layers.I.NAME` of tensors stacked by kind."""
    out: Taps = {}
    seen = {"sliding": 0, "full": 0}
    for i in range(config.num_layers):
        kind = "full" if config.is_full(i) else "sliding"
        out |= {f"layers.{i}.{name}": a[seen[kind]] for name, a in stacked[kind].items()}
        seen[kind] += 1
    return out


def embed_scale(config: ModelConfig, dtype: Any) -> Array:
    """sqrt(hidden) rounded to the dtype of the weights, as a float32 scalar."""
    return rounded(jnp.float32(np.sqrt(config.hidden_size)), dtype).astype(jnp.float32)


def embed(weights: Weights, config: ModelConfig, tokens: Array) -> Array:
    """tokens int32 [N] → [N, D]."""
    table = weights["embed"]
    return rounded(table[tokens].astype(jnp.float32) * embed_scale(config, table.dtype), table.dtype)


def soft_embed(weights: Weights, config: ModelConfig, tempered: Array, top_k: int | None = None) -> Array:
    """Mean embedding under softmax of tempered float32 [N, V] → [N, D]: the next step's self-conditioning.

    With `top_k`, over that many likeliest ids alone (see `SamplerConfig.soft`).
    """
    table = weights["embed"]
    if top_k is None:
        probabilities = rounded(jax.nn.softmax(tempered, axis=-1), table.dtype)
        mean = product("nv,vd->nd", probabilities, table)
    else:
        best, ids = lax.top_k(tempered, min(top_k, tempered.shape[-1]))  # [N, K]
        mean = product("nk,nkd->nd", rounded(jax.nn.softmax(best, axis=-1), table.dtype), table[ids])
    mean = rounded(mean, table.dtype).astype(jnp.float32)
    return rounded(mean * embed_scale(config, table.dtype), table.dtype)


def condition(weights: Weights, config: ModelConfig, embedded: Array, soft: Array) -> Array:
    """norm(embedded + mlp(norm(soft))), the outer norm without scale and applied on the first step too; all [N, D]."""
    w, dtype, eps = weights["self_conditioning"], embedded.dtype, config.rms_norm_eps
    signal = rounded(mlp(w, rounded(rms_norm(soft, eps, w["pre_norm"]), dtype)), dtype).astype(jnp.float32)
    return rounded(rms_norm(rounded(embedded.astype(jnp.float32) + signal, dtype), eps), dtype)


def encode(
    weights: Weights, config: ModelConfig, tokens: Array, prefix: Prefix | None, length: Array, *, taps: bool = False
) -> tuple[Array, Prefix, Taps]:
    """Causal pass over new prefix tokens.

    Args:
        tokens: int32 [N] at positions length … length+N−1; what lies past the valid ones is the caller's to drop.
        prefix: slot s holds position s; slots from `length` on are not read. None is an empty one.
        length: int32 scalar, valid prefix tokens.
        taps: also return named tensors.
    Returns:
        hidden states [N, D] after the final norm; keys and values [layers, N, K, d] of the N tokens; tensors by name.
    """
    n = tokens.shape[0]
    slots = 0 if prefix is None else prefix["full"][0].shape[1]
    query = length + jnp.arange(n, dtype=jnp.int32)
    slot = jnp.arange(slots, dtype=jnp.int32)
    key = jnp.concatenate([jnp.where(slot < length, slot, np.iinfo(np.int32).max), query])  # empty slots: never reached
    causal = key[None] <= query[:, None]  # [N, S + N]
    near = query[:, None] - key[None] < config.sliding_window  # itself and the W−1 before it
    x = embed(weights, config, tokens)
    names = layer_taps(config) if taps else ("k", "v")
    found: Taps = {"embedded": x}
    x, stacked = stack(weights, config, x, query, (causal & near, causal), prefix, "encode", names)
    hidden = rounded(rms_norm(x, config.rms_norm_eps, weights["norm"]), x.dtype)
    found |= (by_layer(config, stacked) if taps else {}) | {"hidden": hidden}
    return hidden, {kind: (t["k"], t["v"]) for kind, t in stacked.items()}, found if taps else {}


def check(weights: Weights, config: ModelConfig, tokens: Array, prefix: Prefix | None, length: Array) -> tuple[Array, Prefix]:
    """`encode`, and the greedy next token after every row: int32 [N], then keys and values [layers, N, K, d]."""
    hidden, new, _ = encode(weights, config, tokens, prefix, length)
    return jnp.argmax(_logits(weights, config, hidden), axis=-1).astype(jnp.int32), new


def denoise(
    weights: Weights,
    config: ModelConfig,
    canvas: Array,
    soft: Array,
    prefix: Prefix | None,
    length: Array,
    *,
    taps: bool = False,
    unroll: bool = False,
) -> tuple[Array, Taps]:
    """Bidirectional pass over a canvas; it writes nothing.

    Args:
        canvas: int32 [N] at positions length … length+N−1.
        soft: [N, D] soft embedding of the last step, zeros on the first.
        prefix, length, taps: as in `encode`; unroll as in `stack`.
    Returns:
        logits float32 [N, V], softcapped, before temperature; tensors by name.
    """
    n = canvas.shape[0]
    visible = _visible(config, jnp.ones(n, jnp.bool_), prefix, length, None)
    embedded = embed(weights, config, canvas)
    x = condition(weights, config, embedded, soft)
    found: Taps = {"embedded": embedded, "conditioned": x}
    positions = length + jnp.arange(n, dtype=jnp.int32)
    names = layer_taps(config) if taps else ()
    x, stacked = stack(weights, config, x, positions, visible, prefix, "denoise", names, unroll)
    hidden, logits = _head(weights, config, x)
    found |= (by_layer(config, stacked) if taps else {}) | {"hidden": hidden, "logits": logits}
    return logits, found if taps else {}


def denoise_active(
    weights: Weights,
    config: ModelConfig,
    canvas: Array,
    positions: Array,
    soft: Array,
    prefix: Prefix,
    length: Array,
    settled: Array,
    running: Array | None = None,
) -> tuple[Array, Prefix]:
    """`denoise` of the active positions alone.

    Args:
        canvas: int32 [A] ids of the active positions; positions: int32 [A], where they are in the canvas; soft: [A, D].
        prefix: as in `encode`, with the canvas's last keys and values in slots length … length+N−1.
        settled: bool [N], canvas positions whose keys and values are read from there.
        running: bool [A]; rows without it are computed and seen by nobody, so that a program of one shape can run every
            position. None: all of them are seen.
    Returns:
        logits float32 [A, V] as in `denoise`; keys and values [layers, A, K, d] of the active positions.
    """
    own = jnp.ones(positions.shape[0], jnp.bool_) if running is None else running
    visible = _visible(config, own, prefix, length, settled)
    x = condition(weights, config, embed(weights, config, canvas), soft)
    x, stacked = stack(weights, config, x, length + positions, visible, prefix, "denoise", ("k", "v"))
    return _head(weights, config, x)[1], {kind: (t["k"], t["v"]) for kind, t in stacked.items()}


def _visible(
    config: ModelConfig, own: Array, prefix: Prefix | None, length: Array, settled: Array | None
) -> tuple[Array, Array]:
    """(sliding, full) as in `attention`, each [1, S + N], the same for every position of the canvas; own: bool [N]."""
    slots = 0 if prefix is None else prefix["full"][0].shape[1]
    slot = jnp.arange(slots, dtype=jnp.int32)
    filled = slot < length
    if settled is not None:
        filled |= jnp.zeros(slots, jnp.bool_).at[length + jnp.arange(settled.shape[0])].set(settled, mode="drop")
    recent = filled & (length - slot <= config.sliding_window - 1)  # the last W−1 of the prefix
    return jnp.concatenate([recent, own])[None], jnp.concatenate([filled, own])[None]


def _head(weights: Weights, config: ModelConfig, x: Array) -> tuple[Array, Array]:
    """Last residual [N, D] → hidden after the final norm, and softcapped logits float32 [N, V]."""
    hidden = rounded(rms_norm(x, config.rms_norm_eps, weights["norm"]), x.dtype)
    return hidden, _logits(weights, config, hidden)


def _logits(weights: Weights, config: ModelConfig, hidden: Array) -> Array:
    """Hidden [N, D] after the final norm → softcapped logits float32 [N, V]."""
    return softcapped(config, product("nd,vd->nv", hidden, weights["embed"]))


def softcapped(config: ModelConfig, logits: Array) -> Array:
    """Logits of any shape, within ± the model's cap."""
    cap = config.final_logit_softcapping
    return cap * jnp.tanh(logits / cap)
