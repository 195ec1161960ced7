"""The objective on whole conversations: one causal pass over a conversation serves all of its canvases.

Answers are open here: of many that are right, the data hold one. So where a later denoising step is learned, what the sampler
accepted holds the answer's own ids, not ones that the model draws: those would have nothing to do with the rest of the answer,
and the model would learn to overlook them. If the model's distributions are right, both are distributed alike.
B conversations, L their length, R canvases, N canvas, D hidden, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import KV, Denoiser
from dgemma.train.story.data import conversation
from dgemma.train.story.dialogue import Messages

_POOL = 128  # conversations that are sorted by length together


@dataclass(frozen=True)
class Conversation:
    """ids; which of them an answer says; and its canvases: where they begin, and N ids each, pads behind the stop token."""

    ids: list[int]
    said: list[bool]
    canvases: list[tuple[int, list[int]]]


@dataclass(frozen=True)
class Packed:
    """ids and said [B, L], filled up from the right; owner and start [R], which conversation and where; canvas [R, N]."""

    ids: Tensor
    said: Tensor
    owner: Tensor
    start: Tensor
    canvas: Tensor


def conversation_ids(messages: Messages, encode: Callable[[str], list[int]], n: int, *, bos: int, end: int) -> Conversation:
    """As the checkpoint's chat template says it."""
    ids, said, canvases = [bos], [False], list[tuple[int, list[int]]]()
    for message in messages:
        is_answer = message["role"] == "assistant"
        head = encode(f"<start_of_turn>{'model' if is_answer else 'user'}\n")
        body = [*encode(message["content"]), end]
        if is_answer:
            begins = len(ids) + len(head)
            for at in range(0, len(body), n):
                piece = body[at : at + n]
                canvases.append((begins + at, piece + [0] * (n - len(piece))))
        tail = encode("\n")
        ids += head + body + tail
        said += [False] * len(head) + [is_answer] * len(body) + [False] * len(tail)
    return Conversation(ids, said, canvases)


def packed(conversations: Sequence[Conversation]) -> Packed:
    longest = max(len(one.ids) for one in conversations)
    return Packed(
        torch.tensor([one.ids + [0] * (longest - len(one.ids)) for one in conversations]),
        torch.tensor([one.said + [False] * (longest - len(one.said)) for one in conversations]),
        torch.tensor([i for i, one in enumerate(conversations) for _ in one.canvases]),
        torch.tensor([start for one in conversations for start, _ in one.canvases]),
        torch.tensor([ids for one in conversations for _, ids in one.canvases]),
    )


def batches(to_ids: Callable[[Messages], Conversation], seed: int, tokens: int) -> Iterator[Packed]:
    """Endless batches of about so many ids, conversations of similar lengths together."""
    rng = random.Random(seed)
    while True:
        pool = sorted((to_ids(conversation(rng)) for _ in range(_POOL)), key=lambda one: len(one.ids))
        groups = []
        while pool:
            count = max(1, tokens // len(pool[-1].ids))
            groups.append(pool[-count:])
            del pool[-count:]
        rng.shuffle(groups)
        yield from map(packed, groups)


def encode_whole(model: Denoiser, ids: Tensor) -> tuple[Tensor, list[KV]]:
    """Causal pass over ids [B, L], no longer than the window."""
    at = torch.arange(ids.shape[1])
    causal = at[None, :] <= at[:, None]
    return model.stack(model.embed(ids), at, (causal, causal), None, "encode")


def denoise_behind(model: Denoiser, canvas: Tensor, soft: Tensor, prefix: list[KV], start: Tensor) -> Tensor:
    """Logits [R, N, V] of canvases that begin at `start` [R] behind keys and values of S slots."""
    rows, n = canvas.shape
    slots = torch.arange(prefix[0][0].shape[1])
    seen = torch.cat([slots < start[:, None], torch.ones(rows, n, dtype=torch.bool)], 1)[:, None, None, None, :]
    x = model.self_conditioning(model.embed(canvas), soft)
    x, _ = model.stack(x, start[:, None] + torch.arange(n), (seen, seen), prefix, "denoise")
    return model.head(x)


def accepted(
    model: Denoiser, logits: Tensor, truth: Tensor, policy: SamplerConfig, mixture: Mixture, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """What the sampler leaves of logits [R, N, V] if it draws the truth [R, N]: canvas, soft embeddings, what was accepted.

    Temperatures are drawn from the schedule's range. Some rows accept as much as several steps would.
    """
    rows, n = truth.shape
    drawn, leaps, nats = torch.rand(3, rows, generator=generator)
    tempered = logits / (policy.t_max - (policy.t_max - policy.t_min) * drawn)[:, None, None]
    most = policy.entropy_bound * (mixture.most_nats / policy.entropy_bound) ** nats
    bound = torch.where(leaps < mixture.leap_share, most, policy.entropy_bound)
    logs = tempered.log_softmax(-1)
    taken = sampling.accept(-(logs.exp() * logs).sum(-1), bound[:, None])
    noise = torch.randint(0, logits.shape[-1], (rows, n), generator=generator)
    return torch.where(taken, truth, noise), model.soft_embed(tempered, policy.top_k), taken


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What the denoiser sees of a canvas: so many steps, one after the other, each learned from.

    Args:
        pure_noise_share: of rows, which begin as noise; the others draw their noise level uniformly.
        leap_share: of rows in every step, which accept up to `most_nats` at once, so that few steps lead through a canvas.
        accepted_weight: of positions that hold the answer's id since the step before, beside the 1 of others: to keep what was
            accepted is learned late otherwise, as most of the loss is of choices that are still open.
    """

    steps: int = 4
    pure_noise_share: float = 0.75
    leap_share: float = 0.6
    most_nats: float = 10.0
    accepted_weight: float = 5.0
    next_token_weight: float = 0.5


def losses(
    model: Denoiser, batch: Packed, policy: SamplerConfig, mixture: Mixture, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The denoiser's loss of each position and the encoder's of each token of an answer, in nats."""
    rows, n = batch.canvas.shape
    hidden, kv = encode_whole(model, batch.ids)
    target = batch.ids[:, 1:].masked_fill(~batch.said[:, 1:], -100)
    next_token = F.cross_entropy(model.head(hidden[:, :-1]).flatten(0, 1), target.flatten(), ignore_index=-100)
    slots = int(batch.start.max())
    prefix = [(k[:, :slots][batch.owner], v[:, :slots][batch.owner]) for k, v in kv]

    pure = torch.rand(rows, generator=generator) < mixture.pure_noise_share
    t = torch.where(pure, torch.ones(rows), torch.rand(rows, generator=generator))
    noise = torch.randint(0, model.config.vocab_size, (rows, n), generator=generator)
    canvas = torch.where(torch.rand(rows, n, generator=generator) < t[:, None], noise, batch.canvas)
    soft = torch.zeros(rows, n, model.config.hidden_size)
    diffusion, taken = torch.zeros(()), torch.zeros(rows, n, dtype=torch.bool)
    for _ in range(mixture.steps):
        logits = denoise_behind(model, canvas, soft, prefix, batch.start)
        each = F.cross_entropy(logits.flatten(0, 1), batch.canvas.flatten(), reduction="none").view(rows, n)
        diffusion = diffusion + (each * torch.where(taken, mixture.accepted_weight, 1.0)).mean() / mixture.steps
        with torch.no_grad():
            canvas, soft, taken = accepted(model, logits, batch.canvas, policy, mixture, generator)
    return diffusion, next_token
