"""Checkpoints: what is read stays mapped, what is written comes back, and whatever is wrong is one typed line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from checkpoint_edits import DENSE, EMBEDDING, NORM, SAMPLER, edit_json, edit_tensors, refused, shard
from safetensors.torch import load_file
from torch import Tensor

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.model.checkpoint import MappedWeights, load, notes, random_weights, save
from dgemma.model.weight_files import INDEX, WEIGHTS

MOE = dataclasses.replace(DENSE, num_experts=4, top_k_experts=2, moe_intermediate_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "ckpt", random_weights(DENSE, 1), SAMPLER)
    return tmp_path / "ckpt"


@pytest.mark.parametrize("config", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_saved_checkpoints_come_back(tmp_path: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    model = random_weights(config, 5)
    for layer in model.layers:
        layer.encode_scalar.fill_(0.5)
        layer.denoise_scalar.fill_(0.75)
    save(tmp_path, model, SAMPLER, dtype=dtype)
    found = load(tmp_path)
    assert (found.config, found.sampler, found.skipped, found.folder) == (config, SAMPLER, 0, tmp_path)
    assert not found.model.training
    assert not any(p.requires_grad or p.is_meta for p in found.model.parameters())
    assert not any(b.is_meta for b in found.model.buffers())
    state = found.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.to(dtype).float()), name
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(load(tmp_path).model.encode(tokens)[0], found.model.encode(tokens)[0])


def test_saving_is_deterministic_and_leaves_nothing_else(tmp_path: Path) -> None:
    names = ("config.json", "generation_config.json", WEIGHTS)
    for place in ("a", "b"):
        save(tmp_path / place, random_weights(MOE, 3), SAMPLER)
        assert sorted(p.name for p in (tmp_path / place).iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    save(tmp_path / "b", random_weights(MOE, 4), SAMPLER)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() != (tmp_path / "b" / WEIGHTS).read_bytes()
    hashes = load(tmp_path / "a").files()
    assert sorted(hashes) == sorted(names)
    assert hashes[WEIGHTS] != load(tmp_path / "b").files()[WEIGHTS]


def test_saving_over_a_loaded_checkpoint_keeps_what_is_mapped(folder: Path) -> None:
    model = load(folder).model
    before = model.embed_tokens.weight.clone()
    save(folder, random_weights(DENSE, 2), SAMPLER)
    assert torch.equal(model.embed_tokens.weight, before)
    assert not torch.equal(load(folder).model.embed_tokens.weight, before)


def test_saving_nan_is_refused(tmp_path: Path) -> None:
    model = random_weights(DENSE, 1)
    model.embed_tokens.weight[3, 3] = float("nan")
    with pytest.raises(CheckpointError, match=r"embed_tokens.*NaN"):
        save(tmp_path / "out", model, SAMPLER)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file: cannot be written") as caught:
        save(tmp_path / "file", random_weights(DENSE, 1), SAMPLER)
    assert "\n" not in str(caught.value)

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dgemma.model.checkpoint.os.replace", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path / "out", random_weights(DENSE, 1), SAMPLER)
    assert list((tmp_path / "out").iterdir()) == []


def mapped_share(folder: Path, model: torch.nn.Module) -> float:
    """Share of the parameters whose memory lies in a mapping of one of the folder's files."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and Path(fields[5]).parent == folder.resolve():
            low, high = (int(x, 16) for x in fields[0].split("-"))
            ranges.append((low, high))
    inside = [any(low <= p.data_ptr() < high for low, high in ranges) for p in model.parameters()]
    return sum(inside) / len(inside)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings of Linux")
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_stay_mapped_when_the_dtype_fits(folder: Path, shards: int) -> None:
    if shards > 1:
        shard(folder, shards)
    assert mapped_share(folder, load(folder).model) == 1.0
    assert mapped_share(folder, load(folder, dtype=torch.bfloat16).model) == 0.0  # control: converted, so copied


def test_a_half_precision_file_loads_at_either_precision(tmp_path: Path) -> None:
    save(tmp_path, random_weights(DENSE, 5), SAMPLER, dtype=torch.bfloat16)
    low, high = load(tmp_path, dtype=torch.bfloat16).model, load(tmp_path).model
    assert low.embed_tokens.weight.dtype == torch.bfloat16
    assert low.sliding_frequencies.dtype == torch.float32
    assert torch.equal(low.embed_tokens.weight.float(), high.embed_tokens.weight)
    assert (low.embed_scale, high.embed_scale) == (4.0, 4.0)


