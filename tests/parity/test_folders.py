"""Checkpoint folders mean to this reader what they mean to transformers: the same weights and values, or both refuse.

Every form is a small folder as some tool leaves it. `DIFFERENT` lists the forms that are refused here on purpose though
transformers loads them, each with the reason. Stop tokens have one deviation, which has a test of its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import hf_generation, hf_model
from safetensors.torch import load_file, save_file, save_model
from transformers.models.diffusion_gemma.modeling_diffusion_gemma import DiffusionGemmaForBlockDiffusion as Hf

from dgemma.core.errors import CheckpointError
from dgemma.model.checkpoint import MappedWeights, load, notes, tensor_names
from dgemma.model.weight_files import INDEX, WEIGHTS

Edit = Callable[[Path], object]
EMBEDDING, HEAD = "model.decoder.embed_tokens.weight", "lm_head.weight"
SAMPLER = ("t_min", "t_max", "stability_threshold", "confidence_threshold")
TEXT_Q = r".*decoder\.layers\.\d+\.self_attn\.q_proj"
GLOBAL = {"global_head_dim": 32, "num_global_key_value_heads": 1}
DECODER, ENCODER = "model.decoder.", "model.encoder.language_model."


@pytest.fixture(scope="module")
def models() -> tuple[Hf, Hf]:
    """An older and a newer model of one shape."""
    shape: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 300}
    old, new = (hf_model(experts=2, seed=seed, **shape) for seed in (1, 2))
    for model in (old, new):
        model.generation_config = hf_generation(steps=7, bound=0.3, confidence=0.02, stability=2, eos=[5, 6])
    return old, new


@pytest.fixture(scope="module")
def plain(models: tuple[Hf, Hf], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "plain"
    models[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(models: tuple[Hf, Hf], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The older model in shards."""
    folder = tmp_path_factory.mktemp("folders") / "sharded"
    models[0].save_pretrained(folder, max_shard_size="50kB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Edit:
    """Edit `model.safetensors` as another tool would write it."""

    def edit(folder: Path) -> None:
        held = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        made = change(held)
        save_file(made if isinstance(made, dict) else held, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def generation(**values: Any) -> Edit:
    return lambda folder: edit_json(folder / "generation_config.json", lambda v: v.update(values))


def config(top: dict[str, Any] | None = None, **text: Any) -> Edit:
    return lambda folder: edit_json(folder / "config.json", lambda v: (v.update(top or {}), v["text_config"].update(text)))


def tied(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every copy that transformers ties, as a plain `save_file` of the state dict holds them."""
    copies = {
        ENCODER + name.removeprefix(DECODER): tensor.clone()
        for name, tensor in held.items()
        if name.startswith(tuple(DECODER + part for part in ("layers.", "embed_tokens", "norm"))) and "layer_scalar" not in name
    }
    return {**held, **copies, HEAD: held[EMBEDDING].clone()}


def below_the_head(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in held.items()}


def buffers(held: dict[str, torch.Tensor]) -> None:
    for layer in (0, 1):
        held[f"{DECODER}layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)


def hub(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for file in sorted(folder.iterdir()):
        file.rename(blobs / f"{file.name}-blob")
        file.symlink_to(os.path.relpath(blobs / f"{file.name}-blob", folder))


def leftovers(sharded: Path, pattern: str) -> Edit:
    def copy(folder: Path) -> None:
        for file in sharded.glob(pattern):
            shutil.copyfile(file, folder / file.name)

    return copy


def merged(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    model = Hf.from_pretrained(folder)
    before = model.model.decoder.layers[0].self_attn.q_proj.weight.detach().clone()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TEXT_Q, init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(folder)
    changed = load_file(folder / WEIGHTS)[f"{DECODER}layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(changed, before)


FORMS: dict[str, Edit] = {
    "save_pretrained": lambda _: None,
    "bfloat16": lambda folder: Hf.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder),
    "float16": lambda folder: Hf.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder),
    "merged with PEFT": merged,
    "loaded in bfloat16, said float32": config({"dtype": "float32"}),
    "dtype left out": lambda folder: edit_json(folder / "config.json", lambda v: v.pop("dtype")),
    "a hub's links": hub,
    "all tied copies": tensors(tied),
    "a head": tensors(lambda held: held.update({HEAD: held[EMBEDDING].clone()})),
    "the head alone": tensors(lambda held: held.update({HEAD: held.pop(EMBEDDING)})),
    "save_model": lambda folder: save_model(Hf.from_pretrained(folder), str(folder / WEIGHTS), metadata={"format": "pt"}),
    "below the head": tensors(below_the_head),
    "below the head, tied copies": tensors(lambda held: below_the_head(tied(held))),
    "rotary buffers": tensors(buffers),
    "no vision": tensors(lambda held: {n: t for n, t in held.items() if "vision" not in n}),
    "another precision for norms": tensors(lambda held: {n: t.half() if t.ndim == 1 else t for n, t in held.items()}),
    "nulls": generation(**dict.fromkeys(("max_denoising_steps", "sampler_config", *SAMPLER))),
    "one stop token": generation(eos_token_id=7),
    "no pad and no bos": generation(pad_token_id=None, bos_token_id=None),
    "global heads": lambda folder: edit_json(
        folder / "config.json",
        lambda v: (v["text_config"].pop("per_layer_config"), v["text_config"].update(GLOBAL)),
    ),
    "default layers": config(layer_types=None),
    "default rope": config(rope_parameters=None),
    "pytorch_model.bin beside it": lambda folder: torch.save({}, folder / "pytorch_model.bin"),
    "a variant beside it": lambda folder: shutil.copyfile(folder / WEIGHTS, folder / "model.fp16.safetensors"),
    "a file that the config names": lambda folder: (
        (folder / WEIGHTS).rename(folder / "other.safetensors"),
        config({"transformers_weights": "other.safetensors"})(folder),
    ),
}
BROKEN: dict[str, Edit] = {
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "a truncated file": lambda folder: os.truncate(folder / WEIGHTS, 5000),
    "a variant alone": lambda folder: (folder / WEIGHTS).rename(folder / "model.fp16.safetensors"),
    "a shape that differs": tensors(lambda held: held.update({EMBEDDING: held[EMBEDDING][:-1].clone()})),
    "an unknown sampler value": generation(temperature=0.5),
    "no steps": generation(max_denoising_steps=0),
    "a file that is not there": config({"transformers_weights": "other.safetensors"}),
}
DIFFERENT: dict[str, tuple[Edit, str]] = {
    # transformers fills a lost tensor with random values and warns
    "a lost tensor": (tensors(lambda held: held.pop(f"{DECODER}norm.weight")), "norm.weight is missing"),
    # it leaves a tensor out that the model may depend on, and warns
    "a surplus tensor": (
        tensors(lambda held: held.update({f"{DECODER}extra": torch.ones(2)})),
        f"{DECODER}extra is unexpected",
    ),
    # it unties the two, which no graph here can
    "a head that differs": (tensors(lambda held: held.update({HEAD: held[EMBEDDING] + 1})), f"{HEAD} differs from {EMBEDDING}"),
    # it reads pickles
    "pytorch_model.bin": (
        lambda folder: (torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin"), (folder / WEIGHTS).unlink()),
        "only those are read",
    ),
    # it loads an adapter on top where PEFT is installed, and ignores it where it is not
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "merge it into the model"),
    # it computes with what it was given
    "NaN": (tensors(lambda held: held[EMBEDDING].fill_(float("nan"))), "NaN or infinity"),
}


def theirs(folder: Path) -> Hf:
    return Hf.from_pretrained(folder, dtype=torch.float32)


def compare(folder: Path) -> None:
    """Weights to the last bit, through both readers, and every value that generation takes."""
    oracle, ours, mapped = theirs(folder), load(folder), MappedWeights(folder)
    notes(folder)
    state, own = oracle.state_dict(), ours.model.state_dict()
    for name, inner in tensor_names(ours.model).items():
        assert torch.equal(own[inner], state[name]), name
        assert torch.equal(mapped[inner].float(), state[name]), name
    assert torch.equal(state[HEAD], state[EMBEDDING])
    values = oracle._prepare_generation_config(None)[0]
    assert ours.sampler.steps == values.max_denoising_steps
    assert ours.sampler.entropy_bound == values.sampler_config.entropy_bound
    for key in SAMPLER:
        assert getattr(ours.sampler, key) == getattr(values, key), key
    text = oracle.config.text_config
    eos = values.eos_token_id
    assert ours.config.eos_token_ids == (tuple(eos) if isinstance(eos, list) else (eos,))
    for key in ("pad_token_id", "bos_token_id"):
        said = getattr(values, key)
        assert getattr(ours.config, key) == (getattr(text, key) if said is None else said), key
    assert list(ours.config.layer_types) == text.layer_types
    prompt = torch.tensor([[2, 40, 41, 42, 43]])
    with torch.no_grad():
        hidden = oracle.model.encoder(input_ids=prompt).last_hidden_state
    assert torch.allclose(ours.model.encode(prompt)[0], hidden, atol=1e-4)


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "snapshot"))


@pytest.mark.parametrize("form", FORMS)
def test_both_read_the_same(folder: Path, form: str) -> None:
    FORMS[form](folder)
    compare(folder)


@pytest.mark.parametrize("pattern", ["model*", "model-*", "*index.json", "model-00001*"])
def test_saved_over_an_older_sharded_model(folder: Path, sharded: Path, pattern: str) -> None:
    """Whatever the older one left behind, the new file is read; and the old weights do differ."""
    leftovers(sharded, pattern)(folder)
    compare(folder)
    assert not torch.equal(load(folder).model.embed_tokens.weight, load(sharded).model.embed_tokens.weight)
    assert notes(folder)[0].startswith(f"weights: {WEIGHTS}; ignored: ")


def test_shards(sharded: Path, tmp_path: Path) -> None:
    compare(sharded)
    folder = Path(shutil.copytree(sharded, tmp_path / "partly"))
    edit_json(folder / INDEX, lambda v: v["weight_map"].pop(EMBEDDING))  # whole shards are read
    compare(folder)
    hub(Path(shutil.move(folder, tmp_path / "snapshot")))
    compare(tmp_path / "snapshot")


@pytest.mark.parametrize("form", BROKEN)
def test_both_refuse(folder: Path, form: str) -> None:
    BROKEN[form](folder)
    with pytest.raises(Exception):  # noqa: B017, PT011  transformers raises all kinds
        theirs(folder)
    with pytest.raises(CheckpointError):
        load(folder)


@pytest.mark.parametrize("form", DIFFERENT)
def test_what_is_refused_on_purpose(folder: Path, form: str) -> None:
    edit, reason = DIFFERENT[form]
    edit(folder)
    if form != "an adapter":
        theirs(folder)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [None, []])
def test_stop_tokens_of_the_config_where_generation_names_none(folder: Path, value: Any) -> None:
    """transformers then never stops; here the config's are taken and a note says so. Where nobody names any, neither stops."""
    generation(eos_token_id=value)(folder)
    assert not theirs(folder).generation_config.eos_token_id
    assert load(folder).config.eos_token_ids == (1,)
    config(eos_token_id=value)(folder)
    assert load(folder).config.eos_token_ids == ()
