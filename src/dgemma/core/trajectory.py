"""Trajectories: every denoising step of one generation, in order, as the arrays that `--trace` writes.

numpy only. It records what it is given and knows nothing of models, engines or samplers.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import UsageError

Array = npt.NDArray[Any]

_ROUNDING = 1e-3  # nats; as far as an entropy of 0 may come out below it
_KINDS: dict[str, tuple[type[np.generic], str]] = {
    "prompt_ids": (np.int64, "P"),
    "canvas_index": (np.int64, "M"),
    "step": (np.int64, "M"),
    "temperature": (np.float32, "M"),
    "canvas_in": (np.int64, "MN"),
    "argmax": (np.int64, "MN"),
    "entropy": (np.float32, "MN"),
    "accepted": (np.bool_, "MN"),
    "canvas_out": (np.int64, "MN"),
    "tokens": (np.int64, "K"),
    "entropy_bound": (np.float64, "M"),
}
_OPTIONAL = ("entropy_bound",)


def write_npz(path: Path | str, arrays: Mapping[str, Array]) -> None:
    """An `.npz` whose bytes depend on the arrays alone: order as given, fixed times, no compression."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), buffer.getvalue())


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """All denoising steps of a generation: P prompt tokens, M steps over all canvases, N canvas, K committed tokens.

    Args:
        prompt_ids: [P] ids that the generation started from.
        canvas_index: [M] number of the canvas, from 0.
        step: [M] denoising steps remaining, T…1 within each canvas.
        temperature: [M] float32.
        canvas_in, argmax, canvas_out: [M, N] ids: what the step read, its argmax, the next canvas.
        entropy: [M, N] float32 nats of the tempered distribution.
        accepted: [M, N] bool.
        tokens: [K] committed tokens up to, without, the first stop token.
        entropy_bound: [M] float64 nats, where the generation had other bounds than the bundle's; else None.
    Raises:
        UsageError: when an array's dtype or shape does not fit.
    """

    prompt_ids: Array
    canvas_index: Array
    step: Array
    temperature: Array
    canvas_in: Array
    argmax: Array
    entropy: Array
    accepted: Array
    canvas_out: Array
    tokens: Array
    entropy_bound: Array | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, letters) in _KINDS.items():
            if (array := getattr(self, name)) is None and name in _OPTIONAL:
                continue
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != len(letters):
                raise UsageError(f"trajectory array {name} must be {np.dtype(dtype)} with shape [{', '.join(letters)}]")
            for letter, size in zip(letters, array.shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise UsageError(f"trajectory array {name} has {letter} = {size} where others have {sizes[letter]}")

    def save(self, path: Path | str) -> None:
        """Write an `.npz`, see `write_npz`."""
        write_npz(path, self.arrays())

    def arrays(self) -> dict[str, Array]:
        """All arrays that there are by name, in order."""
        return {f.name: array for f in fields(self) if (array := getattr(self, f.name)) is not None}

    @classmethod
    def load(cls, path: Path | str) -> Trajectory:
        """Inverse of `save`; raises UsageError naming the file when it is no trajectory, or one that no generation can give."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                if unknown := sorted((set(archive.files) ^ set(_KINDS)) - set(_OPTIONAL)):
                    raise UsageError(f"array {unknown[0]!r} is missing or unknown")
                found = cls(**{name: archive[name] for name in archive.files})
            found._check_values()
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be read ({error.strerror or error}); name a file of `dgemma run --trace`"
            ) from None
        except Exception as error:  # whatever numpy, zipfile and zlib say of a damaged file
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            reason = (
                "not an .npz file" if "pickled (object) data" in reason else reason
            )  # numpy's guess of what is none, and its advice
            raise UsageError(f"{path}: is not a trajectory ({reason}); write one with `dgemma run --trace`") from None
        return found

    def most_id(self) -> int:
        """The highest of all ids; -1 where there is none."""
        return max((int(array.max()) for array in self._ids() if array.size), default=-1)

    def _ids(self) -> Sequence[Array]:
        return self.prompt_ids, self.canvas_in, self.argmax, self.canvas_out, self.tokens

    def _check_values(self) -> None:
        """Raises UsageError for values that no generation gives."""
        same, bounds = self.canvas_index[1:] == self.canvas_index[:-1], self.entropy_bound
        for is_wrong, why in (
            (self.argmax.shape[1] == 0, "a canvas has no positions"),
            (any((array < 0).any() for array in self._ids()), "an id is negative"),
            ((~np.isfinite(self.entropy)).any() or (self.entropy < -_ROUNDING).any(), "an entropy is negative or not finite"),
            ((~np.isfinite(self.temperature)).any() or (self.temperature < 0).any(), "a temperature is negative or not finite"),
            (bounds is not None and not (np.isfinite(bounds) & (bounds > 0)).all(), "an entropy bound is not positive"),
            ((self.canvas_index < 0).any() or (np.diff(self.canvas_index) < 0).any(), "canvases are not in order"),
            ((self.step < 1).any() or (np.diff(self.step)[same] >= 0).any(), "steps remaining do not count down to 1"),
        ):
            if is_wrong:
                raise UsageError(why)


@dataclass
class TrajectoryRecorder:
    """Collects steps while they run; arrays are copied, so that callers may reuse their buffers. N canvas length."""

    canvas_length: int
    steps: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        canvas_index: int,
        step: int,
        temperature: float,
        canvas_in: npt.ArrayLike,
        argmax: npt.ArrayLike,
        entropy: npt.ArrayLike,
        accepted: npt.ArrayLike,
        canvas_out: npt.ArrayLike,
        entropy_bound: float | None = None,
    ) -> None:
        """Append one denoising step; arrays hold N values in any shape, `step` is the number of steps remaining.

        `entropy_bound`: all steps have one, or none.
        """
        values = {
            "canvas_index": canvas_index,
            "step": step,
            "temperature": temperature,
            "canvas_in": canvas_in,
            "argmax": argmax,
            "entropy": entropy,
            "accepted": accepted,
            "canvas_out": canvas_out,
        } | ({} if entropy_bound is None else {"entropy_bound": entropy_bound})
        self.steps.append(
            {
                name: np.asarray(value).astype(_KINDS[name][0]).reshape(self.canvas_length if _KINDS[name][1] == "MN" else ())
                for name, value in values.items()
            }
        )

    def finish(self, prompt_ids: Sequence[int] | Array, tokens: Sequence[int] | Array) -> Trajectory:
        """The trajectory of all steps added so far."""
        m, n = len(self.steps), self.canvas_length
        arrays = {
            name: np.array([s[name] for s in self.steps], dtype).reshape((m, n) if letters == "MN" else (m,))
            for name, (dtype, letters) in _KINDS.items()
            if letters[0] == "M" and not (name in _OPTIONAL and (not m or name not in self.steps[0]))
        }
        return Trajectory(prompt_ids=np.array(prompt_ids, np.int64), tokens=np.array(tokens, np.int64), **arrays)
