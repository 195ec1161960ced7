"""The eager backend: whole generations in PyTorch, with the contract's noise, recorded as a trajectory.

The plainest possible host loop, for parity tests, goldens and training-time evaluation. It knows nothing of text,
chunks or context limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dgemma.core.compute_policy import ActiveSet, ComputePolicy
from dgemma.core.errors import UsageError
from dgemma.core.guidance import Guidance
from dgemma.core.noise import canvas_words, step_words, token_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import GREEDY, SamplerOptions
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.guided import guided_logits
from dgemma.model.sampler import step
from dgemma.model.steered import steered

StopReason = Literal["stop", "length"]
_EXPORTED = SamplerOptions()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a generation gave: committed tokens up to the first stop token, and every step on the way there.

    `position_forwards`: positions put through the stack by all steps, by the encoding of canvases that another one follows,
    and by the checking of drafts.
    """

    tokens: tuple[int, ...]
    stop_reason: StopReason
    steps: int
    canvases: int
    position_forwards: int
    trajectory: Trajectory


class AdaptiveStop:
    """Whether a canvas is done: its argmax has not changed for `stability_threshold` steps, and it is confident."""

    def __init__(self, sampler: SamplerConfig) -> None:
        self.sampler = sampler
        self.unchanged = 0
        self.last: Tensor | None = None

    def __call__(self, argmax: Tensor, entropy: Tensor) -> bool:
        """argmax [1, N] ids and entropy [1, N] float32 of the step just run."""
        same = self.last is not None and torch.equal(argmax, self.last)
        self.unchanged = self.unchanged + 1 if same else 0
        self.last = argmax
        stable = self.unchanged >= self.sampler.stability_threshold
        return stable and float(entropy.double().mean()) < self.sampler.confidence_threshold


def extend(model: Denoiser, prefix: list[KV] | None, tokens: Sequence[int]) -> list[KV] | None:
    """Encode tokens behind a prefix whose slots are all filled, and return the longer prefix [1, S+n, K, d]."""
    if not tokens:
        return prefix
    _, new = model.encode(torch.tensor([list(tokens)]), prefix, 0 if prefix is None else prefix[0][0].shape[1])
    if prefix is None:
        return new
    return [(torch.cat([k, nk], 1), torch.cat([v, nv], 1)) for (k, v), (nk, nv) in zip(prefix, new, strict=True)]


def _steps(
    sampler: SamplerConfig, seed: int, index: int, n: int, options: SamplerOptions = _EXPORTED
) -> Iterator[tuple[int, float, Tensor]]:
    """Per denoising step of a canvas: steps remaining, temperature as float32 rounds it, words [1, 2, N]."""
    temperatures = options.temperatures(sampler)
    for run, temperature in enumerate(temperatures, 1):
        words = torch.from_numpy(step_words(seed, index, run, n).astype(np.int64))[None]
        yield len(temperatures) - run + 1, float(np.float32(temperature)), words


