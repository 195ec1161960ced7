"""The quantized checkpoint: what is written comes back to the bit, and damage is one typed line."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from safetensors.torch import load_file, save_file

from dgemma.cli import dispatch
from dgemma.core.errors import CheckpointError, DgemmaError, UsageError
from dgemma.core.manifest import digest
from dgemma.export.template import PLACES
from dgemma.model import checkpoint
from dgemma.quantize import write_checkpoint as writing
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.read_checkpoint import DESCRIPTION, SHARD_INDEX, is_quantized, open_quantized
from dgemma.quantize.recipes import Recipe, find
from dgemma.quantize.report import bits_per_weight
from dgemma.quantize.write_checkpoint import write_quantized

RECIPE = replace(find("w4-mixed"), name="micro", group=16, rotation=16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = micro.save(tmp_path / "float", micro.MOE_CONFIG)
    (folder / "LICENSE").write_text("Apache")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def store(source: Path) -> Path:
    write_quantized(source, source.parent / "store", RECIPE)
    return source.parent / "store"


def assert_same(folder: Path, model: Any, recipe: Recipe) -> None:
    opened, want = open_quantized(folder), quantize(model, recipe)
    assert list(opened.matrices) == list(want)
    for name, got in opened.matrices.items():
        for part in ("integers", "scale", "multipliers"):
            mine, other = getattr(got, part), getattr(want[name], part)
            assert (mine is None) == (other is None) and (mine is None or torch.equal(mine, other)), (name, part)
            assert mine is None or mine.dtype == other.dtype
        assert (got.bits, got.rotation, got.group) == (want[name].bits, want[name].rotation, want[name].group)
    state = model.state_dict()
    assert set(opened.floats) == set(state) - set(want)
    assert all(torch.equal(tensor, state[name]) for name, tensor in opened.floats.items())
    assert opened.description["bits_per_weight"] == bits_per_weight(model, want)
    assert opened.description["parameters"] == sum(p.numel() for p in model.parameters())


def test_every_file_that_text_is_read_from_is_copied(source: Path) -> None:
    (source / "added_tokens.json").write_text("{}")
    (source / "additional_chat_templates").mkdir()
    for place in PLACES:
        (source / place).write_text("{}")
    write_quantized(source, source.parent / "s", RECIPE)
    assert all((source.parent / "s" / name).read_text() == "{}" for name in ("tokenizer.json", "added_tokens.json", *PLACES))


@pytest.mark.parametrize("recipe", [RECIPE, replace(find("w4-all"), group=16), find("w8"), find("fp32")])
def test_what_is_written_comes_back(source: Path, recipe: Recipe) -> None:
    write_quantized(source, source.parent / "s", recipe)
    assert_same(source.parent / "s", checkpoint.load(source).model, recipe)
    opened = open_quantized(source.parent / "s")
    assert opened.recipe == recipe and opened.config == micro.MOE_CONFIG and opened.sampler == micro.POLICY
    assert {p.name for p in (source.parent / "s").iterdir()} >= {"LICENSE", "tokenizer.json", "config.json"}
    assert opened.description["source"]["files"] == checkpoint.load(source).files()


def test_an_odd_number_of_groups_comes_back(source: Path) -> None:
    recipe = replace(find("w4"), group=16)  # 48 inputs of the down projection: three multipliers in two bytes
    write_quantized(source, source.parent / "s", recipe)
    packed = load_file(source.parent / "s" / "quantized-00002-of-00005.safetensors")
    assert packed["layers.0.mlp.down_proj.weight.multipliers"].shape == (32, 2)
    assert packed["layers.0.mlp.down_proj.weight.integers"].shape == (32, 24)
    assert_same(source.parent / "s", checkpoint.load(source).model, recipe)


@torch.no_grad()
def test_a_store_runs_as_its_integers_do(source: Path, store: Path) -> None:
    opened, model = open_quantized(store), checkpoint.load(source).model
    canvas, soft = torch.arange(micro.N)[None], torch.zeros(1, micro.N, 32)
    logits = [
        fake_quantize(made, matrices).denoise(canvas, soft, None, 0)
        for made, matrices in ((opened.model(), opened.matrices), (model, quantize(model, RECIPE)))
    ]
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], model.denoise(canvas, soft, None, 0))


def test_the_same_input_gives_the_same_bytes(source: Path, store: Path) -> None:
    write_quantized(source, source.parent / "again", RECIPE)
    for path in sorted(store.iterdir()):
        assert path.read_bytes() == (source.parent / "again" / path.name).read_bytes(), path.name


def test_random_weights_are_those_of_the_checkpoint_module(source: Path) -> None:
    write_quantized(source, source.parent / "random", RECIPE, random_seed=3)
    assert_same(source.parent / "random", checkpoint.random_weights(micro.MOE_CONFIG, 3), RECIPE)
    assert open_quantized(source.parent / "random").description["source"] == {"shape_of": "float", "random_weights": 3}


def test_mapped_weights_are_those_of_load(source: Path) -> None:
    mapped, state = checkpoint.MappedWeights(source), checkpoint.load(source).model.state_dict()
    assert list(mapped) == list(state) and len(mapped) == len(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in mapped.items())


def edit_json(path: Path, edit: Callable[[Any], Any], *, sign: bool = False) -> None:
    values = json.loads(path.read_text())
    edit(values)
    if sign:
        values["digest"] = digest(values)
    path.write_text(json.dumps(values))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


SHARD = "quantized-00002-of-00005.safetensors"
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / SHARD).unlink(), rf"{SHARD}: is missing"),
    (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-5]), rf"{SHARD}: has \d+ bytes instead of \d+"),
    (lambda f: flip(f / SHARD), rf"{SHARD}: content differs"),
    (lambda f: flip(f / "config.json"), "config.json: content differs"),
    (lambda f: (f / "LICENSE").unlink(), "LICENSE: is missing"),
    (lambda f: (f / DESCRIPTION).unlink(), "has no quantization.json"),
    (lambda f: (f / DESCRIPTION).write_text("{"), "quantization.json: cannot be read"),
    (lambda f: (f / DESCRIPTION).write_text("[]"), "quantization.json: has no format number"),
    (lambda f: edit_json(f / DESCRIPTION, lambda v: v.update(bits_per_weight=1.0)), "was changed"),
    (lambda f: edit_json(f / DESCRIPTION, lambda v: v.update(extra=1), sign=True), "'extra' is missing or unknown"),
    (lambda f: edit_json(f / DESCRIPTION, lambda v: v.pop("recipe"), sign=True), "'recipe' is missing or unknown"),
    (lambda f: edit_json(f / DESCRIPTION, lambda v: v.update(format=2), sign=True), "format 2 is newer than 1"),
    (lambda f: edit_json(f / DESCRIPTION, lambda v: v["recipe"].update(x=1), sign=True), "recipe key 'x' is unknown"),
    (
        lambda f: edit_json(f / DESCRIPTION, lambda v: v["matrices"]["embed_tokens.weight"].update(shape=[3, 32]), sign=True),
        "matrix embed_tokens.weight does not fit",
    ),
    (
        lambda f: edit_json(f / DESCRIPTION, lambda v: v["files"].update({"../x": {"size": 1, "sha256": ""}}), sign=True),
        "'../x' is not a plain file",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_one_line_that_names_the_file(store: Path, damage: Callable[[Path], object], message: str) -> None:
    open_quantized(store)
    damage(store)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_quantized(store)
    assert "\n" not in str(caught.value)


def rewrite(store: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit one shard and make everything that vouches for it agree, as an incompatible writer would."""
    tensors = {name: tensor.clone() for name, tensor in load_file(store / SHARD).items()}
    edit(tensors)
    save_file(tensors, store / SHARD)
    index = json.loads((store / SHARD_INDEX).read_text())
    where = {t: file for t, file in index["weight_map"].items() if file != SHARD} | dict.fromkeys(tensors, SHARD)
    (store / SHARD_INDEX).write_text(json.dumps({"weight_map": where}))

    def sign(values: Any) -> None:
        for name in (SHARD, SHARD_INDEX):
            path = store / name
            values["files"][name] = {"size": path.stat().st_size, "sha256": checkpoint.sha256_file(path)}

    edit_json(store / DESCRIPTION, sign, sign=True)


