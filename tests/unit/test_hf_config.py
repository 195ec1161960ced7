"""`config.json` and `generation_config.json`: read strictly, written back the same, one line for whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.sampler import SamplerConfig
from dgemma.model.hf_config import find_config, notes, read_config, write_config

DENSE = ModelConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8,
    global_num_kv_heads=2, global_head_dim=12, sliding_window=4, canvas_length=8, max_position_embeddings=64,
    eos_token_ids=(1, 7), pad_token_id=3, bos_token_id=4, rms_norm_eps=1e-5, sliding_rope_theta=5e3, full_rope_theta=2e5,
    full_partial_rotary_factor=0.5, final_logit_softcapping=20.0,
)  # fmt: skip
MOE = dataclasses.replace(DENSE, num_experts=4, top_k_experts=2, moe_intermediate_size=8)
SAMPLER = SamplerConfig(steps=9, t_min=0.3, t_max=0.9, entropy_bound=0.7, stability_threshold=2, confidence_threshold=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path, DENSE, SAMPLER)
    return tmp_path


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_config(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message.removeprefix(str(folder))


# file, where in it, value, and what the message must name
BAD_VALUES: list[tuple[str, str, Any, str]] = [
    ("config.json", "model_type", "gemma3", "model_type"),
    ("config.json", "tie_word_embeddings", False, "tie_word_embeddings"),
    ("config.json", "canvas_length", 0, "canvas_length"),
    ("config.json", "canvas_length", "8", "canvas_length"),
    ("config.json", "text_config", None, "text_config"),
    ("config.json", "quantization_config", {}, "quantization_config"),
    ("config.json", "quantization", {"bits": 4}, "quantization: the weights are quantized; give the checkpoint"),
    ("config.json", "text_config.tie_word_embeddings", False, "tie_word_embeddings"),
    ("config.json", "text_config.tie_word_embeddings", 1, "tie_word_embeddings"),
    ("config.json", "text_config.hidden_activation", "silu", "hidden_activation"),
    ("config.json", "text_config.attention_bias", True, "attention_bias"),
    ("config.json", "text_config.attention_k_eq_v", False, "attention_k_eq_v"),
    ("config.json", "text_config.use_bidirectional_attention", "all", "use_bidirectional_attention"),
    ("config.json", "text_config.num_kv_shared_layers", 2, "num_kv_shared_layers"),
    ("config.json", "text_config.hidden_size_per_layer_input", 256, "hidden_size_per_layer_input"),
    ("config.json", "text_config.use_double_wide_mlp", True, "use_double_wide_mlp"),
    ("config.json", "text_config.sliding_windw", 4, "sliding_windw is an unknown key, which may change what"),
    ("config.json", "text_config.query_pre_attn_scalar", 256, "query_pre_attn_scalar"),
    ("config.json", "text_config.hidden_size", None, "hidden_size"),
    ("config.json", "text_config.hidden_size", 16.0, "hidden_size"),
    ("config.json", "text_config.hidden_size", True, "hidden_size"),
    ("config.json", "text_config.sliding_window", 1, "sliding_window"),
    ("config.json", "text_config.num_attention_heads", 3, "num_heads"),
    ("config.json", "text_config.vocab_size", 3, "vocabulary of 3"),
    ("config.json", "text_config.rms_norm_eps", 0.0, "rms_norm_eps"),
    ("config.json", "text_config.final_logit_softcapping", None, "final_logit_softcapping"),
    ("config.json", "text_config.num_experts", 4, "enable_moe_block"),
    ("config.json", "text_config.enable_moe_block", True, "enable_moe_block"),
    ("config.json", "text_config.layer_types", ["sliding_attention", "chunked_attention", "full_attention"], "chunked"),
    ("config.json", "text_config.layer_types", ["full_attention", "full_attention", "sliding_attention"], "last layer"),
    ("config.json", "text_config.layer_types", ["full_attention"], "layer_types"),
    ("config.json", "text_config.layer_types", "full", "layer_types"),
    ("config.json", "text_config.rope_parameters.full_attention.rope_type", "yarn", "full_attention.rope_type"),
    ("config.json", "text_config.rope_parameters.sliding_attention.rope_type", "linear", "sliding_attention.rope_type"),
    ("config.json", "text_config.rope_parameters.sliding_attention.partial_rotary_factor", 0.5, "partial_rotary_factor"),
    ("config.json", "text_config.rope_parameters.full_attention.factor", 8.0, "factor"),
    ("config.json", "text_config.rope_parameters.full_attention.beta", 8.0, "beta"),
    ("config.json", "text_config.rope_parameters.rope_theta", 1e4, "rope_theta"),
    ("config.json", "text_config.per_layer_config", {"9": {"head_dim": 8}}, "per_layer_config.9"),
    ("config.json", "text_config.per_layer_config", {"0": {"head_dim": 12}}, "per_layer_config.0.head_dim"),
    ("config.json", "text_config.per_layer_config", {"2": {"sliding_window": 9}}, "per_layer_config.2.sliding_window"),
    ("generation_config.json", "max_denoising_steps", 0, "steps"),
    ("generation_config.json", "max_denoising_steps", 4.0, "max_denoising_steps"),
    ("generation_config.json", "t_min", 0.95, "t_min"),
    ("generation_config.json", "sampler_config._cls_name", "OtherSamplerConfig", "_cls_name"),
    ("generation_config.json", "sampler_config.top_k", 3, "sampler_config.top_k"),
    ("generation_config.json", "sampler_config.entropy_bound", "0.1", "entropy_bound"),
    ("generation_config.json", "temperature", 0.7, "temperature"),
    ("generation_config.json", "eos_token_id", [1, "2"], "eos_token_id"),
]


@pytest.mark.parametrize(("name", "where", "value", "reason"), BAD_VALUES, ids=lambda x: x if isinstance(x, str) else "")
def test_bad_values(folder: Path, name: str, where: str, value: Any, reason: str) -> None:
    def edit(values: Any) -> None:
        *outer, last = where.split(".")
        for key in outer:
            values = values[key]
        values[last] = value

    edit_json(folder / name, edit)
    message = refused(folder)
    assert message.startswith(f"/{name}: ")
    assert reason in message


@pytest.mark.parametrize("config", [DENSE, MOE, *PRESETS.values()], ids=["dense", "moe", *PRESETS])
def test_configs_round_trip(tmp_path: Path, config: ModelConfig) -> None:
    write_config(tmp_path, config, SAMPLER)
    assert read_config(tmp_path) == (config, SAMPLER)
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    assert (text["num_experts"], text["enable_moe_block"]) == (config.num_experts, config.is_moe)


def test_a_name_means_a_folder_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("2b") == (PRESETS["2b"], SamplerConfig(), None)
    Path("9b").touch()  # a file is no folder
    assert find_config("9b")[2] is None
    Path("2b").mkdir()
    write_config(Path("2b"), DENSE, SAMPLER)
    assert find_config("2b") == (DENSE, SAMPLER, Path("2b"))
    for name, says in (("3b", "no such checkpoint folder; give .* or a preset: 2b"), ("tiny", "shipped as a bundle")):
        with pytest.raises(CheckpointError, match=f"^{name}: .*{says}"):
            find_config(name)


def test_where_values_come_from(folder: Path) -> None:
    """Nulls mean defaults; stop tokens come from the first file that names some; head sizes in either spelling."""
    nulls = dict.fromkeys(
        (
            "max_denoising_steps",
            "sampler_config",
            "t_min",
            "t_max",
            "stability_threshold",
            "confidence_threshold",
            "eos_token_id",
        )
    )
    edit_json(folder / "generation_config.json", lambda v: v.update(nulls))
    edit_json(folder / "config.json", lambda v: v["text_config"].update(eos_token_id=9))
    config, sampler = read_config(folder)
    assert sampler == SamplerConfig()
    assert config.eos_token_ids == (9,)
    edit_json(folder / "config.json", lambda v: v.update(eos_token_id=[8, 9]))
    assert read_config(folder)[0].eos_token_ids == (8, 9)
    edit_json(folder / "generation_config.json", lambda v: v.update(eos_token_id=5, pad_token_id=6, bos_token_id=None))
    found = read_config(folder)[0]
    assert (found.eos_token_ids, found.pad_token_id, found.bos_token_id) == ((5,), 6, DENSE.bos_token_id)
    edit_json(folder / "config.json", lambda v: v["text_config"].update(per_layer_config={"2": {"head_dim": 20}}))
    found = read_config(folder)[0]
    assert (found.global_head_dim, found.global_num_kv_heads) == (20, DENSE.num_kv_heads)  # only what differs is written
    edit_json(folder / "config.json", lambda v: v["text_config"].update(per_layer_config={}))
    assert read_config(folder)[0].global_head_dim == DENSE.head_dim
    for key in ("per_layer_config", "global_head_dim", "num_global_key_value_heads"):
        edit_json(folder / "config.json", lambda v, key=key: v["text_config"].pop(key))
    found = read_config(folder)[0]
    assert (found.global_head_dim, found.global_num_kv_heads) == (512, DENSE.num_kv_heads)  # transformers' default


NOBODY = "no stop token: every answer runs to its full length; set eos_token_id in generation_config.json"
ABSENT = object()


@pytest.mark.parametrize(
    ("generation", "top", "text", "stops", "note"),
    [
        ([5, 6], 9, 7, (5, 6), None),
        (5, [], None, (5,), None),
        ([], 9, 7, (9,), "generation_config.json names no stop token: config.json's are used (9)"),
        (None, [], [7, 8], (7, 8), "generation_config.json names no stop token: config.json's are used (7, 8)"),
        (ABSENT, ABSENT, ABSENT, (1,), "generation_config.json names no stop token: config.json's are used (1)"),
        ([], [], [], (), NOBODY),
        (None, ABSENT, None, (), NOBODY),
    ],
)
def test_stop_tokens_come_from_the_first_place_that_names_any(
    folder: Path, generation: Any, top: Any, text: Any, stops: tuple[int, ...], note: str | None
) -> None:
    def put(values: Any, value: Any) -> None:
        values.pop("eos_token_id", None)
        if value is not ABSENT:
            values["eos_token_id"] = value

    edit_json(folder / "generation_config.json", lambda v: put(v, generation))
    edit_json(folder / "config.json", lambda v: (put(v, top), put(v["text_config"], text)))
    assert read_config(folder)[0].eos_token_ids == stops
    assert notes(folder) == (() if note is None else (note,))


def test_a_folder_without_generation_config_says_so(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert notes(folder)[0] == "no generation_config.json: the sampler uses its defaults"


def test_unknown_keys_beside_the_text_config_are_named_once(folder: Path) -> None:
    before = read_config(folder)
    more = {"vision_soft_tokens_per_image": 280, "use_cache": True, "generation_config": {}, "audio_config": None, "top_k": 50}
    edit_json(folder / "config.json", lambda v: v.update(more))
    assert read_config(folder) == before
    assert notes(folder) == ("config.json: unknown keys are skipped: audio_config, generation_config",)


@pytest.mark.parametrize("key", ["vision_soft_tokens_per_image", "attn_implementation", "router_aux_loss_coef", "do_sample"])
def test_keys_of_the_text_config_that_change_nothing(folder: Path, key: str) -> None:
    before = read_config(folder)
    edit_json(folder / "config.json", lambda v: v["text_config"].update({key: 3}))
    assert read_config(folder) == before
    assert notes(folder) == ()


def test_layers_with_leading_zeros(tmp_path: Path) -> None:
    """transformers pads the keys of `per_layer_config` to one length: "05" and "11" of twelve layers."""
    config = dataclasses.replace(DENSE, num_layers=12, layer_types=())
    write_config(tmp_path, config, SAMPLER)
    own = {"head_dim": config.global_head_dim, "num_key_value_heads": config.global_num_kv_heads}
    edit_json(tmp_path / "config.json", lambda v: v["text_config"].update(per_layer_config={"05": own, "11": own}))
    assert read_config(tmp_path) == (config, SAMPLER)
    edit_json(tmp_path / "config.json", lambda v: v["text_config"].update(per_layer_config={"05": own, "12": own}))
    assert "per_layer_config.12" in refused(tmp_path)
