"""What `dgemma bench` says of the machine and of memory: the product path, resident memory, what fits, cold and warm loads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import manifest, write_bundle

from dgemma.benchmarks.bench import fresh_process, memory
from dgemma.core import machine
from dgemma.core import memory as free_memory
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import EngineError
from dgemma.runtime import memory as need_of_memory

CONFIG = ModelConfig(
    vocab_size=10, hidden_size=8, intermediate_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4,
    global_num_kv_heads=1, global_head_dim=6, sliding_window=4, canvas_length=5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "path", "warns"),
    [
        ({"avx2", "avx512_vnni"}, "AVX512-VNNI", False),
        ({"avx2", "avx_vnni"}, "AVX-VNNI", False),
        ({"avx2", "fma"}, "AVX2 without VNNI", True),
        ({"asimd", "asimddp"}, "NEON with dot product", False),
        ({"asimd"}, "NEON without dot product", True),
        (set(), "not known", False),
    ],
)
def test_the_int8_path_is_named(flags: set[str], path: str, warns: bool) -> None:
    named, warning = machine.int8_path(flags)
    assert named == path
    assert (warning is not None) == warns


ROLLUP = """55d0-7ffe ---p 00000000 00:00 0 [rollup]
Rss:               13568 kB
Pss_Anon:           6904 kB
Anonymous:          6904 kB
"""


def test_resident_memory_is_split() -> None:
    found = memory.split(ROLLUP)
    assert (found.anonymous, found.file, found.total) == (6904 << 10, 6664 << 10, 13568 << 10)
    with pytest.raises(ValueError, match="Anonymous"):
        memory.split(ROLLUP.replace("Anonymous", "Annoying"))


def test_a_peak_is_seen_and_forgotten() -> None:
    if memory.resident() is None or not memory.reset_peak():
        pytest.skip("this system does not tell")
    before = memory.peak()
    block = np.ones(8 << 20)  # 64 MiB
    high = memory.peak()
    del block
    assert before is not None
    assert high is not None
    assert high - before > 60 << 20
    memory.reset_peak()
    assert (memory.peak() or 0) < high - (32 << 20)


def test_elsewhere_memory_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert memory.resident() is None
    assert memory.peak() is None
    assert not memory.reset_peak() or (tmp_path / "clear_refs").exists()


def test_a_bundle_that_cannot_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    big = manifest(quantization={"recipe": "w8", "parameters": 4_000_000, "bits_per_weight": 8.0})
    need = need_of_memory.need(big, "onnx")
    assert need.prefix == 2 * 4 * (2 * 2 + 1 * 4) * 32
    monkeypatch.setattr(need_of_memory, "available", lambda: need.total)
    need_of_memory.check(big, "onnx", "a.dgemma")
    monkeypatch.setattr(need_of_memory, "available", lambda: need.total - 1)
    with pytest.raises(EngineError, match=r"a\.dgemma: needs at least .* GB is free; .*DGEMMA_CHECK_MEMORY=0"):
        need_of_memory.check(big, "onnx", "a.dgemma")
    monkeypatch.setenv("DGEMMA_CHECK_MEMORY", "0")
    need_of_memory.check(big, "onnx", "a.dgemma")


def test_four_bit_weights_need_eight_in_onnx_and_what_would_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    four = manifest(quantization={"recipe": "w4", "parameters": 4_000_000, "bits_per_weight": 4.5})
    assert need_of_memory.need(four, "onnx").weights == 4_000_000
    float_ = manifest(quantization={"recipe": "fp32", "parameters": 1_000, "bits_per_weight": 32.0}, engines=("executorch",))
    least = need_of_memory.need(float_, "executorch")
    monkeypatch.setattr(need_of_memory, "need", lambda *_: need_of_memory.Need(weights=4000, prefix=0, transient=0))
    monkeypatch.setattr(need_of_memory, "available", lambda: 1000)
    assert least.weights == 0  # no file is listed in a manifest that was not written
    with pytest.raises(EngineError, match=r"at most 8\.0 bits per weight would fit"):
        need_of_memory.check(float_, "executorch", "a.dgemma")


def test_four_bit_experts_stay_four_bits_in_onnx() -> None:
    """The operator reads them as they are stored: half of the experts' weights, at 8 bits, are not needed."""
    shape = PRESETS["26b-a4b"]
    size = {"recipe": "w4-mixed", "parameters": 25_250_986_752, "bits_per_weight": 4.4}
    many = replace(manifest(quantization={**size, "bits": {"experts": 4, "attention": 8}}), model=shape)
    eight = replace(manifest(quantization={**size, "bits": {"experts": 8, "attention": 8}}), model=shape)
    experts = 30 * 128 * 3 * 2816 * 704
    assert need_of_memory.need(eight, "onnx").weights - need_of_memory.need(many, "onnx").weights == experts // 2
    assert need_of_memory.need(many, "onnx").weights < 14.5e9


def test_available_memory_minds_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:   4096 kB\n")
    for name, text in {"memory.max": "3000000", "memory.current": "2500000", "memory.stat": "anon 1\nfile 500000\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_CGROUPS", ((tmp_path, "memory.max", "memory.current", "file"),))
    assert free_memory.available() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.available() == 4096 << 10
    (tmp_path / "meminfo").unlink()
    assert free_memory.available() is None


def test_a_fresh_process_that_fails_is_told() -> None:
    with pytest.raises(EngineError, match="status 2: error: absent"):
        fresh_process._child(Path("absent.dgemma"), "onnx", 1, 1, 1)


def test_files_and_packed_weights_are_dropped_from_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot be asked")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "weights").write_bytes(b"w")
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: [(tmp_path / "packed", 1, True)])
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, *_: dropped.append(os.fstat(descriptor).st_ino))
    made = write_bundle(tmp_path / "a.dgemma")
    assert fresh_process.evict(made)
    wanted = [p for p in made.rglob("*") if p.is_file() and p.name != "manifest.json"] + [tmp_path / "packed" / "weights"]
    assert sorted(dropped) == sorted(p.stat().st_ino for p in wanted)
    monkeypatch.delattr(os, "posix_fadvise")
    assert not fresh_process.evict(made)


@pytest.mark.parametrize(
    ("kept", "said"), [([[], [1]], "made in the cold load"), ([[1], [1]], "kept from an earlier load"), ([[], []], "not kept")]
)
def test_loads_are_cold_once_and_warm_until_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[list[int]], said: str
) -> None:
    made = write_bundle(tmp_path / "a.dgemma")
    monkeypatch.setattr(fresh_process, "evict", lambda _: True)
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: kept.pop(0))
    calls: list[int] = []

    def child(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments[-1])
        memory = {"read_bytes": 5, "number": len(calls)}
        return {"times": {"load_s": float(len(calls))}, "hashed_bytes": 7 - len(calls), "memory": memory}

    monkeypatch.setattr(fresh_process, "_child", child)
    times, found = fresh_process.load_times(made, "onnx", 1, 8, 3)
    assert times["packed_weights"] == said
    assert times["cold"] == {"load_s": 1.0, "read_bytes": 5, "hashed_bytes": 6}
    assert times["warm_hashed_bytes"] == 3
    assert (times["warm"]["load_s"]["n"], times["warm"]["load_s"]["median"], found["number"]) == (3, 3.0, 4)
    monkeypatch.setattr(fresh_process, "_SLOW", 1.0)
    monkeypatch.setattr(fresh_process.cache, "held", lambda _: [])
    assert fresh_process.load_times(made, "onnx", 1, 8, 3)[0]["warm"]["load_s"]["n"] == 1
