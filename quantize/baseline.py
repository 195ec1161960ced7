"""How far a quantized model strays from the float one: answers and steps running free, distributions teacher-forced.

N canvas, M steps of one canvas, S prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgemma.core.metrics import paired_difference, ratio_of_sums, wilson
from dgemma.core.sampler import SamplerConfig
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.generate import Generation, extend, generate


@dataclass(frozen=True, kw_only=True)
class ScoredPrompt:
    """A prompt as ids, and whether tokens are its right answer."""

    prompt_ids: Sequence[int]
    is_right: Callable[[Sequence[int]], bool]


@dataclass(frozen=True, kw_only=True)
class ForcedCanvas:
    """All steps of one canvas of the float model: canvases [M, N], soft [M, N, D], temperature [M, 1, 1], log-probabilities."""

    ids: list[int]
    canvas: Tensor
    soft: Tensor
    temperature: Tensor
    logp: Tensor  # of the tempered distributions, [M, N, V]


def expanded(prefix: list[KV] | None, batch: int) -> list[KV] | None:
    return None if prefix is None else [(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in prefix]


@torch.no_grad()
def forced_steps(model: Denoiser, generation: Generation) -> list[ForcedCanvas]:
    """Every canvas of a float generation, computed once more for its soft embeddings and distributions."""
    trajectory, found = generation.trajectory, []
    ids: list[int] = trajectory.prompt_ids.tolist()
    prefix = extend(model, None, ids)
    for index in range(generation.canvases):
        rows = np.flatnonzero(trajectory.canvas_index == index)
        canvas = torch.from_numpy(trajectory.canvas_in[rows])
        temperature = torch.from_numpy(trajectory.temperature[rows])[:, None, None]
        soft = [torch.zeros(1, canvas.shape[1], model.config.hidden_size)]
        logp = []
        for i in range(len(rows)):
            tempered = model.denoise(canvas[i : i + 1], soft[-1], prefix, len(ids)) / temperature[i]
            logp.append(tempered.log_softmax(-1))
            soft.append(model.soft_embed(tempered))
        found.append(
            ForcedCanvas(ids=list(ids), canvas=canvas, soft=torch.cat(soft[:-1]), temperature=temperature, logp=torch.cat(logp))
        )
        committed: list[int] = trajectory.argmax[rows[-1]].tolist()
        prefix, ids = extend(model, prefix, committed), ids + committed
    return found


@torch.no_grad()
def compare_forced(model: Denoiser, canvases: Sequence[ForcedCanvas]) -> dict[str, Any]:
    """KL(float ‖ model) in nats and the share of equal argmax, over all positions; the interval is over canvases."""
    kls, same = [], []
    for forced in canvases:
        prefix = expanded(extend(model, None, forced.ids), len(forced.canvas))
        logq = (model.denoise(forced.canvas, forced.soft, prefix, len(forced.ids)) / forced.temperature).log_softmax(-1)
        kls.append(float((forced.logp.exp() * (forced.logp - logq)).sum(-1).double().mean()))
        same.append(float((forced.logp.argmax(-1) == logq.argmax(-1)).double().mean()))
    return {"canvases": len(kls), "kl_mean": _mean_of(kls), "same_argmax": _mean_of(same)}


def _mean_of(values: Sequence[float]) -> dict[str, float]:
    """Mean over canvases and its 95 % interval by bootstrap."""
    value, low, high = ratio_of_sums(values, [1.0] * len(values))
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}


class FloatBaseline:
    """The float model's answers to some items, once, and any other model held against them."""

    def __init__(
        self,
        model: Denoiser,
        sampler: SamplerConfig,
        items: Sequence[ScoredPrompt],
        *,
        seed: int,
        max_new_tokens: int,
        forced_every: int,
    ) -> None:
        self.sampler, self.items, self.seed, self.max_new_tokens = sampler, items, seed, max_new_tokens
        runs = [self._run(model, item) for item in items]
        self.right, self.steps = self._right(runs), [run.steps for run in runs]
        self.tokens = [run.tokens for run in runs]
        self.canvases = [f for run in runs[::forced_every] for f in forced_steps(model, run)]

    def _run(self, model: Denoiser, item: ScoredPrompt) -> Generation:
        return generate(model, self.sampler, item.prompt_ids, seed=self.seed, max_new_tokens=self.max_new_tokens)

    def _right(self, runs: Sequence[Generation]) -> list[bool]:
        return [item.is_right(run.tokens) for item, run in zip(self.items, runs, strict=True)]

    def float_figures(self) -> dict[str, Any]:
        low, high = wilson(sum(self.right), len(self.right))
        exact = {"value": sum(self.right) / len(self.right), "low": low, "high": high}
        return {"prompts": len(self.items), "exact_match": _rounded(exact), "steps": sum(self.steps)}

    def figures(self, model: Denoiser) -> dict[str, Any]:
        """JSON types: exact match, its difference from float, steps over float's steps, equal answers; then teacher-forced."""
        runs = [self._run(model, item) for item in self.items]
        right = self._right(runs)
        low, high = wilson(sum(right), len(right))
        difference = paired_difference(right, self.right)
        inflation = ratio_of_sums([run.steps for run in runs], self.steps)
        return {
            "exact_match": _rounded({"value": sum(right) / len(right), "low": low, "high": high}),
            "exact_match_difference": _rounded(dict(zip(("value", "low", "high"), difference, strict=True))),
            "step_inflation": _rounded(dict(zip(("value", "low", "high"), inflation, strict=True))),
            "same_tokens": round(sum(run.tokens == t for run, t in zip(runs, self.tokens, strict=True)) / len(runs), 4),
            **compare_forced(model, self.canvases),
        }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}