def denoise_canvas(
    model: Denoiser,
    sampler: SamplerConfig,
    prefix: list[KV] | None,
    recorder: TrajectoryRecorder,
    *,
    seed: int,
    index: int,
    adaptive: bool,
    options: SamplerOptions = _EXPORTED,
    least: int = 0,
    guidance: Guidance | None = None,
    negative: list[KV] | None = None,
) -> tuple[list[int], int]:
    """All denoising steps of canvas number `index`: what it commits, its last argmax canvas; and its position-forwards, the
    second passes of guided steps not counted.

    `least`: how many of its first positions take no stop token and no padding.
    """
    config = model.config
    n, length = config.canvas_length, 0 if prefix is None else prefix[0][0].shape[1]
    canvas = torch.from_numpy(token_from_word(canvas_words(seed, index, n), config.vocab_size))[None]  # [1, N]
    soft = torch.zeros(1, n, config.hidden_size, dtype=model.embed_tokens.weight.dtype)
    stop = AdaptiveStop(options.applied(sampler))
    committed, position_forwards = list[int](), 0
    accepted: Tensor | None = None
    greedy = float(np.float32(GREEDY))
    bounds = options.bounds(sampler)
    rebounds = any(bound != sampler.entropy_bound for bound in bounds)
    for (remaining, temperature, words), bound in zip(_steps(sampler, seed, index, n, options), bounds, strict=True):
        if guidance is None:
            logits = model.denoise(canvas, soft, prefix, length)
        else:
            number = len(bounds) - remaining + 1
            logits = guided_logits(model, guidance, number, canvas, soft, prefix, negative, accepted)
        tempered = logits / temperature
        done = step(tempered, words, sampler.entropy_bound)
        if options.given or least:
            exact, pad = GREEDY if temperature == greedy else temperature, config.pad_token_id
            done = steered(tempered, words, sampler, options, exact, bound, pad, ends=(*config.eos_token_ids, pad), least=least)
        told = {"entropy_bound": bound} if rebounds else {}
        recorder.add(index, remaining, temperature, canvas, done.argmax, done.entropy, done.accepted, done.canvas, **told)
        committed, position_forwards = done.argmax[0].tolist(), position_forwards + n
        if stop(done.argmax, done.entropy) and adaptive:
            break
        canvas, soft, accepted = done.canvas, model.soft_embed(tempered, sampler.top_k), done.accepted
    return committed, position_forwards


def denoise_active(
    model: Denoiser,
    sampler: SamplerConfig,
    prefix: list[KV] | None,
    recorder: TrajectoryRecorder,
    *,
    seed: int,
    index: int,
    adaptive: bool,
    compute: ComputePolicy,
    first: int | None = None,
) -> tuple[list[int], int]:
    """`denoise_canvas` of the positions that `core.compute_policy` lets run: what the canvas has grown to, and its
    position-forwards.

    `first`: the id that the canvas begins with, where that is known already.
    """
    config = model.config
    n, length = config.canvas_length, 0 if prefix is None else prefix[0][0].shape[1]
    canvas = torch.from_numpy(token_from_word(canvas_words(seed, index, n), config.vocab_size))  # [N]
    if first is not None:
        canvas[0] = first
    soft = torch.zeros(n, config.hidden_size, dtype=model.embed_tokens.weight.dtype)
    caches = _room(model, prefix, n)
    state, position_forwards = ActiveSet(n, compute, sampler, config.eos_token_ids), 0
    for remaining, temperature, words in _steps(sampler, seed, index, n):
        active, before = state.begin(), canvas.clone()
        position_forwards += len(active)
        rows, settled = torch.from_numpy(active), torch.from_numpy(state.committed.copy())  # [A], [N]
        logits, new = model.denoise_active(canvas[None, rows], rows, soft[None, rows], caches, length, settled)
        tempered = logits / temperature
        done = step(tempered, words[..., rows], sampler.entropy_bound)
        for pair, fresh in zip(caches, new, strict=True):
            for cache, values in zip(pair, fresh, strict=True):
                cache[:, length + rows] = values
        canvas[rows], soft[rows] = done.canvas[0], model.soft_embed(tempered, sampler.top_k)[0]
        finished = state.take(active, *(values[0].numpy() for values in (done.argmax, done.entropy, done.accepted)))
        argmax, entropy, accepted = (torch.from_numpy(a.copy()) for a in (state.argmax, state.entropy, state.accepted))
        canvas = torch.where(torch.from_numpy(state.committed), argmax, canvas)
        recorder.add(index, remaining, temperature, before, argmax, entropy, accepted, canvas)
        if finished and adaptive:
            break
    return state.argmax[: state.width].tolist(), position_forwards


def greedy(model: Denoiser, ids: Sequence[int]) -> list[int]:
    """What greedy decoding says after each of `ids`."""
    hidden, _ = model.encode(torch.tensor([list(ids)]))
    return [int(i) for i in model.head(hidden)[0].argmax(-1)]


def _room(model: Denoiser, prefix: list[KV] | None, n: int) -> list[KV]:
    """Copies of a prefix with n free slots behind it."""
    config, dtype, made = model.config, model.embed_tokens.weight.dtype, list[KV]()
    for layer in range(config.num_layers):
        free = torch.zeros(1, n, config.layer_kv_heads(layer), config.layer_head_dim(layer), dtype=dtype)
        pair = (free, free) if prefix is None else prefix[layer]
        made.append((torch.cat([pair[0], free], 1), torch.cat([pair[1], free], 1)))
    return made