def test_shards_and_vision_tensors(folder: Path) -> None:
    whole = load(folder)
    vision = {
        "model.encoder.vision_tower.x.weight": torch.tensor([float("nan")]),
        "model.encoder.embed_vision.embedding_projection.weight": torch.zeros(2, 2, dtype=torch.int64),
    }
    edit_tensors(folder, lambda tensors: tensors.update(vision))
    shard(folder)
    found = load(folder)
    assert (whole.skipped, found.skipped) == (0, 2)
    assert len(found.files()) == 2 + 1 + 3
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers ties to the tensors of a checkpoint, and buffers that older versions saved."""
    stem = "model.encoder.language_model."
    made = {stem + n.removeprefix("model.decoder."): t.clone() for n, t in tensors.items() if "self_conditioning" not in n}
    made = {n: t for n, t in made.items() if n.startswith(stem) and not n.endswith("layer_scalar") and n not in tensors}
    buffers = {"model.decoder.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    return {"lm_head.weight": tensors[EMBEDDING].clone(), **made, **buffers}


@pytest.mark.parametrize("shards", [1, 3])
def test_tied_copies_are_left_out_and_counted(folder: Path, shards: int) -> None:
    whole = load(folder).model.state_dict()
    made = copies(load_file(folder / WEIGHTS))
    edit_tensors(folder, lambda tensors: tensors.update(made))
    if shards > 1:
        shard(folder, shards)
    for state in (load(folder).model.state_dict(), MappedWeights(folder)):
        assert all(torch.equal(state[name], tensor) for name, tensor in whole.items())
    assert notes(folder) == (
        f"weights: tied copies left out, which must be equal: {len(made) - 1} (lm_head.weight, …)",
        "weights: rotary buffers left out, recomputed from config.json: 1",
    )


def test_a_tied_copy_is_taken_where_its_tensor_is_not_there(folder: Path) -> None:
    whole = load(folder).model.state_dict()
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop(EMBEDDING)}))
    assert all(torch.equal(load(folder).model.state_dict()[name], tensor) for name, tensor in whole.items())
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert EMBEDDING in refused(folder)


def test_both_readers_compare_tied_copies(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING] + 1}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.decoder\.embed_tokens\.weight"):
        MappedWeights(folder)["embed_tokens.weight"]


def test_one_file_comes_before_an_index_and_its_shards(folder: Path) -> None:
    """As in transformers: a model saved over an older sharded one is the new one."""
    fresh = (folder / WEIGHTS).read_bytes()
    edit_tensors(folder, lambda tensors: tensors[NORM].add_(1))
    shard(folder)
    old = load(folder)
    assert notes(folder) == () and len(old.files()) == 2 + 1 + 3
    (folder / WEIGHTS).write_bytes(fresh)
    found = load(folder)
    assert torch.equal(found.model.layers[1].input_layernorm.weight, torch.ones(16))
    assert sorted(found.files()) == ["config.json", "generation_config.json", WEIGHTS]
    assert notes(folder) == (f"weights: {WEIGHTS}; ignored: {INDEX}, 3 shards",)
    for file in folder.glob("model-*"):
        file.unlink()
    assert notes(folder) == (f"weights: {WEIGHTS}; ignored: {INDEX}",)  # an index without its shards is no fault then
    edit_json(folder / "config.json", lambda v: v.update(transformers_weights=INDEX))
    assert "which is missing" in refused(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "only those are read"),
        ("pytorch_model.bin.index.json", "only those are read"),
        ("shard-00000-model-00001-of-00001.safetensors", "distributed checkpoint"),
        ("model.fp16.safetensors", "has neither"),
    ],
)
def test_weights_that_are_not_read_say_what_to_do(folder: Path, name: str, reason: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    assert reason in refused(folder)


def test_adapters_and_files_are_refused_with_their_cure(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refused(folder)
    archive = tmp_path / "model.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"model\.zip: is a file, not a checkpoint folder; unpack an archive"):
        load(archive)


def test_shards_hold_what_their_index_leaves_out(folder: Path) -> None:
    """transformers reads whole shards."""
    shard(folder)
    edit_json(folder / INDEX, lambda v: v["weight_map"].pop(NORM))
    assert torch.equal(load(folder).model.layers[1].input_layernorm.weight, torch.ones(16))


def test_random_weights() -> None:
    a, b, c = random_weights(MOE, 7), random_weights(MOE, 7), random_weights(MOE, 8)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name])
        if tensor.ndim > 1:
            assert not torch.equal(tensor, c.state_dict()[name])
            assert 0.01 < float(tensor.std()) < 0.03
        else:
            assert bool((tensor == 1).all())
    q, k = a.layers[0].self_attn.q_proj.weight, a.layers[1].self_attn.q_proj.weight
    assert not torch.equal(q, k)  # a seed for every tensor, not one for all
    logits = a.denoise(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, 16), None, 0)
    assert bool(logits.isfinite().all())
    assert random_weights(DENSE, 7, dtype=torch.bfloat16).embed_tokens.weight.dtype == torch.bfloat16