UP = "layers.0.mlp.up_proj.weight"


def test_tensors_that_do_not_fit_are_named(store: Path) -> None:
    rewrite(store, lambda t: t.update({f"{UP}.scale": t[f"{UP}.scale"].double()}))
    opened = open_quantized(store)
    with pytest.raises(CheckpointError, match=rf"tensor {UP}\.scale is torch\.float64 \[48\] instead of torch\.float32"):
        opened.matrices[UP]
    with pytest.raises(KeyError):
        opened.matrices["nothing"]
    rewrite(store, lambda t: t.pop(f"{UP}.multipliers"))
    with pytest.raises(CheckpointError, match=rf"tensor {UP}\.multipliers is missing"):
        open_quantized(store)
    rewrite(store, lambda t: t.update({f"{UP}.multipliers": t[f"{UP}.scale"].clone(), "other": t[f"{UP}.scale"].clone()}))
    with pytest.raises(CheckpointError, match="tensor other is unexpected"):
        open_quantized(store)


def test_a_quantized_checkpoint_is_not_quantized_again(store: Path) -> None:
    assert is_quantized(store)
    with pytest.raises(CheckpointError, match="is quantized already"):
        write_quantized(store, store.parent / "twice", RECIPE)


def left(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"float"}


def test_nothing_is_left_of_what_fails(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = source.parent / "out"
    failures: list[tuple[BaseException, type[BaseException], str]] = [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), CheckpointError, "cannot be written"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ]
    calls = 0
    for failure, expected, message in failures:
        calls = 0

        def save(*args: Any, failure: BaseException = failure) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise failure
            save_file(*args)

        monkeypatch.setattr(writing, "save_file", save)
        with pytest.raises(expected, match=message):
            write_quantized(source, out, RECIPE)
        assert calls == 3 and left(source.parent) == set()


