"""Weights, runs of layers, topologies and the compiler's cycles: what the reference reads and counts, without a model run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import micro
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgemma.core.config import PRESETS
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.model import weight_files
from dgemma.model.hf_config import read_config
from dgemma.reference import hlo, tpu, weights
from dgemma.reference.denoiser import runs
from dgemma.reference.texts import Reference

FILE = "model.safetensors"


@pytest.fixture(params=["dense", "moe"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return micro.save(tmp_path / "micro", micro.CONFIG if request.param == "dense" else micro.MOE_CONFIG)


def test_every_tensor_arrives(folder: Path) -> None:
    config, _ = read_config(folder)
    loaded, files = weights.load(folder, config), load_file(folder / FILE)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), loaded) == jax.tree.map(
        lambda s: (s.shape, s.dtype), weights.shapes(config, "float32")
    )
    assert weights.parameters(loaded) == sum(t.numel() for t in files.values())
    for name, (path, index, _) in weights.file_names(config).items():
        array = loaded
        for key in path:
            array = array[key]
        np.testing.assert_array_equal(array if index is None else array[index], files[name])


def damaged(folder: Path, how: str) -> None:
    tensors = load_file(folder / FILE)
    name = "model.decoder.layers.1.mlp.up_proj.weight"
    if how == "missing":
        del tensors[name]
    elif how == "surplus":
        tensors["lm_head.weight"] = torch.zeros(2)
    elif how == "shape":
        tensors[name] = tensors[name][:-1].clone()
    elif how == "dtype":
        tensors[name] = tensors[name].double()
    elif how == "NaN":
        tensors[name][0, 0] = float("nan")
    elif how == "differing copy":
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"] + 1
    elif how == "equal copy":
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
    elif how == "vision":
        tensors["model.encoder.vision_tower.x"] = torch.zeros(2)
    save_file(tensors, folder / FILE)
    if how == "truncated":
        (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])
    elif how == "absent":
        (folder / FILE).unlink()


@pytest.mark.parametrize("how", ["missing", "surplus", "shape", "dtype", "NaN", "differing copy", "truncated", "absent"])
def test_a_damaged_checkpoint_is_said_in_one_line(folder: Path, how: str) -> None:
    damaged(folder, how)
    with pytest.raises(CheckpointError) as caught:
        weights.load(folder, read_config(folder)[0])
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["vision", "equal copy"])
def test_vision_tensors_and_tied_copies_are_skipped(folder: Path, how: str) -> None:
    damaged(folder, how)
    weights.load(folder, read_config(folder)[0])


def test_shards_are_read_by_their_index(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    halves = {f"part-{i}.safetensors": dict(list(tensors.items())[i::2]) for i in range(2)}
    for name, half in halves.items():
        save_file(half, folder / name)
    (folder / FILE).unlink()
    index = {tensor: name for name, half in halves.items() for tensor in half}
    (folder / weight_files.INDEX).write_text(json.dumps({"weight_map": index}))
    config, _ = read_config(folder)
    np.testing.assert_array_equal(weights.load(folder, config)["norm"], tensors["model.decoder.norm.weight"])


def test_random_weights_have_the_shapes(folder: Path) -> None:
    config, _ = read_config(folder)
    made = weights.random(config, 3, "bfloat16")
    assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(
        lambda s: (s.shape, s.dtype), weights.shapes(config, "bfloat16")
    )
    assert 0.015 < float(np.asarray(made["embed"], np.float32).std()) < 0.025
    assert (np.asarray(made["sliding"]["input_norm"], np.float32) == 1).all()


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        Reference.load(folder, "float16")


def test_runs_are_the_layers() -> None:
    assert runs(PRESETS["2b"]) == [(4, 5), (1, 1)]
    assert runs(PRESETS["9b"]) == [(7, 5)]
    assert runs(replace(micro.CONFIG, num_layers=3, layer_types=("full_attention",) * 3)) == [(3, 0)]


@pytest.mark.parametrize(("text", "chips"), [("v4:1x1x1", (1, 1, 1)), ("v4:2x2x4", (2, 2, 4))])
def test_topologies(text: str, chips: tuple[int, int, int]) -> None:
    assert tpu.parse(text) == chips


@pytest.mark.parametrize("text", ["v4", "v4:2x2", "v5p:2x2x1", "v4:2x2x1x1", "v4:02x2x1"])
def test_other_topologies_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write v4:XxYxZ"):
        tpu.parse(text)


HLO = """HloModule jit_run, is_scheduled=true

%fused (p: s32[]) -> pred[] {
  %c = s32[]{:T(128)} constant(5)
}

%inner_cond (p: (s32[])) -> pred[] {
  ROOT %f = pred[] fusion(%p), kind=kLoop, calls=%fused
}

%inner_body (p: (s32[])) -> (s32[]) {
  %a = f32[8] fusion(%p), calls=%x, backend_config={"window_config":{"estimated_cycles":"7"}}
}

%cond (p: (s32[])) -> pred[] {
  %c = s32[]{:T(128)} constant(16)
  ROOT %lt = pred[] compare(%p, %c), direction=LT
}

%yes (p: f32[]) -> f32[] {
  %a = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"100"}}
}

%no (p: f32[]) -> f32[] {
  %a = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"3"}}
}

%body (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%p), condition=%inner_cond, body=%inner_body
  %a = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"2"}}
  %b = f32[] conditional(%q, %p, %p), branch_computations={%yes, %no}
}

ENTRY %main (p: s32[]) -> s32[] {
  %a = f32[8] copy(%p), backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %w = (s32[]) while(%p), condition=%cond, body=%body
}
"""


def test_cycles_are_weighted_by_trips() -> None:
    found = hlo.estimated_cycles(HLO)
    assert (found.total, found.trips) == (1000 + 16 * (2 + 5 * 7 + 100), (16, 5))
    once = hlo.estimated_cycles(HLO.replace("constant(16)", "constant(1)"))
    assert found.total - once.total == 15 * (2 + 5 * 7 + 100)  # control: bodies counted once
