"""Trajectories: recorded as given, written with deterministic bytes, refused when they are not one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgemma.core.errors import UsageError
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder


def example(steps: int = 3, n: int = 4) -> Trajectory:
    recorder = TrajectoryRecorder(n)
    for i in range(steps):
        ids = np.arange(n) + i
        recorder.add(
            0, steps - i, 0.8 - 0.1 * i, ids[None], ids + 1, np.full((1, n), 0.25 * i), ids % 2 == 0, (ids + 2).tolist()
        )
    return recorder.finish([2, 9], [5])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_round_trip(tmp_path: Path, steps: int) -> None:
    one = example(steps)
    one.save(tmp_path / "a.npz")
    example(steps).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    two = Trajectory.load(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as plain:
        assert [*plain.files, "entropy_bound"] == [f.name for f in dataclasses.fields(Trajectory)]
        for name in plain.files:
            for other in (getattr(two, name), plain[name]):
                assert other.dtype == getattr(one, name).dtype
                assert np.array_equal(other, getattr(one, name))
    assert two.entropy.shape == (steps, 4)


def test_the_recorder_copies() -> None:
    recorder, buffer = TrajectoryRecorder(2), np.array([1, 2])
    recorder.add(0, 1, 0.5, buffer, buffer, [0.0, 0.0], [True, False], buffer)
    buffer[:] = 7
    assert recorder.finish([], []).canvas_in.tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="reshape"):
        recorder.add(0, 1, 0.5, [1, 2, 3], buffer, [0.0, 0.0], [True, False], buffer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("argmax", np.zeros((3, 4), np.int32)),
        ("argmax", np.zeros((3, 5), np.int64)),
        ("step", np.zeros(2, np.int64)),
        ("accepted", np.zeros((3, 4), np.int64)),
        ("entropy", np.zeros((3, 4))),
        ("tokens", np.zeros((1, 1), np.int64)),
        ("prompt_ids", [1, 2]),
    ],
)
def test_wrong_arrays_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        dataclasses.replace(example(), **{name: value})


def test_files_that_are_no_trajectory(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    example().save(path)
    content = path.read_bytes()
    damages: list[bytes | None] = [None, b"", b"nonsense", content[:-40], content[: len(content) // 2]]
    for damage in damages:
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(UsageError) as caught:
            Trajectory.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    np.savez(path, step=np.arange(3))
    with pytest.raises(UsageError, match="missing or unknown"):
        Trajectory.load(path)
