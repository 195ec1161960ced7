"""The graphs as torch modules, with their names, dtypes and shapes; `generate` is each engine's own loop.

They say what the graphs compute; engines lower them in parts, `Stack` and the head by tiles (`head.py`). Names and meaning
are a contract (docs/reference/graphs.md). Letters: C chunk, R rows for the head, N canvas, S prefix slots, L the last of them,
T steps, K kv heads, d head dim, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import TensorSpec
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import GREEDY
from dgemma.model import sampler
from dgemma.model.denoiser import KV, Denoiser, denoise_masks, encode_masks


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Lengths that the graphs are built for, in tokens."""

    canvas: int
    chunk: int
    context: int


PREFIX_DIMS = ("S", "L")  # open dimensions that span the context
# Next canvas, argmax, entropy, accepted [1, N], soft [1, N, D], drawn [1, N], likeliest and log_probs [1, N, K].
Sampled = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def pairs(flat: list[Tensor]) -> list[KV]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def flatten(kv: list[KV]) -> list[Tensor]:
    return [t for pair in kv for t in pair]


def sharing(model: Denoiser) -> Denoiser:
    """A copy whose modules can be replaced, without gradients; weights are the same tensors, not copies."""
    tensors = [*model.parameters(), *model.buffers()]
    kept = {id(t): nn.Parameter(t.detach(), requires_grad=False) if isinstance(t, nn.Parameter) else t for t in tensors}
    return copy.deepcopy(model, kept)


def release(copy_: nn.Module, model: nn.Module) -> None:
    """Free what a copy that is used up has beyond its model: tracers keep their graphs, and with them its weights."""
    kept = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    for tensor in (*copy_.parameters(), *copy_.buffers()):
        if tensor.untyped_storage().data_ptr() not in kept:
            tensor.data = torch.empty(0, dtype=tensor.dtype)


class Stack(nn.Module):
    """All layers in either mode, causal over new tokens or bidirectional over a canvas: lowered once for all graphs."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, length: Tensor, is_canvas: Tensor, positions: Tensor, settled: Tensor, prefix: list[Tensor]
    ) -> list[Tensor]:
        """x [1, M, D], length [1], is_canvas bool [1], positions behind the length [1, M], settled bool [1, E] as in
        `denoise_masks`, prefix [1, S, K, d] each, of sliding layers [1, L, K, d] → hidden [1, M, D], new keys and values."""
        config, rows = self.model.config, x.shape[1]
        local, slots = _slots(config, prefix)
        causal = encode_masks(config, rows, slots, length, local)
        canvas = denoise_masks(config, rows, slots, length, settled[0], local)
        sliding, full = (b & is_canvas | a & ~is_canvas for a, b in zip(causal, canvas, strict=True))
        hidden, new = self.model.stack(x, positions[0] + length, (sliding, full), pairs(prefix), is_canvas)
        return [hidden, *flatten(new)]


def _slots(config: ModelConfig, prefix: list[Tensor]) -> tuple[int, int]:
    """Slots of the first sliding and the first full layer; of any, where a model has layers of one kind alone."""
    of_kind = {config.is_full(i): prefix[2 * i].shape[1] for i in reversed(range(config.num_layers))}
    return of_kind.get(False, prefix[0].shape[1]), of_kind.get(True, prefix[0].shape[1])


class Encode(nn.Module):
    """Causal pass over at most C new tokens; keys and values past `count` are the caller's to drop."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """tokens [1, C], start [1], count [1], prefix [1, S, K, d] each → new keys and values [1, C, K, d]."""
        return flatten(self.model.encode(tokens, pairs(prefix), start)[1])


class Decode(nn.Module):
    """Greedy next token after `count` new ones: the autoregressive baseline of the same weights."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, start: Tensor, count: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `Encode`, with next_token [1] before the keys and values."""
        hidden, new = self.model.encode(tokens, pairs(prefix), start)
        last = hidden.index_select(1, count - 1)  # [1, 1, D]
        return [self.model.head(last)[:, 0].argmax(-1), *flatten(new)]


class Check(nn.Module):
    """Greedy next tokens after chosen rows of a causal pass: it checks a draft, and is the draft's `Encode` as well."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, start: Tensor, rows: Tensor, prefix: list[Tensor]) -> list[Tensor]:
        """As `Encode`, with rows [R] in place of the count: indices of the tokens that next ones are wanted after; next_tokens
        [1, R] before the keys and values."""
        hidden, new = self.model.encode(tokens, pairs(prefix), start)
        return [self.model.head(hidden.index_select(1, rows)).argmax(-1), *flatten(new)]


def sample(model: Denoiser, policy: SamplerConfig, logits: Tensor, words: Tensor, temperature: Tensor) -> Sampled:
    """What a step decides: logits [1, N, V], words [2, N], temperature [1] → `denoise`'s outputs in their order."""
    tempered = logits / temperature
    step = sampler.step(tempered, words[None], policy.entropy_bound)
    likeliest, log_probs = sampler.candidates(tempered, policy.candidates(logits.shape[-1]))
    soft = model.soft_embed(tempered, policy.top_k)
    return step.canvas, step.argmax, step.entropy, step.accepted, soft, step.drawn, likeliest, log_probs


