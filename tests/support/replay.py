"""transformers' own `generate`, replayed with the contract's noise and recorded as a trajectory.

Only randomness is replaced: the initial canvas, `torch.multinomial` (by a numpy inverse CDF written from the contract's
text, not from `model/sampler.py`) and the renoising tokens. Everything else is what transformers does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma import generation_diffusion_gemma as g

from dgemma.core.noise import canvas_words, step_words, token_from_word, uniform_from_word
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder


def inverse_cdf(weights: npt.NDArray[np.float32], u: float) -> int:
    """The naive twin of the sampling contract for one row: weights [V], u in [0, 1)."""
    sums = [weights[i : i + 256].sum(dtype=np.float32) for i in range(0, len(weights), 256)]
    target = u * float(np.sum([float(s) for s in sums]))
    before = 0.0
    for block, total in enumerate(sums):
        if before + float(total) > target or block == len(sums) - 1:
            break
        before += float(total)
    ids = range(block * 256, min(block * 256 + 256, len(weights)))
    for token in ids:
        before += float(weights[token])
        if before > target:
            return token
    return ids[-1]


class _Noise:
    """Serves one generation's noise in the order in which transformers asks for it, and records every step."""

    def __init__(self, seed: int, steps: int, length: int, vocab: int) -> None:
        self.seed, self.steps, self.length, self.vocab = seed, steps, length, vocab
        self.canvas, self.run = -1, 0
        self.recorder = TrajectoryRecorder(length)
        self.seen: dict[str, Any] = {}

    def initialize(self, *_: Any, **__: Any) -> Tensor:
        if self.run == 0:
            words = canvas_words(self.seed, self.canvas, self.length)
        else:
            words = step_words(self.seed, self.canvas, self.run, self.length)[1]
        return torch.from_numpy(token_from_word(words, self.vocab))[None]

    def multinomial(self, probabilities: Tensor, num_samples: int) -> Tensor:
        assert probabilities.shape == (self.length, self.vocab)
        assert num_samples == 1
        u = uniform_from_word(step_words(self.seed, self.canvas, self.run, self.length)[0])
        # transformers hands over a softmax; dividing by its maximum gives exp(l − max) up to rounding
        weights = (probabilities / probabilities.amax(-1, keepdim=True)).numpy()
        return torch.tensor([[inverse_cdf(row, float(x))] for row, x in zip(weights, u, strict=True)])


def hf_replay(
    model: Any, prompt: Sequence[int], config: g.DiffusionGemmaGenerationConfig, *, seed: int, canvases: int
) -> tuple[Trajectory, list[int]]:
    """Run `model.generate` and return its trajectory and the raw committed tokens of all canvases (pads included)."""
    length, vocab = model.config.canvas_length, model.config.text_config.vocab_size
    noise = _Noise(seed, config.max_denoising_steps, length, vocab)
    prepare, step, accept = model._prepare_denoiser_inputs, model._denoising_step, g.EntropyBoundSampler.accept_canvas

    def prepare_denoiser_inputs(*args: Any, **kwargs: Any) -> Any:
        noise.canvas, noise.run = noise.canvas + 1, 0
        return prepare(*args, **kwargs)

    def accept_canvas(self: Any, current: Tensor, sampled: Tensor, logits: Tensor, cur_step: Any) -> Tensor:
        out = accept(self, current, sampled, logits, cur_step)
        noise.seen = {
            "entropy": torch.distributions.Categorical(logits=logits).entropy(),
            "accepted": self.accepted_token_mask,
        }
        return out

    def denoising_step(*args: Any, **kwargs: Any) -> Any:
        noise.run += 1
        canvas_in, remaining = kwargs["current_canvas"], kwargs["cur_step"]
        result = step(*args, **kwargs)
        temperature = config.t_min + (config.t_max - config.t_min) * remaining / config.max_denoising_steps
        noise.recorder.add(
            noise.canvas, remaining, temperature, canvas_in, result[1], noise.seen["entropy"], noise.seen["accepted"], result[0]
        )
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(g.EntropyBoundSampler, "initialize_canvas", noise.initialize)
        patch.setattr(g.EntropyBoundSampler, "accept_canvas", accept_canvas)
        patch.setattr(model, "_prepare_denoiser_inputs", prepare_denoiser_inputs)
        patch.setattr(model, "_denoising_step", denoising_step)
        patch.setattr(g.torch, "multinomial", noise.multinomial)
        out = model.generate(torch.tensor([list(prompt)]), generation_config=config, max_new_tokens=canvases * length)
    committed = out.sequences[0, len(prompt) :].tolist()
    return noise.recorder.finish(prompt, committed), committed
