"""The objective: uniform-noise block diffusion behind a causal prefix, with self-conditioning, and next-token loss.

Formulae and sources are in docs/how-it-works/training.md. B batch, N canvas, W its positions that a batch sees, L those of its
longest answer, P prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.sampler import SamplerConfig
from dgemma.model import sampler as sampling
from dgemma.model.denoiser import KV, Denoiser
from dgemma.train.data import Batch
from dgemma.train.levels import Levels
from dgemma.train.options import Objective
from dgemma.train.original import Original
from dgemma.train.passes import denoise_batch, encode_batch

_IGNORED = -100  # cross_entropy's target that does not count


@dataclass(frozen=True)
class Losses:
    """Scalars in nats: the denoiser's for each position, the encoder's for each token of an answer; and what each row tells.

    Args:
        exact: whether a row's canvas is all right, None unless it is a whole one after its first step.
        levels: noise levels of the rows that drew one, and their losses.
    """

    diffusion: Tensor
    next_token: Tensor
    exact: tuple[bool | None, ...]
    levels: tuple[Tensor, Tensor]

    def total(self, objective: Objective) -> Tensor:
        return objective.diffusion_weight * self.diffusion + objective.next_token_weight * self.next_token


def corrupted(canvas: Tensor, t: Tensor, vocab: int, generator: torch.Generator) -> Tensor:
    """canvas [B, W] whose ids are replaced by uniform ones, each with the probability t [B] of its row."""
    noise = torch.randint(0, vocab, canvas.shape, generator=generator)
    return torch.where(torch.rand(canvas.shape, generator=generator) < t[:, None], noise, canvas)


def followed(model: Denoiser, logits: Tensor, policy: SamplerConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the sampler makes of logits [B, W, V]: the next step's canvas [B, W] and soft embeddings [B, W, D].

    Half of the rows take the temperature of a first step, the others one drawn from the schedule's range.
    """
    rows, n, _ = logits.shape
    drawn = torch.rand(2, rows, generator=generator)
    temperature = policy.t_max - (policy.t_max - policy.t_min) * drawn[0] * (drawn[1] < 0.5)
    tempered = logits / temperature[:, None, None]
    words = torch.randint(0, 1 << 32, (rows, 2, n), generator=generator)
    return sampling.step(tempered, words, policy.entropy_bound).canvas, model.soft_embed(tempered, policy.top_k)


def widest(n: int, objective: Objective, done: float) -> int:
    """How many positions a canvas of n may have with this share of the run done: 1, 2, 4 … n."""
    if done >= objective.grow_until:
        return n
    return min(n, 1 << int(done / objective.grow_until * (math.ceil(math.log2(n)) + 1)))