class Denoise(nn.Module):
    """One denoising step, sampler included: logits never leave the graph."""

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(
        self, canvas: Tensor, soft: Tensor, words: Tensor, temperature: Tensor, prefix_length: Tensor, prefix: list[Tensor]
    ) -> Sampled:
        """canvas [1, N], soft [1, N, D], words [2, N], temperature [1], prefix_length [1]."""
        logits = self.model.denoise(canvas, soft, pairs(prefix), prefix_length)
        return sample(self.model, self.policy, logits, words, temperature)


class DenoiseGuided(nn.Module):
    """`Denoise` with guidance (classifier-free guidance: Ho and Salimans, arXiv 2207.12598).

    The head reads `negative + guidance · (hidden − negative)`, where `negative` is what the same step is behind another prefix.
    Logits are linear in hidden states up to the softcap, so it acts before that, and no second set of logits is made.
    """

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(
        self,
        canvas: Tensor,
        soft: Tensor,
        words: Tensor,
        temperature: Tensor,
        guidance: Tensor,
        negative: Tensor,
        prefix_length: Tensor,
        prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """As `Denoise`, with guidance [1] and negative [1, N, D] → its outputs, and hidden [1, N, D] without guidance."""
        hidden = self.model.denoise_hidden(canvas, soft, pairs(prefix), prefix_length)
        logits = self.model.head(negative + guidance * (hidden - negative))
        return (*sample(self.model, self.policy, logits, words, temperature), hidden)


class DenoiseActive(nn.Module):
    """One denoising step of the active positions."""

    def __init__(self, model: Denoiser, policy: SamplerConfig) -> None:
        super().__init__()
        self.model, self.policy = model, policy

    def forward(
        self,
        canvas: Tensor,
        positions: Tensor,
        soft: Tensor,
        words: Tensor,
        temperature: Tensor,
        prefix_length: Tensor,
        settled: Tensor,
        prefix: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """canvas, positions [1, A], soft [1, A, D], words [2, A], temperature, prefix_length [1], settled bool [1, N] →
        `denoise`'s outputs for A positions, then their keys and values [1, A, K, d]."""
        logits, new = self.model.denoise_active(canvas, positions[0], soft, pairs(prefix), prefix_length, settled[0])
        return (*sample(self.model, self.policy, logits, words, temperature), *flatten(new))


class Steer(nn.Module):
    """What a bound makes of a step inside `generate`, as `runtime/steering.py` does outside; with the bound that the step was
    built for, it changes nothing."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(
        self, words: Tensor, argmax: Tensor, entropy: Tensor, drawn: Tensor, temperature: Tensor, bound: Tensor
    ) -> tuple[Tensor, Tensor]:
        """words [2, N], argmax, entropy and drawn [1, N], temperature [1], bound [1] float64 → next canvas, accepted [1, N]."""
        accepted = sampler.accept(entropy, bound)
        drawn = torch.where(temperature[None] == torch.tensor(GREEDY, dtype=torch.float32), argmax, drawn)
        return torch.where(accepted, drawn, sampler.tokens(words[1:], self.vocab_size)), accepted


class StopRule(nn.Module):
    """Adaptive stop: the argmax canvas stood still for `stability` steps and the mean entropy is below `confidence`."""

    def forward(
        self, argmax: Tensor, previous: Tensor, still: Tensor, entropy: Tensor, confidence: Tensor, stability: Tensor
    ) -> tuple[Tensor, Tensor]:
        """argmax, previous [1, N], still [1], confidence [1] float64, stability [1] → steps without change [1], stop [1]."""
        still = (still + 1) * (argmax == previous).all(-1).long()
        return still, (entropy.double().mean(-1) < confidence) & (still >= stability)


def prefix_specs(config: ModelConfig, slots: int | str, stem: str = "prefix") -> list[TensorSpec]:
    """Per layer key and value, [1, S, K, d] float32. Where S is open, sliding layers have the last L of the S slots: all of
    them, or at least those that are not filled and W−1 before."""
    local = "L" if slots == "S" and any(map(config.is_full, range(config.num_layers))) else slots
    specs = []
    for layer in range(config.num_layers):
        own = slots if config.is_full(layer) else local
        shape = (1, own, config.layer_kv_heads(layer), config.layer_head_dim(layer))
        specs += [TensorSpec(name=f"{stem}_{part}_{layer}", dtype="float32", shape=shape) for part in ("key", "value")]
    return specs


def stack_inputs(config: ModelConfig) -> list[TensorSpec]:
    """Inputs of `Stack`; M rows of tokens or canvas."""
    return [
        TensorSpec(name="x", dtype="float32", shape=(1, "M", config.hidden_size)),
        TensorSpec(name="length", dtype="int64", shape=(1,)),
        TensorSpec(name="is_canvas", dtype="bool", shape=(1,)),
        TensorSpec(name="positions", dtype="int64", shape=(1, "M")),
        TensorSpec(name="settled", dtype="bool", shape=(1, "E")),
        *prefix_specs(config, "S"),
    ]


def specs(config: ModelConfig, shapes: Shapes, policy: SamplerConfig) -> dict[str, tuple[list[TensorSpec], list[TensorSpec]]]:
    """Inputs and outputs of every graph, in order."""
    n, hidden, steps, candidates = shapes.canvas, config.hidden_size, policy.steps, policy.candidates(config.vocab_size)

    def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    prefix, new = prefix_specs(config, "S"), prefix_specs(config, "C", "new")

    def sampled(rows: int | str) -> list[TensorSpec]:
        return [
            spec("next_canvas", "int64", 1, rows),
            spec("argmax", "int64", 1, rows),
            spec("entropy", "float32", 1, rows),
            spec("accepted", "bool", 1, rows),
            spec("next_soft", "float32", 1, rows, hidden),
            spec("drawn", "int64", 1, rows),
            spec("likeliest", "int64", 1, rows, candidates),
            spec("log_probs", "float32", 1, rows, candidates),
        ]

    tokens = [spec("tokens", "int64", 1, "C"), spec("start", "int64", 1)]
    chunk = [*tokens, spec("count", "int64", 1), *prefix]
    length = [spec("prefix_length", "int64", 1), *prefix]
    step = [
        spec("canvas", "int64", 1, n),
        spec("soft", "float32", 1, n, hidden),
        spec("words", "int64", 2, n),
        spec("temperature", "float32", 1),
    ]
    return {
        "encode": (chunk, new),
        "denoise": ([*step, *length], sampled(n)),
        "denoise_guided": (
            [
                *step,
                spec("guidance", "float32", 1),
                spec("negative", "float32", 1, n, hidden),
                *length,
            ],
            [*sampled(n), spec("hidden", "float32", 1, n, hidden)],
        ),
        "denoise_active": (
            [
                spec("canvas", "int64", 1, "A"),
                spec("positions", "int64", 1, "A"),
                spec("soft", "float32", 1, "A", hidden),
                spec("words", "int64", 2, "A"),
                spec("temperature", "float32", 1),
                spec("prefix_length", "int64", 1),
                spec("settled", "bool", 1, n),
                *prefix,
            ],
            [*sampled("A"), *prefix_specs(config, "A", "new")],
        ),
        "generate": (
            [
                spec("canvas", "int64", 1, n),
                spec("words", "int64", steps, 2, n),
                spec("adaptive", "bool", 1),
                spec("temperatures", "float32", steps),
                spec("bounds", "float64", steps),
                spec("most_steps", "int64", 1),
                spec("confidence", "float64", 1),
                spec("stability", "int64", 1),
                *length,
            ],
            [
                spec("committed", "int64", 1, n),
                spec("steps", "int64", 1),
                spec("argmaxes", "int64", steps, n),
                spec("canvases", "int64", steps, n),
                spec("entropies", "float32", steps, n),
                spec("accepts", "bool", steps, n),
            ],
        ),
        "decode": (chunk, [spec("next_token", "int64", 1), *new]),
        "check": ([*tokens, spec("rows", "int64", "R"), *prefix], [spec("next_tokens", "int64", 1, "R"), *new]),
    }


def example(inputs: list[TensorSpec], sizes: dict[str, int]) -> tuple[object, ...]:
    """Tensors to trace with: everything but the prefix, then the prefix, where there is one, as one list."""
    tensors = []
    for spec in inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
        make = torch.ones if spec.name in ("count", "temperature", "temperatures") else torch.zeros
        tensors.append(make(shape, dtype=getattr(torch, spec.dtype)))
    scalars = sum(not spec.name.startswith(("prefix_key", "prefix_value")) for spec in inputs)
    return (*tensors[:scalars], *([tensors[scalars:]] if tensors[scalars:] else []))
