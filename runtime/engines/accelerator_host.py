"""What a processor computes around an accelerator's graphs: embeddings, rotation tables, masks, padded prefixes.

The graphs have fixed shapes: rows are padded to a width and prefixes to a length, and masks hide the padding. numpy only.
Letters: M rows of a graph, n rows that count, S slots that a graph of that length has for full layers, L those it has for
sliding ones, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.core.config import ModelConfig
from dgemma.core.errors import BundleError
from dgemma.core.manifest import TableSpec
from dgemma.runtime.bundle import Bundle

Array = npt.NDArray[Any]
HIDDEN = np.float32(-1e4)  # added to the score of a key that must not be seen; float16 holds it, and exp of it is 0
CONSTANTS = ("encode_scalars", "denoise_scalars", "sliding_frequencies", "full_frequencies", "embed_scale")


class Table:
    """The table of ids [V, D], mapped from the bundle; float32 or int8 with scales."""

    def __init__(self, bundle: Bundle, spec: TableSpec, scale: float) -> None:
        config, path = bundle.manifest.model, bundle.file(spec.file)
        shape = (config.vocab_size, config.hidden_size)
        try:
            self._rows: Array = np.memmap(path, np.dtype(spec.dtype), "r", spec.offset, shape)
            self._scales: Array | None = None
            if spec.scales is not None:
                self._scales = np.array(np.memmap(path, np.float32, "r", spec.scales, shape[:1]))
        except (ValueError, OSError) as error:
            raise BundleError(f"{path}: does not hold the table that the manifest names ({error}); export it again") from None
        self._scale = np.float32(scale)

    def embed(self, ids: Array) -> Array:
        """ids [...] → [..., D] float32, scaled as the model's embeddings are."""
        rows = self._rows[ids].astype(np.float32)
        return (rows if self._scales is None else rows * self._scales[ids][..., None]) * self._scale

    def expected(self, weights: Array, first: int) -> Array:
        """Weighted sum [R, D] of the t rows from `first` on, weights [R, t] float32."""
        span = slice(first, first + weights.shape[-1])
        if self._scales is not None:
            weights = weights * self._scales[span]
        found: Array = (weights @ self._rows[span].astype(np.float32)) * self._scale
        return found


def constants(path: Path, config: ModelConfig) -> dict[str, Array]:
    """Layer scalars of both modes, frequencies of rotations, and the scale of embeddings; raises BundleError."""
    sizes = (config.num_layers, config.num_layers, config.head_dim // 2, config.global_head_dim // 2, 1)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: np.ascontiguousarray(file[name], np.float32) for name in CONSTANTS}
    except (ValueError, KeyError, OSError) as error:
        raise BundleError(f"{path}: cannot be read ({str(error)[:100]}); export the bundle again") from None
    if any(found[name].shape != (size,) for name, size in zip(CONSTANTS, sizes, strict=True)):
        raise BundleError(f"{path}: holds constants of another model; export the bundle again")
    return found


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass through the layers.

    Args:
        n: rows that count, of `rows`.
        length: tokens that the prefix holds.
        slots, local: of the prefix as it is handed in, for full and for sliding layers, which have the last of them.
        canvas: whether rows see each other both ways.
        positions: of the rows behind the prefix, [n].
        settled: bool [N], slots behind the prefix that are seen as well.
    """

    n: int
    rows: int
    length: int
    slots: int
    local: int
    canvas: bool
    positions: Array
    settled: Array

    def rotations(self, frequencies: Array) -> tuple[Array, Array]:
        """cos and sin [M, 1, d/2] of the rows' positions."""
        places = np.zeros(self.rows, np.float32)
        places[: self.n] = self.positions + self.length
        angles = places[:, None, None] * frequencies
        return np.cos(angles), np.sin(angles)

    def bias(self, room: int, window: int | None) -> Array:
        """[M, room + M] to add to scores; `room` slots of the graph; `window` of a sliding layer.

        As `model.denoiser.denoise_masks` and `encode_masks` say, for which this is what the tests compare it with.
        """
        filled = self.slots if window is None else self.local
        slot = np.arange(room) + (self.slots - filled)  # the position that each slot holds
        there = np.arange(room) < filled
        own = np.arange(self.rows)
        if self.canvas:
            behind = slot - self.length
            most = len(self.settled) - 1
            seen = (slot < self.length) | (behind >= 0) & (behind <= most) & self.settled[behind.clip(0, most)]
            if window is not None:
                seen &= slot >= self.length - (window - 1)
            near = np.broadcast_to(own < self.n, (self.rows, self.rows)) | (own[:, None] == own)
            seen = np.broadcast_to(seen & there, (self.rows, room))
        else:
            query = (own + self.length)[:, None]
            near = own <= own[:, None]
            seen = np.broadcast_to((slot < self.length) & there, (self.rows, room))
            if window is not None:
                near &= own > own[:, None] - window
                seen = seen & (slot > query - window)
        return np.where(np.concatenate([seen, near], 1), np.float32(0), HIDDEN)


def padded(array: Array, size: int, axis: int) -> Array:
    """The array filled up with zeros to a size along an axis, contiguous."""
    if array.shape[axis] == size:
        return np.ascontiguousarray(array)
    shape = list(array.shape)
    shape[axis] = size
    out = np.zeros(shape, array.dtype)
    out[(slice(None),) * axis + (slice(0, array.shape[axis]),)] = array
    return out