def draw_widths(most: int, objective: Objective, generator: torch.Generator) -> tuple[int, int]:
    """How many positions of its canvases a batch sees, and how many of them the step before saw."""
    if not (objective.narrow_share or objective.growing_share):
        return most, most
    shares = torch.tensor([objective.narrow_share, objective.growing_share])
    narrow, growing = (torch.rand(2, generator=generator) < shares).tolist()
    width = objective.widths[int(torch.randint(len(objective.widths), (), generator=generator))] if narrow else most
    width = min(width, most)
    return width, max(1, width // 2) if growing else width


def position_weights(canvas: Tensor, config: ModelConfig, objective: Objective) -> Tensor:
    """What each position of canvas [B, W] counts in its row's mean, float [B, W]."""
    weights = torch.ones(canvas.shape)
    weights[torch.isin(canvas, torch.tensor(config.eos_token_ids, dtype=canvas.dtype))] = objective.stop_weight
    weights[canvas == config.pad_token_id] = objective.pad_weight
    return weights


def against(logits: Tensor, meant: Tensor) -> Tensor:
    """Cross-entropy [B, W] of logits [B, W, V] against the distributions of other logits, least where they are equal."""
    return F.cross_entropy(logits.flatten(0, 1), meant.softmax(-1).flatten(0, 1), reduction="none").view(logits.shape[:2])


def losses(
    model: Denoiser,
    batch: Batch,
    policy: SamplerConfig,
    objective: Objective,
    generator: torch.Generator,
    *,
    levels: Levels | None = None,
    done: float = 1.0,
    original: Original | None = None,
) -> Losses:
    """Both losses of a batch, with gradients where the model's weights have them; all randomness is the generator's.

    Args:
        levels: where noise levels are drawn; uniform ones without it.
        done: share of the run, for canvases that grow.
        original: gives what rows that are `kept` are to say, in place of their answers.
    """
    rows, n = batch.canvas.shape
    kept = batch.kept.nonzero().squeeze(1) if original else torch.zeros(0, dtype=torch.long)
    pad = model.config.pad_token_id
    spoken = batch.spoken(pad)  # L
    whole = torch.cat([batch.prefix, batch.canvas[:, :spoken]], 1)  # [B, P+L]
    hidden, kv = encode_batch(model, whole, F.pad(batch.valid, (0, spoken), value=True))
    slots = batch.prefix.shape[1]
    said = model.head(hidden[:, slots - 1 : -1])  # [B, L, V], each from what stands before it
    target = batch.canvas[:, :spoken]
    target = target.masked_fill(target == pad, _IGNORED)
    spoke = F.cross_entropy(said.flatten(0, 1), target.flatten(), ignore_index=_IGNORED, reduction="none").view(rows, spoken)
    before_all: list[KV] = []
    if original and len(kept):
        with torch.no_grad(), original.model() as was:
            hidden, before_all = encode_batch(was, whole[kept], F.pad(batch.valid[kept], (0, spoken), value=True))
            meant = was.head(hidden[:, slots - 1 : -1])
        spoke = spoke.index_copy(0, kept, original.weight * against(said[kept], meant) * (target[kept] != _IGNORED))
    next_token = spoke.sum() / (target != _IGNORED).sum()
    if objective.is_causal:
        return Losses(torch.zeros(()), next_token, (None,) * rows, (torch.zeros(0), torch.zeros(0)))
    prefix = [(k[:, :slots], v[:, :slots]) for k, v in kv]
    width, before = draw_widths(widest(n, objective, done), objective, generator)
    canvas = batch.canvas[:, :width]
    first = torch.randperm(rows, generator=generator) < round(rows * objective.first_step_share)  # [B]
    pure = torch.rand(rows, generator=generator) < objective.pure_noise_share
    drawn, undone = (levels or Levels(learned=False)).draw(rows, generator)
    t, undone = torch.where(pure, 1.0, drawn), torch.where(pure, 1.0, undone)
    noisy = corrupted(canvas, t, model.config.vocab_size, generator)
    soft = torch.zeros(rows, width, model.config.hidden_size)
    later = (~first).nonzero().squeeze(1)
    if len(later):
        with torch.no_grad():
            own = [(k[later], v[later]) for k, v in prefix]
            logits = denoise_batch(model, noisy[later, :before], soft[later, :before], own, batch.valid[later])
            noisy[later, :before], following = followed(model, logits, policy, generator)
            soft[later, :before] = following.to(soft.dtype)
    logits = denoise_batch(model, noisy, soft, prefix, batch.valid)
    each = F.cross_entropy(logits.flatten(0, 1), canvas.flatten(), reduction="none").view(rows, width)
    if original and len(kept):
        with torch.no_grad(), original.model() as was:
            own = [(k[:, :slots], v[:, :slots]) for k, v in before_all]
            meant = denoise_batch(was, noisy[kept], soft[kept], own, batch.valid[kept])
        each = each.index_copy(0, kept, original.weight * against(logits[kept], meant))
    weights = position_weights(canvas, model.config, objective)
    of_rows = (each * weights).sum(1) / weights.sum(1).clamp_min(1e-9)  # [B]
    right = (logits.detach().argmax(-1) == canvas).all(1).tolist()
    counted = (~first).tolist() if before == n else [False] * rows
    exact = tuple(bool(r) if c else None for r, c in zip(right, counted, strict=True))
    return Losses((of_rows * undone).mean(), next_token, exact, (t[~pure], of_rows.detach()[~pure]))
