"""Eager PyTorch as a backend: the float model, or a copy whose matrices are a bundle's integers.

It knows nothing of bundles or engines. N canvas, S prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.model import checkpoint, generate, sampler
from dgemma.model.denoiser import KV, Denoiser
from dgemma.model.guided import guided_logits
from dgemma.model.taps import collecting
from dgemma.verify.backend import Array, Backend, StepOut, Taps, ids_before, routers_of
from dgemma.verify.steer import Steer


class TorchBackend(Backend):
    """`model.generate` on a checkpoint, or on a model that is loaded already."""

    steers = True
    shows_guided = True

    def __init__(self, model: Path | Denoiser, sampler: SamplerConfig, canvas_length: int, name: str = "torch") -> None:
        self.model = model if isinstance(model, Denoiser) else checkpoint.load(model).model
        self.model.config = replace(self.model.config, canvas_length=canvas_length)
        super().__init__(name, self.model.config, sampler)
        self.facts = {"torch": torch.__version__.split("+")[0]}
        self.reset()

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        return generate.generate(self.model, self.sampler, prompt_ids, seed=seed, max_new_tokens=max_new_tokens).trajectory

    def steered(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, steer: Steer) -> Trajectory:
        given = {"seed": seed, "max_new_tokens": max_new_tokens, "options": steer.biased, "min_tokens": steer.min_tokens}
        if steer.guidance is not None:
            given |= {"guidance": steer.guidance, "negative_ids": steer.negative}
        return generate.generate(self.model, self.sampler, prompt_ids, **given).trajectory  # type: ignore[arg-type]

    @torch.no_grad()
    def steered_logits(self, trajectory: Trajectory, row: int, steer: Steer) -> npt.NDArray[np.float32]:
        if (guidance := steer.guidance) is None:
            return self.logits(trajectory, row)
        index = int(trajectory.canvas_index[row])
        before = ids_before(trajectory, index)
        prefix = generate.extend(self.model, None, before)
        negative = generate.extend(self.model, None, [*steer.negative, *before[len(trajectory.prompt_ids) :]])
        soft = torch.zeros(1, trajectory.canvas_in.shape[1], self.config.hidden_size)  # [1, N, D]
        accepted: Tensor | None = None
        for number, i in enumerate(np.flatnonzero(trajectory.canvas_index[: row + 1] == index), 1):
            canvas = torch.from_numpy(trajectory.canvas_in[i])[None]
            logits = guided_logits(self.model, guidance, number, canvas, soft, prefix, negative, accepted)
            tempered = logits / float(trajectory.temperature[i])
            soft = self.model.soft_embed(tempered, self.sampler.top_k)
            accepted = torch.from_numpy(trajectory.accepted[i])[None]
        return _array(tempered[0])

    def reset(self) -> None:
        self._prefix: list[KV] | None = None
        self._length = 0

    @torch.no_grad()
    def extend(self, ids: Sequence[int], *, taps: bool = False) -> Taps:
        found: dict[str, Array] = {}
        with _collected(found, taps):
            self._prefix = generate.extend(self.model, self._prefix, ids)
        self._length += len(ids)
        return found

    def prefix(self, start: int) -> list[tuple[Array, Array]]:
        return [(_array(k[0, start:]), _array(v[0, start:])) for k, v in self._prefix or []]

    @torch.no_grad()
    def step(self, canvas: Array, soft: Array, words: Array, temperature: np.float32, *, taps: bool = False) -> StepOut:
        found: dict[str, Array] = {}
        dtype = self.model.embed_tokens.weight.dtype
        with _collected(found, taps or self.config.is_moe):
            conditioning = torch.tensor(soft, dtype=dtype)[None]  # [1, N, D]
            logits = self.model.denoise(torch.from_numpy(canvas)[None], conditioning, self._prefix, self._length)  # [1, N, V]
        tempered = logits / float(temperature)
        noise = torch.from_numpy(words.astype(np.int64))[None]
        done = sampler.step(tempered, noise, self.sampler.entropy_bound)
        routers = routers_of(found)
        if not taps:
            found.clear()
        else:
            found["logits"] = _array(logits[0])
        made = self.model.soft_embed(tempered, self.sampler.top_k)
        likeliest, log_probs = sampler.candidates(tempered, self.sampler.candidates(self.config.vocab_size))
        return StepOut(
            argmax=done.argmax[0].numpy(),
            entropy=done.entropy[0].numpy(),
            accepted=done.accepted[0].numpy(),
            canvas=done.canvas[0].numpy(),
            soft=_array(made[0]),
            logits=_array(logits[0]),
            drawn=done.drawn[0].numpy(),
            likeliest=likeliest[0].numpy(),
            log_probs=_array(log_probs[0]),
            taps=found,
            routers=routers,
        )


@contextmanager
def _collected(found: dict[str, Array], wanted: bool) -> Iterator[None]:
    """Tapped tensors put into `found`, if they are wanted."""

    def keep(name: str, x: Tensor) -> Tensor:
        found[name] = _array(x[0])
        return x

    if not wanted:
        yield
        return
    with collecting(keep):
        yield


def _array(x: Tensor) -> Array:
    result: Array = x.detach().float().numpy()
    return result