@torch.no_grad()
def generate(
    model: Denoiser,
    sampler: SamplerConfig,
    prompt_ids: Sequence[int],
    *,
    seed: int,
    max_new_tokens: int,
    adaptive: bool = True,
    compute: ComputePolicy | None = None,
    options: SamplerOptions = _EXPORTED,
    min_tokens: int = 0,
    guidance: Guidance | None = None,
    negative_ids: Sequence[int] = (),
) -> Generation:
    """Generate with eager PyTorch.

    Args:
        model: batch size is 1; its config gives canvas length and stop tokens.
        prompt_ids: taken verbatim; may be empty, but for drafts.
        seed: 0 … 2⁶⁴−1, makes all randomness.
        max_new_tokens: K; the stock loop denoises at most ceil(K / N) canvases.
        adaptive: False always runs all steps.
        compute: what a canvas leaves out; None is the stock loop.
        options, min_tokens: as `Session.generate` takes them, in the stock loop alone.
        guidance, negative_ids: what steps are pushed away from, in the stock loop alone; the ids of its negative prompt.
    Raises:
        UsageError: ids outside the vocabulary, `max_new_tokens` below 1, a bad seed.
    """
    config = model.config
    if max_new_tokens < 1:
        raise UsageError(f"{max_new_tokens=} must be at least 1")
    if outside := [i for i in prompt_ids if not 0 <= i < config.vocab_size]:
        raise UsageError(f"prompt id {outside[0]} is outside the vocabulary of {config.vocab_size}")
    if compute is not None and compute.speculate and not prompt_ids:
        raise UsageError("drafts are checked against a prompt; give at least one id")
    recorder, stops = TrajectoryRecorder(config.canvas_length), set(config.eos_token_ids)
    prefix: list[KV] | None = None
    negative = extend(model, None, list(negative_ids))
    pending, committed, index, position_forwards = list(prompt_ids), list[int](), 0, 0
    while len(committed) < max_new_tokens and stops.isdisjoint(committed):
        speculate = compute is not None and compute.speculate
        position_forwards += 0 if index == 0 or speculate else len(pending)
        if guidance is not None and guidance.negative is not None and index:
            negative = extend(model, negative, pending)
        prefix = extend(model, prefix, pending)  # the last canvas is encoded only now that something follows it
        if compute is None:
            least = max(0, min_tokens - len(committed))
            pending, own = denoise_canvas(
                model, sampler, prefix, recorder, seed=seed, index=index, adaptive=adaptive, options=options, least=least,
                guidance=guidance, negative=negative,
            )  # fmt: skip
        else:
            before = [*prompt_ids, *committed]
            first = greedy(model, before)[-1] if speculate else None
            pending, own = denoise_active(
                model, sampler, prefix, recorder, seed=seed, index=index, adaptive=adaptive, compute=compute, first=first
            )
            if first is not None:
                draft = [first, *pending[1:]]
                draft = draft[: next((i + 1 for i, token in enumerate(draft) if token in stops), len(draft))]
                said = greedy(model, before + draft)[len(before) - 1 :]
                pending = draft[: next((i for i, token in enumerate(draft) if token != said[i]), len(draft))]
                position_forwards += len(draft)
        committed, index, position_forwards = committed + pending, index + 1, position_forwards + own
    tokens = committed[:max_new_tokens]
    stop_reason: StopReason = "length" if stops.isdisjoint(tokens) else "stop"
    if stop_reason == "stop":
        tokens = tokens[: next(i for i, token in enumerate(tokens) if token in stops)]
    trajectory = recorder.finish(prompt_ids, tokens)
    return Generation(
        tokens=tuple(tokens),
        stop_reason=stop_reason,
        steps=len(recorder.steps),
        canvases=index,
        position_forwards=position_forwards,
        trajectory=trajectory,
    )
