"""Trials of less memory: what a cache of experts holds, by hand, and the parts on small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.benchmarks.studies import small_memory
from dgemma.core.shipped import bundle_path


def test_a_cache_holds_the_experts_used_last() -> None:
    order = [[0, 1], [1, 2], [0, 3], [3, 1]]
    assert list(small_memory.kept(order, 2, 0)) == [0.0, 0.5, 0.0, 0.5]
    assert list(small_memory.kept(order, 3, 0)) == [0.0, 0.5, 0.5, 0.5]  # 2 leaves before 3 and 1, and 1 before it is asked for
    assert list(small_memory.kept(order, 4, 2)) == [0.5, 1.0]  # rows before the first only fill it


def test_the_limit_is_that_of_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    file = tmp_path / "a/b/memory.max"
    monkeypatch.setattr(small_memory, "LIMITS", {"": [(str(tmp_path), "memory.max")]})
    monkeypatch.setattr(small_memory, "GROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("3:cpu:/x\n0::/a/b\n")
    file.write_text("13000000000\n")
    assert small_memory.limit() == 13_000_000_000
    file.write_text("max\n")
    assert small_memory.limit() is None
    (tmp_path / "cgroup").unlink()
    assert small_memory.limit() is None


def test_steps_and_tokens_of_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    given = ["steps", str(bundle_path(Path("tiny"))), "--engine", "onnx", "--prefix", "8", "--steps", "2", "--threads", "1"]
    assert small_memory.main([*given, "--name", "a", "--out", str(out)]) == 0
    assert small_memory.main([*given, "--name", "b", "--out", str(out)]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == {"a", "b"}
    assert len(parts["a"]["steps"]) == 2 and len(parts["a"]["tokens"]) == 4
    assert all(one["seconds"] > 0 for one in parts["a"]["steps"])


def test_routing_of_the_trained_mixture(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "checkpoints/tiny-moe"
    found = small_memory.routing(folder, 1)
    shares = [found["found_by_a_token"][str(size)] for size in range(2, 8)]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    assert 2 / 8 < found["touched_by_a_step"] <= 1
