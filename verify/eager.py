"""The float model in eager PyTorch as the reference: whole generations, and every step of one replayed.

It knows nothing of bundles or engines. N canvas, S prefix, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.model import checkpoint, generate
from dgemma.model.denoiser import KV, Denoiser


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One denoising step of the float model.

    Args:
        row: in the trajectory's arrays.
        ids: all tokens of the prefix.
        prefix: per layer keys and values [1, S, K, d].
        soft, next_soft: [1, N, D] soft embeddings that the step read, and that it made.
        tempered: logits over temperature, [1, N, V] float32.
    """

    row: int
    ids: list[int]
    prefix: list[KV] | None
    soft: Tensor
    next_soft: Tensor
    tempered: Tensor


class Eager:
    """The torch rung: `model.generate` on a checkpoint, or on a model that is loaded already."""

    def __init__(self, model: Path | Denoiser, sampler: SamplerConfig, canvas_length: int) -> None:
        self.model = model if isinstance(model, Denoiser) else checkpoint.load(model).model
        self.model.config = replace(self.model.config, canvas_length=canvas_length)
        self.sampler = sampler

    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        return generate.generate(self.model, self.sampler, prompt_ids, seed=seed, max_new_tokens=max_new_tokens).trajectory

    @torch.no_grad()
    def replay(self, trajectory: Trajectory, canvas: int | None = None) -> Iterator[Replayed]:
        """Every step of a trajectory, or of one canvas of it, computed again from its own input canvases."""
        ids: list[int] = trajectory.prompt_ids.tolist()
        prefix: list[KV] | None = None
        pending = list(ids)
        for index in range(int(trajectory.canvas_index.max(initial=-1)) + 1):
            rows = np.flatnonzero(trajectory.canvas_index == index)
            if canvas is None or canvas == index:
                prefix, pending = generate.extend(self.model, prefix, pending), []
                yield from self._replay_canvas(trajectory, rows, ids, prefix)
            if canvas == index:
                return
            committed = trajectory.argmax[rows[-1]].tolist()
            ids, pending = ids + committed, pending + committed

    def _replay_canvas(
        self, trajectory: Trajectory, rows: npt.NDArray[np.int64], ids: list[int], prefix: list[KV] | None
    ) -> Iterator[Replayed]:
        embedding = self.model.embed_tokens.weight
        soft = torch.zeros(1, trajectory.canvas_in.shape[1], self.model.config.hidden_size, dtype=embedding.dtype)  # [1, N, D]
        for row in rows.tolist():
            canvas_in = torch.from_numpy(trajectory.canvas_in[row])[None]  # [1, N]
            logits = self.model.denoise(canvas_in, soft, prefix, len(ids))  # [1, N, V]
            tempered = logits / float(trajectory.temperature[row])
            made = self.model.soft_embed(tempered)
            yield Replayed(row=row, ids=ids, prefix=prefix, soft=soft, next_soft=made, tempered=tempered)
            soft = made

    def logits(self, trajectory: Trajectory, row: int) -> npt.NDArray[np.float32]:
        """Tempered logits [N, V] of one row."""
        for step in self.replay(trajectory, int(trajectory.canvas_index[row])):
            if step.row == row:
                result: npt.NDArray[np.float32] = step.tempered[0].numpy()
                return result
        raise IndexError(row)
