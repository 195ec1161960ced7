"""Export in bounded memory: constants that nobody copies, and a plan that says beforehand what an export takes."""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import micro
import pytest
import torch
from matrices import inputs
from torch import nn

from dgemma.benchmarks.studies import export_cost
from dgemma.cli import dispatch
from dgemma.core.config import PRESETS
from dgemma.core.engines import ENGINES
from dgemma.core.errors import ExportError
from dgemma.export import graphs, pipeline, request, room
from dgemma.export.estimate import Estimate
from dgemma.export.executorch import dedup_constants, exir_patches
from dgemma.export.executorch.exir_patches import patched_exir
from dgemma.export.executorch.zero_copy import ZeroCopyData
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.recipes import class_of

TINY = Path(__file__).parents[2] / "checkpoints/tiny"


def estimate(checkpoint: str, recipe: str, *engines: str, **options: int) -> Estimate:
    chosen = engines or ENGINES
    return Estimate(request=request.check(checkpoint, engines=chosen, recipe=recipe, **options), engines=chosen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_zero_copy_data_are_the_bytes_of_a_tensor_and_no_copy(dtype: torch.dtype) -> None:
    tensor = (inputs(7, 64) * 9).to(dtype)
    data = ZeroCopyData(nn.Parameter(tensor, requires_grad=False))
    raw = bytes(tensor.untyped_storage())
    out = io.BytesIO()
    data.write_to_file(out)
    assert len(data) == len(raw) and out.getvalue() == data.to_bytes() == raw and data.prefix(5) == raw[:5]
    assert data.sha256() == ZeroCopyData(tensor.clone()).sha256() != ZeroCopyData(tensor.flip(0)).sha256()
    tensor[0, 0] += 1
    assert data.to_bytes() != raw and copy.deepcopy(data) is data


def test_programs_are_copied_without_their_constants() -> None:
    """While lowering; before, after and in other threads, a copy is a copy, and what may change is copied always."""
    weight, small, moving = nn.Parameter(inputs(64, 64), requires_grad=False), torch.zeros(3), nn.Parameter(inputs(64, 64))
    for _ in range(2):
        assert copy.deepcopy(weight) is not weight
        with patched_exir():
            copied = copy.deepcopy({"w": weight, "s": small, "m": moving})
            with ThreadPoolExecutor(1) as other:
                assert other.submit(copy.deepcopy, weight).result() is not weight
        assert copied["w"] is weight and copied["s"] is not small and copied["m"] is not moving
        assert torch.equal(copied["m"], moving)


def test_patches_are_taken_back_whatever_happens() -> None:
    with pytest.raises(ValueError, match="inside"), patched_exir():
        raise ValueError("inside")
    weight = nn.Parameter(inputs(64, 64), requires_grad=False)
    assert copy.deepcopy(weight) is not weight
    assert exir_patches.xnnpack_preprocess.XNNPACKPassManager is exir_patches.XNNPACKPassManager


def test_a_copy_that_is_used_up_gives_its_own_weights_back() -> None:
    model = micro.model()
    copied = graphs.sharing(model)
    own = nn.Linear(32, 32)
    copied.head_of_its_own = own
    graphs.release(copied, model)
    assert own.weight.numel() == 0
    assert all(p.numel() for p in model.parameters()), "a weight of the model was freed"


def test_pieces_of_any_size_rewrite_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(data := bytes(range(256)) * 5)
    for size in (1, 7, 256, 5000):
        monkeypatch.setattr(dedup_constants, "CHUNK", size)
        with path.open("rb") as file:
            assert b"".join(chunk for _, chunk in dedup_constants._chunks(file, 100, 900)) == data[100:1000]
            assert dedup_constants._equal(file, 100, memoryview(data)[100:1000])
            assert not dedup_constants._equal(file, 101, memoryview(data)[100:1000])
            assert not dedup_constants._equal(file, 1000, memoryview(data)[: len(data) - 1000 + 1]), "the file ends before"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "w4-mixed"])
def test_sizes_are_those_of_the_files(recipe: str, tmp_path: Path) -> None:
    assert dispatch(["export", str(TINY), "--out", str(tmp_path / "b"), "--recipe", recipe, "--engine", "all"]) == 0
    for engine, size in estimate(str(TINY), recipe).sizes.items():
        found = sum(p.stat().st_size for p in (tmp_path / "b" / engine).iterdir())
        assert 0.9 < size / found < 1.1, engine


