"""A backend of the ladder: one implementation of the same model, to be laid beside another step by step. numpy only.

A backend holds one text at a time. N canvas, S prefix, D hidden, V vocabulary, K kv heads, d head dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dgemma.core.config import ModelConfig
from dgemma.core.noise import step_words
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.verify.steer import Steer

Array = npt.NDArray[Any]
Taps = Mapping[str, Array]
T = TypeVar("T")

# Tensors of a layer in the order in which they are computed; see `model/taps.py`.
LAYER_TAPS = ("attention_in", "q", "k", "v", "attention_out", "mlp_in", "router", "mlp_out", "out")


def tap_order(config: ModelConfig) -> list[str]:
    """Names of all taps, in the order in which they are computed; encode has no `conditioned` and no `logits`."""
    names = [name for name in LAYER_TAPS if config.is_moe or name != "router"]
    layers = [f"layers.{i}.{name}" for i in range(config.num_layers) for name in names]
    return ["embedded", "conditioned", *layers, "hidden", "logits"]


def routers_of(taps: Mapping[str, T]) -> dict[int, T]:
    """Layer → the scores of its router, of tensors by name."""
    return {int(name.split(".")[1]): x for name, x in taps.items() if name.endswith(".router")}


@dataclass(frozen=True, kw_only=True)
class StepOut:
    """What one denoising step gave.

    Args:
        argmax, canvas: int64 [N]; canvas is the next one.
        entropy: float32 [N] nats, accepted: bool [N].
        soft: float32 [N, D], the next step's self-conditioning.
        drawn: int64 [N], what every position draws, accepted or not; None, as the next two, where a bundle does not put it out.
        likeliest: int64 [N, K], the likeliest ids, falling, and log_probs: float32 [N, K], of them.
        logits: float32 [N, V], softcapped, before temperature; None where they cannot be had.
        taps: tensors by name, without a batch.
        routers: layer → its router's scores before the softmax, float32 [N, E]; empty where they cannot be had.
    """

    argmax: Array
    entropy: Array
    accepted: Array
    canvas: Array
    soft: Array
    logits: Array | None
    drawn: Array | None = None
    likeliest: Array | None = None
    log_probs: Array | None = None
    taps: Taps = field(default_factory=dict)
    routers: Mapping[int, Array] = field(default_factory=dict)


class Backend(ABC):
    """One implementation over one set of weights.

    Attributes:
        name: as it is shown.
        facts: versions and the like, JSON types.
        without_logits: why there are none, or None.
        chunk: most tokens that `extend` takes at once when taps are asked for.
        steers: whether `steered` can be called.
        shows_guided: whether `steered_logits` has those of guided steps.
    """

    without_logits: str | None = None
    chunk = 64
    steers = False
    shows_guided = False

    def __init__(self, name: str, config: ModelConfig, sampler: SamplerConfig) -> None:
        self.name, self.config, self.sampler = name, config, sampler
        self.facts: dict[str, Any] = {}

    @abstractmethod
    def trajectory(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int) -> Trajectory:
        """A whole generation, adaptive, on its own."""

    def steered(self, prompt_ids: Sequence[int], seed: int, max_new_tokens: int, steer: Steer) -> Trajectory:
        """`trajectory` under options."""
        raise NotImplementedError(f"{self.name} takes no options")

    @abstractmethod
    def reset(self) -> None:
        """Forget the prefix."""

    @abstractmethod
    def extend(self, ids: Sequence[int], *, taps: bool = False) -> Taps:
        """Encode tokens behind the prefix; with `taps`, at most `chunk` of them, tensors by name [n, …] come back."""

    @abstractmethod
    def prefix(self, start: int) -> list[tuple[Array, Array]]:
        """Per layer keys and values [S − start, K, d] float32, of the slots from `start` on."""

    @abstractmethod
    def step(self, canvas: Array, soft: Array, words: Array, temperature: np.float32, *, taps: bool = False) -> StepOut:
        """canvas int64 [N], soft float32 [N, D], words uint32 [2, N]."""

    def tapped(self) -> Backend:
        """The same implementation with all the taps that can be had, as another backend where that costs something."""
        return self

    def release(self) -> None:  # noqa: B027 — most backends hold nothing for `trajectory` alone
        """Free what only `trajectory` needs."""

    def close(self) -> None:  # noqa: B027 — most backends hold nothing but memory
        """Free everything; the backend must not be used again."""

    def replay(self, trajectory: Trajectory, canvas: int, last: int | None = None) -> Iterator[tuple[int, StepOut]]:
        """Row and outputs of every step of one canvas, from the trajectory's input canvases, soft embeddings its own."""
        rows = np.flatnonzero(trajectory.canvas_index == canvas).tolist()
        self.reset()
        self.extend(ids_before(trajectory, canvas))
        soft = np.zeros((trajectory.canvas_in.shape[1], self.config.hidden_size), np.float32)
        words = np.zeros((2, trajectory.canvas_in.shape[1]), np.uint32)  # no logits depend on them
        for row in rows:
            if last is not None and row > last:
                return
            out = self.step(trajectory.canvas_in[row], soft, words, trajectory.temperature[row])
            yield row, out
            soft = out.soft

    def logits(self, trajectory: Trajectory, row: int) -> npt.NDArray[np.float32]:
        """Tempered logits [N, V] of one row; raises ValueError where there are none."""
        *_, (_, out) = self.replay(trajectory, int(trajectory.canvas_index[row]), row)
        if out.logits is None:
            raise ValueError(self.without_logits)
        result: npt.NDArray[np.float32] = out.logits / trajectory.temperature[row]
        return result

    def steered_logits(self, trajectory: Trajectory, row: int, steer: Steer) -> npt.NDArray[np.float32]:
        """`logits` of a generation under options."""
        assert steer.guidance is None, f"{self.name} does not show guided steps"
        return self.logits(trajectory, row)


def ids_before(trajectory: Trajectory, canvas: int) -> list[int]:
    """Prompt and committed canvases that a canvas follows."""
    ids: list[int] = trajectory.prompt_ids.tolist()
    for before in range(canvas):
        ids += trajectory.argmax[trajectory.canvas_index == before][-1].tolist()
    return ids


def words_of(trajectory: Trajectory, row: int, seed: int, sampler: SamplerConfig) -> Array:
    """The noise of a row, uint32 [2, N]."""
    run = sampler.steps - int(trajectory.step[row]) + 1
    return step_words(seed, int(trajectory.canvas_index[row]), run, trajectory.canvas_in.shape[1])
