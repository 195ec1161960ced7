"""Generations of many prompts at once in eager PyTorch: the stock loop with the contract's noise, and token by token.

For teachers and studies: rows are left-padded and share a step, and what is done leaves the batch. It knows nothing of text.
B rows, N canvas, P prefix, S slots, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.noise import canvas_words, step_words, token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import KV, Denoiser
from dgemma.train.passes import denoise_batch, encode_batch

Words = Callable[[int, int], Tensor]  # (row, step from 1) → words [2, N] int64


@dataclass(frozen=True)
class Canvas:
    """One canvas: the ids before it, the noise that it began as, what was committed, and the steps that took."""

    prefix: tuple[int, ...]
    noise: tuple[int, ...]
    committed: tuple[int, ...]
    steps: int


@dataclass
class Generated:
    """An answer up to its stop token, and its canvases; `stopped` is false where there was no room for the stop token."""

    tokens: list[int] = field(default_factory=list)
    canvases: list[Canvas] = field(default_factory=list)
    stopped: bool = False


def initial_noise(seed: int, index: int, n: int, vocab: int) -> Tensor:
    """The ids that canvas number `index` begins as, [N]."""
    return torch.from_numpy(token_from_word(canvas_words(seed, index, n), vocab))


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids [B, P] and which of them are real, bool [B, P]."""
    longest = max(1, *(len(row) for row in rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    return ids, torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])


@torch.no_grad()
def denoise_rows(
    model: Denoiser, policy: SamplerConfig, prefixes: Sequence[Sequence[int]], noise: Tensor, words: Words
) -> list[Canvas]:
    """The stock loop with its adaptive stop on one canvas of every row, as `model.generate.denoise_canvas` runs it.

    Args:
        prefixes: B lists of ids.
        noise: ids [B, N] that the canvases begin as.
        words: of a row and a step.
    """
    ids, valid = left_padded(prefixes)
    prefix = encode_batch(model, ids, valid)[1]
    rows, n = noise.shape
    alive, canvas = torch.arange(rows), noise.clone()
    soft = torch.zeros(rows, n, model.config.hidden_size)
    committed, steps = noise.clone(), torch.zeros(rows, dtype=torch.long)
    last, unchanged = torch.full((rows, n), -1), torch.zeros(rows, dtype=torch.long)
    for run in range(1, policy.steps + 1):
        own = [(k[alive], v[alive]) for k, v in prefix]
        logits = denoise_batch(model, canvas[alive], soft[alive], own, valid[alive])
        tempered = logits / float(np.float32(policy.temperature(policy.steps - run + 1)))
        done = sampling.step(tempered, torch.stack([words(row, run) for row in alive.tolist()]), policy.entropy_bound)
        same = (done.argmax == last[alive]).all(1)
        unchanged[alive] = torch.where(same, unchanged[alive] + 1, 0)
        last[alive], committed[alive], steps[alive] = done.argmax, done.argmax, run
        canvas[alive], soft[alive] = done.canvas, model.soft_embed(tempered, policy.top_k)
        confident = done.entropy.double().mean(1) < policy.confidence_threshold
        alive = alive[~((unchanged[alive] >= policy.stability_threshold) & confident)]
        if not len(alive):
            break
    return [Canvas(tuple(p), tuple(z), tuple(c), s) for p, z, c, s in
            zip(prefixes, noise.tolist(), committed.tolist(), steps.tolist(), strict=True)]  # fmt: skip


def contract_words(seeds: Sequence[int], index: int, n: int) -> Words:
    """What `Session.generate` draws with, for rows with these seeds."""
    return lambda row, run: torch.from_numpy(step_words(seeds[row], index, run, n).astype(np.int64))


def coupled_words(noise: Tensor, vocab: int, others: Words) -> Words:
    """Words with which a canvas's initial noise [B, N] draws: every position, in every step, the quantile that its id there
    stands for. So this noise decides what is committed, as far as the model's distributions are sure of the rest.

    `others` renoise. (Renoising with the initial ids again is worse: what the model half believes is never taken away.)
    """
    middle = ((noise.double() + 0.5) / vocab * 2.0**32).long()  # the id of that word is the noise id
    return lambda row, run: torch.stack([middle[row], others(row, run)[1]])


def generate_rows(
    model: Denoiser,
    policy: SamplerConfig,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    most_canvases: int,
    coupled: bool = False,
) -> list[Generated]:
    """Whole answers. `coupled` draws with `coupled_words`; the initial noise is the seed's either way."""
    config = model.config
    n, stops = config.canvas_length, set(config.eos_token_ids)
    found = [Generated() for _ in prompts]
    for index in range(most_canvases):
        open_ = [i for i, one in enumerate(found) if not one.stopped]
        if not open_:
            break
        own = [seeds[i] for i in open_]
        noise = torch.stack([initial_noise(seed, index, n, config.vocab_size) for seed in own])
        words = contract_words(own, index, n)
        words = coupled_words(noise, config.vocab_size, words) if coupled else words
        prefixes = [[*prompts[i], *found[i].tokens] for i in open_]
        for i, canvas in zip(open_, denoise_rows(model, policy, prefixes, noise, words), strict=True):
            one = found[i]
            one.canvases.append(canvas)
            end = next((at for at, token in enumerate(canvas.committed) if token in stops), None)
            one.tokens += canvas.committed[:end]
            one.stopped = end is not None
    return found


@torch.no_grad()
def sample_tokens(
    model: Denoiser, prompts: Sequence[Sequence[int]], generator: torch.Generator, *, temperature: float, most_tokens: int
) -> list[Generated]:
    """Autoregressive samples of the same weights: one token after another through the causal pass, up to a stop token."""
    ids, valid = left_padded(prompts)
    hidden, cache = encode_batch(model, ids, valid)
    stops = set(model.config.eos_token_ids)
    found = [Generated() for _ in prompts]
    for _ in range(most_tokens):
        logits = model.head(hidden[:, -1:])[:, 0] / temperature
        drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)  # [B, 1]
        for one, token in zip(found, drawn[:, 0].tolist(), strict=True):
            if not one.stopped:
                one.stopped = token in stops
                one.tokens += [] if one.stopped else [token]
        if all(one.stopped for one in found):
            break
        valid = F.pad(valid, (0, 1), value=True)
        hidden, cache = _append(model, drawn, cache, valid)
    return found


def _append(model: Denoiser, token: Tensor, cache: list[KV], valid: Tensor) -> tuple[Tensor, list[KV]]:
    """Encode one more token [B, 1] of every row; valid [B, S+1]."""
    slots = valid.shape[1]
    seen = valid[:, None, None, None, :]
    near = seen & (torch.arange(slots) > slots - 1 - model.config.sliding_window)
    hidden, new = model.stack(model.embed(token), torch.tensor([slots - 1]), (near, seen), cache, "encode")
    return hidden, [(torch.cat([k, a], 1), torch.cat([v, b], 1)) for (k, v), (a, b) in zip(cache, new, strict=True)]