def test_sizes_of_2b_are_those_that_were_measured() -> None:
    """Bytes of each engine's files of 2b, random weights: `export-cost.json` has them."""
    measured = {"onnx": 1_886_484_783, "executorch": 1_936_040_712}
    for engine, size in estimate("2b", "w4-mixed", random_weights=0).sizes.items():
        assert size == pytest.approx(measured[engine], rel=0.005)


@pytest.mark.parametrize(
    ("preset", "asked", "recipe", "note"),
    [
        ("2b", None, "w4-mixed", "recipe w4-mixed, because float32 weights take 10.9 GB; --recipe chooses another"),
        ("26b-a4b", None, "w4-mixed", "recipe w4-mixed, because float32 weights take 101.0 GB; --recipe chooses another"),
        ("2b", "fp32", "fp32", None),
        (str(TINY), None, "fp32", None),
    ],
)
def test_large_models_are_quantized_unless_a_recipe_is_named(
    preset: str, asked: str | None, recipe: str, note: str | None
) -> None:
    made = request.check(preset, engines=("onnx",), recipe=asked, random_weights=0)
    assert made.recipe.name == recipe
    assert [line for line in request.notes(made) if line.startswith("recipe")] == ([note] if note else [])


def test_operations_are_counted_row_by_row() -> None:
    """A naive twin, on the 2b preset, over its modules."""
    made = estimate("2b", "w8", random_weights=0, canvas=32, context=512)
    config = PRESETS["2b"]
    with torch.device("meta"):
        model = Denoiser(config)
    layer = {True: 0, False: 0}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            layer[name.startswith("layers")] += 2 * module.weight.numel()
    table = 2 * config.vocab_size * config.hidden_size
    scores = sum(
        4 * 512 * config.num_heads * (config.global_head_dim if kind == "full_attention" else config.head_dim)
        for kind in config.layer_types
    )
    assert made.operations["decode"] == layer[True] + table + scores
    assert made.operations["denoise"] == 32 * (layer[True] + layer[False] + 2 * table + scores)
    assert made.operations["encode"] == 64 * (layer[True] + scores)
    assert class_of("layers.0.mlp.up_proj.weight") is not None


def test_quantized_experts_are_counted_as_they_are_chosen() -> None:
    """Eight of 128 in a row; float experts are all computed. A layer of them is in memory at a time."""
    few, every = (estimate("26b-a4b", recipe, random_weights=0) for recipe in ("w4-mixed", "fp32"))
    expert = 2 * 30 * 3 * 2816 * 704
    assert every.operations["decode"] - few.operations["decode"] == 120 * expert
    assert every.operations["denoise"] - few.operations["denoise"] == 256 * 120 * expert
    assert few.sizes["onnx"] > 13e9 and few.peak < 9e9 < few.together < 16e9
    assert few.resident["onnx"] < 17e9 and few.resident["executorch"] < 16e9


def test_the_plan_says_what_the_export_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for preset in ("2b", "9b", "26b-a4b"):
        args = ["export", preset, "--random-weights", "0", "--recipe", "w8", "--out", str(tmp_path / "b"), "--dry-run"]
        assert dispatch(args) in (0, 1)  # whether it fits here
        out = capsys.readouterr().out
        for word in (
            "weights     recipe w8: onnx ",
            "memory      peak ",
            "to run      onnx ",
            "operations  denoise ",
            "time        about ",
        ):
            assert word in out
        read, plan = export_cost.planned(out), estimate(preset, "w8", random_weights=0)
        assert read["engines"] == {engine: pytest.approx(size, rel=0.01) for engine, size in plan.sizes.items()}
        assert read["peak_bytes"] == pytest.approx(plan.peak, rel=0.01)
    assert not list(tmp_path.iterdir())


def test_memory_stays_within_the_goals() -> None:
    assert estimate("2b", "w4-mixed", random_weights=0).peak < 8e9
    assert estimate("9b", "w4-mixed", random_weights=0).peak < 16e9
    assert estimate("2b", "fp32", random_weights=0).peak > 16e9, "a control: float weights do not fit there"