def test_a_nan_is_named_and_leaves_nothing(source: Path) -> None:
    name = "model.decoder.layers.1.mlp.up_proj.weight"
    tensors = {key: tensor.clone() for key, tensor in load_file(source / "model.safetensors").items()}
    tensors[name][0, 0] = torch.nan
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"tensor {name} holds NaN"):
        write_quantized(source, source.parent / "out", RECIPE)
    assert left(source.parent) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such checkpoint folder"),
        (["2b"], "add --random-weights SEED"),
        (["FLOAT", "--recipe", "w5"], "--recipe 'w5' is unknown"),
        (["FLOAT"], "groups of 128 do not divide"),
        (["FLOAT", "--recipe", "w8", "--calibration", "c.jsonl"], "c.jsonl: cannot be read"),
        (["FLOAT", "--recipe", "fp32", "--calibration", "c.jsonl"], "does not use it"),
        (["FLOAT", "--recipe", "w8", "--out", "FLOAT"], "exists already"),
        (["FLOAT", "--recipe", "w8", "--out", "no/where"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    source: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [str(source) if a == "FLOAT" else a for a in arguments]
    defaults = {"--recipe": "w4-mixed", "--out": str(source.parent / "out")}
    given += [text for pair in defaults.items() if pair[0] not in given for text in pair]
    assert dispatch(["quantize", *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert left(source.parent) == set()


def test_the_command_quantizes_and_reports(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = source.parent / "out", source.parent / "r.json"
    file.write_text(json.dumps(RECIPE.to_dict()))
    assert dispatch(["quantize", str(source), "--recipe", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "bits per weight" in printed.out and "peak memory" in printed.out
    assert [line.split()[-1] for line in printed.err.splitlines()][:3] == ["embed_tokens", "layers.0", "layers.1"]
    assert open_quantized(out).recipe == RECIPE


def test_gptq_needs_a_calibration_file_that_holds_prompts(source: Path) -> None:
    recipe = replace(RECIPE, methods={"attention": "gptq", "mlp_down": "gptq"})
    out, prompts = source.parent / "out", source.parent / "c.jsonl"
    with pytest.raises(UsageError, match="give --calibration"):
        write_quantized(source, out, recipe)
    for text, message in (
        ("", "holds no prompts"),
        ("\n \n", "holds no prompts"),
        ("{}", "line 1 has no prompt_ids"),
        ("x", "line 1"),
        ('{"prompt_ids": [1]}\n{"prompt_ids": [300]}', "line 2 must list ids below 300"),
        ('{"prompt_ids": "a"}', "line 1 must"),
    ):
        prompts.write_text(text)
        with pytest.raises(DgemmaError, match=rf"c\.jsonl: {message}"):
            write_quantized(source, out, recipe, prompts=prompts)
    prompts.unlink()
    with pytest.raises(DgemmaError, match="cannot be read"):
        write_quantized(source, out, recipe, prompts=prompts)
    prompts.write_text('{"prompt_ids": [1, 2, 3]}\n{"prompt_ids": [9, 4]}\n')
    made = write_quantized(source, out, recipe, prompts=prompts)
    assert made["calibration"]["prompts"] == 2
    plain = quantize(checkpoint.load(source).model, replace(RECIPE, methods={}))
    name = "layers.0.mlp.down_proj.weight"
    calibrated, other = open_quantized(out).matrices, "layers.0.mlp.up_proj.weight"
    assert torch.equal(calibrated[name].scale, plain[name].scale)
    assert not torch.equal(calibrated[name].integers, plain[name].integers)
    assert not torch.equal(calibrated[other].integers, plain[other].integers)  # not named, but there are prompts
    named = replace(recipe, methods={**recipe.methods, "mlp_up_gate": "searched"})
    write_quantized(source, source.parent / "named", named, prompts=prompts)
    assert torch.equal(open_quantized(source.parent / "named").matrices[other].integers, plain[other].integers)


def test_all_that_text_needs_is_copied(source: Path) -> None:
    """Every file that the tokenizer and the chat template are read from."""
    stems = ("added_tokens", "chat_template", "tokenizer_config", "special_tokens_map")
    names = [*(f"{stem}.json" for stem in stems), "chat_template.jinja"]
    for name in names:
        (source / name).write_text("{}")
    write_quantized(source, source.parent / "store", RECIPE)
    assert all((source.parent / "store" / name).read_text() == "{}" for name in names)
