"""Parity tests run on one thread: the same order of sums on every machine, and tiny products are fastest so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints as hf
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["dense", "moe"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A checkpoint that transformers saved, and transformers' own model of it."""
    # The dense oracle norms its feed-forward output twice, so a small epsilon makes it exact; the goldens hold 1e-6.
    dense = request.param == "dense"
    model = hf.hf_model(experts=None if dense else 4, seed=7, rms_norm_eps=1e-12 if dense else 1e-6)
    folder = hf.save(model, tmp_path_factory.mktemp(request.param))
    with torch.no_grad():
        yield folder, hf.hf_from_folder(folder)