SCRIPT = """
import resource, sys
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
folder, out, recipe, engine = sys.argv[1:]
with quiet():
    export_bundle(folder, out, engines=(engine,), recipe=recipe, random_weights=0, canvas=32, context=256, steps=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "executorch"])
def test_an_export_holds_its_weights_once(engine: str, tmp_path: Path) -> None:
    """120 million parameters, most of them in matrices: within a tenth of the plan, on top of what imports take."""
    from dataclasses import replace

    from dgemma.core.sampler import SamplerConfig
    from dgemma.model.hf_config import write_config

    config = replace(
        PRESETS["2b"],
        num_layers=3,
        layer_types=(),
        vocab_size=16_384,
        hidden_size=1536,
        intermediate_size=6144,
    )
    folder = tmp_path / "shape"
    folder.mkdir()
    write_config(folder, config, SamplerConfig())
    args = [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "b"), "w8", engine]
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    planned = estimate(str(folder), "w8", engine, random_weights=0, canvas=32, context=256).peak
    assert 0.85 < planned / found < 1.15, (planned, found)


def test_time_is_no_less_than_the_files_take_to_read_and_write() -> None:
    made = estimate("26b-a4b", "fp32", random_weights=0)
    least = (2 * made.parameters + sum(made.sizes.values())) / 200e6
    assert sum(stage.seconds for stage in made.plan) > least


def test_engines_are_lowered_at_once_where_both_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimate("2b", "w8", random_weights=0)
    assert made.together == made.stages["onnx"] + made.stages["executorch"] > made.peak
    monkeypatch.setattr(room, "usable_cores", lambda: 2)
    for free, fits in ((int(1.25 * made.together) + 1, True), (made.together, False), (None, False)):
        monkeypatch.setattr(room, "available", lambda free=free: free)
        assert room.at_once(made) == fits
    monkeypatch.setattr(room, "available", lambda: 1 << 50)
    assert not room.at_once(estimate("2b", "w8", "onnx", random_weights=0))
    monkeypatch.setattr(room, "usable_cores", lambda: 1)
    assert not room.at_once(made)


def test_an_export_that_does_not_fit_is_refused_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk by what lies there at once: files, the table's copies, and quantized weights. Callers in Python are told too."""
    made = estimate("2b", "w8", random_weights=0)
    table = PRESETS["2b"].vocab_size * (PRESETS["2b"].hidden_size + 4)
    needed = sum(made.sizes.values()) + 2 * table + max(made.sizes.values())
    monkeypatch.setattr(pipeline, "read_weights", lambda *_: pytest.fail("weights were read"))

    def reason(disk: int, memory: int | None) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=disk))
        monkeypatch.setattr(room, "available", lambda: memory)
        with pytest.raises(ExportError) as error:
            pipeline.export_bundle("2b", tmp_path / "out", recipe="w8", random_weights=0)
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())
        return str(error.value)

    assert "of disk" in reason(needed - 1, None)
    assert "of memory" in (said := reason(needed, made.peak - 1)) and "DGEMMA_CHECK_MEMORY=0" in said
    smaller = min(made.stages, key=made.stages.__getitem__)
    assert f"--engine {smaller} would fit" in reason(needed, max(made.stages["quantize"], made.stages[smaller]))
    assert "would fit" not in reason(needed, 1)
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        pipeline.export_bundle("2b", tmp_path / "there", recipe="w8", random_weights=0)
    monkeypatch.setenv("DGEMMA_CHECK_MEMORY", "0")
    room.check(made, tmp_path / "out")
    monkeypatch.delenv("DGEMMA_CHECK_MEMORY")
    monkeypatch.setattr(room, "available", lambda: made.peak)
    room.check(made, tmp_path / "out")


def test_a_dry_run_says_whether_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["export", "2b", "--random-weights", "0", "--recipe", "w8", "--out", str(tmp_path / "b"), "--dry-run"]
    for disk, memory, says in (
        (10**12, 10**12, ("disk suffices", "memory suffices")),
        (0, 10**9, ("of disk at most and 0.0 GB", "and 1.0 GB is free")),
        (10**12, None, ("disk suffices", "free memory is not known")),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, disk=disk: SimpleNamespace(free=disk))
        monkeypatch.setattr(room, "available", lambda memory=memory: memory)
        assert dispatch(args) == (1 if memory == 10**9 else 0)
        out = capsys.readouterr().out
        assert all(word in out for word in says), out
