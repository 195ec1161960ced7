"""The objective: uniform-noise block diffusion behind a causal prefix, with self-conditioning, and next-token loss.

Formulae and sources are in docs/how-it-works/training.md. Rows are left-padded; rope is relative, so that only shifts them.
B batch, N canvas, P prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import Denoiser
from dgemma.model.tiny.train import denoise_batch, encode_batch
from dgemma.train.data import Batch
from dgemma.train.options import FinetuneOptions


@dataclass(frozen=True)
class Losses:
    """Scalars, in nats: the denoiser's for each position, the encoder's for each token of an answer."""

    diffusion: Tensor
    next_token: Tensor

    def total(self, options: FinetuneOptions) -> Tensor:
        return self.diffusion + options.next_token_weight * self.next_token


def corrupted(canvas: Tensor, t: Tensor, vocab: int, generator: torch.Generator) -> Tensor:
    """canvas [B, N] whose ids are replaced by uniform ones, each with the probability t [B] of its row."""
    noise = torch.randint(0, vocab, canvas.shape, generator=generator)
    return torch.where(torch.rand(canvas.shape, generator=generator) < t[:, None], noise, canvas)


def followed(model: Denoiser, logits: Tensor, policy: SamplerConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the sampler makes of logits [B, N, V]: the next step's canvas [B, N] and soft embeddings [B, N, D].

    Half of the rows take the temperature of a first step, the others one drawn from the schedule's range.
    """
    rows, n, _ = logits.shape
    drawn = torch.rand(2, rows, generator=generator)
    temperature = policy.t_max - (policy.t_max - policy.t_min) * drawn[0] * (drawn[1] < 0.5)
    tempered = logits / temperature[:, None, None]
    words = torch.randint(0, 1 << 32, (rows, 2, n), generator=generator)
    return sampling.step(tempered, words, policy.entropy_bound).canvas, model.soft_embed(tempered, policy.top_k)


def losses(
    model: Denoiser, batch: Batch, policy: SamplerConfig, options: FinetuneOptions, generator: torch.Generator
) -> Losses:
    """Both losses of a batch, with gradients where the model's weights have them; all randomness is the generator's."""
    rows, n = batch.canvas.shape
    vocab, pad = model.config.vocab_size, model.config.pad_token_id
    whole = torch.cat([batch.prefix, batch.canvas], 1)  # [B, P+N]
    hidden, kv = encode_batch(model, whole, F.pad(batch.valid, (0, n), value=True))
    slots = batch.prefix.shape[1]
    prefix = [(k[:, :slots], v[:, :slots]) for k, v in kv]
    said = model.head(hidden[:, slots - 1 : -1])  # [B, N, V], each from what stands before it
    target = batch.canvas.masked_fill(batch.canvas == pad, -100)
    next_token = F.cross_entropy(said.flatten(0, 1), target.flatten(), ignore_index=-100)

    first = torch.randperm(rows, generator=generator) < round(rows * options.first_step_share)  # [B]
    pure = torch.rand(rows, generator=generator) < options.pure_noise_share
    t = torch.where(pure, torch.ones(rows), torch.rand(rows, generator=generator))
    noisy = corrupted(batch.canvas, t, vocab, generator)
    soft = torch.zeros(rows, n, model.config.hidden_size)
    later = (~first).nonzero().squeeze(1)
    if len(later):
        with torch.no_grad():
            own = [(k[later], v[later]) for k, v in prefix]
            logits = denoise_batch(model, noisy[later], soft[later], own, batch.valid[later])
            noisy[later], soft[later] = followed(model, logits, policy, generator)
    logits = denoise_batch(model, noisy, soft, prefix, batch.valid)
    return Losses(F.cross_entropy(logits.flatten(0, 1), batch.canvas.flatten()), next_token)
