"""Engines lowered at the same time: the same files as one after the other, and failures of either process come through."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import fake_lower
import pytest

from dgemma.core.errors import CheckpointError, ExportError
from dgemma.export import processes, request
from dgemma.export.stages import Reached

ENGINES = ("onnx", "executorch")


@pytest.fixture(scope="module")
def asked(tiny_checkpoint: Path) -> request.ExportRequest:
    made = request.check(tiny_checkpoint, engines=ENGINES)
    assert made.text is not None  # what is cached must not have to be sent
    return made


@pytest.fixture(scope="module")
def weights(asked: request.ExportRequest) -> request.Weights:
    return request.open_weights(asked, None)


def run(
    lower: processes.Lower, asked: request.ExportRequest, weights: request.Weights, stage: Path, at_once: bool = True
) -> tuple[dict[str, processes.Lowered], list[Reached]]:
    said = list[Reached]()
    return processes.lower_all(lower, ENGINES, asked, weights, stage, at_once=at_once, progress=said.append), said


def test_two_processes_write_what_one_does(asked: request.ExportRequest, weights: request.Weights, tmp_path: Path) -> None:
    for at_once in (True, False):
        (stage := tmp_path / str(at_once)).mkdir()
        found, said = run(fake_lower.lower, asked, weights, stage, at_once)
        assert found == {engine: ({}, {"engine": engine}) for engine in ENGINES} and list(found) == list(ENGINES)
        assert sorted(reached.stage for reached in said) == ["executorch: weights", "onnx: weights"]
        process = {reached.stage: int(reached.detail) for reached in said}
        assert process["onnx: weights"] == os.getpid()
        assert (process["executorch: weights"] == os.getpid()) != at_once
        assert (stage / "onnx").read_text() == (stage / "executorch").read_text() != "0"


@pytest.mark.parametrize(
    ("lower", "error", "message"),
    [
        (fake_lower.fails, CheckpointError, "cannot be lowered; choose another"),
        (fake_lower.dies, ExportError, "executorch: the process that lowered it ended with status 7; .*--engine"),
        (fake_lower.first_fails, CheckpointError, "first"),
    ],
)
def test_failures_come_through_and_no_process_is_left(
    lower: processes.Lower,
    error: type[Exception],
    message: str,
    asked: request.ExportRequest,
    weights: request.Weights,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        run(lower, asked, weights, tmp_path)
    assert not multiprocessing.active_children()


def test_an_end_of_the_first_process_ends_the_others(
    asked: request.ExportRequest, weights: request.Weights, tmp_path: Path
) -> None:
    """The first one is interrupted as soon as the other one is at work."""

    def interrupt(reached: Reached) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        processes.lower_all(fake_lower.lower, ENGINES, asked, weights, tmp_path, at_once=True, progress=interrupt)
    assert not multiprocessing.active_children() and time.monotonic() - began < 60
