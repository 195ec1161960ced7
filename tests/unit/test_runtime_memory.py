"""A bundle that does not fit is refused with what would: the other engine, a recipe, or how much memory it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_bundle import manifest

from dgemma.core.config import PRESETS
from dgemma.core.errors import EngineError
from dgemma.core.manifest import FileEntry, Manifest
from dgemma.runtime import memory

SIZES = {"onnx": 13_904_000_000, "executorch": 13_922_000_000}


def released(bits: int = 4) -> Manifest:
    """A bundle of the released shape, of which nothing but sizes is real."""
    kinds = dict.fromkeys(("embedding", "attention"), 8) | dict.fromkeys(("mlp_up_gate", "mlp_down", "experts"), bits)
    made = manifest(quantization={"recipe": "r", "parameters": 25_250_986_752, "bits_per_weight": 4.4, "bits": kinds})
    files = {f"{engine}/weights": FileEntry(size=size, sha256="0" * 64) for engine, size in SIZES.items()}
    graphs = dict.fromkeys(SIZES, made.graphs["onnx"])
    return replace(
        made,
        model=PRESETS["26b-a4b"],
        files=files,
        graphs=graphs,
        engines=dict.fromkeys(SIZES, "1"),
        canvas_length=256,
        context=4096,
    )


def said(monkeypatch: pytest.MonkeyPatch, made: Manifest, engine: str, free: int) -> str:
    monkeypatch.setattr(memory, "available", lambda: free)
    with pytest.raises(EngineError) as error:
        memory.check(made, engine, "a.dgemma")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_engine_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = released()
    smaller, larger = sorted(SIZES, key=lambda engine: memory.need(made, engine).total)
    between = memory.need(made, larger).total - 1
    assert memory.need(made, smaller).total < between
    assert f"--engine {smaller} needs " in said(monkeypatch, made, larger, between)
    assert "--engine" not in said(monkeypatch, made, smaller, memory.need(made, smaller).total - 1)


def test_memory_that_no_recipe_fits_into_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bits are the fewest: 12.6 GB of weights, or in ONNX Runtime, which widens all but experts, 13.8 GB."""
    made = released()
    assert "no recipe would fit, but a machine with 12.9" in said(monkeypatch, made, "executorch", 8_000_000_000)
    assert "no recipe would fit, but a machine with 14." in said(monkeypatch, made, "onnx", 8_000_000_000)
    assert "a recipe of at most 4.1 bits per weight would fit" in said(monkeypatch, made, "executorch", 13_200_000_000)
