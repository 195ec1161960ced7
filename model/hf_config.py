"""`config.json` and `generation_config.json` of the Hugging Face `diffusion_gemma` layout, read and written.

Strict on purpose: an unknown key that may change what the model computes, or a value that this model does not implement, is an
error, never a guess; `config_keys.py` lists the keys. It knows nothing of tensors (see `checkpoint.py`). Source of names and
defaults: transformers 5.23, `configuration_diffusion_gemma.py` and `generation_diffusion_gemma.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgemma.core.config import FULL, PRESETS, SLIDING, ModelConfig
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.model import config_keys as keys

CONFIG = "config.json"
GENERATION = "generation_config.json"
ADAPTER = "adapter_config.json"

Json = dict[str, Any]

# Left out by a config.json, these head sizes of full layers are implied (`DiffusionGemmaTextConfig.__post_init__`).
_DEFAULT_GLOBAL_HEAD_DIM = 512
_DEFAULT_EOS = 1  # of a text config that leaves it out

_GENERATION_FIELDS = (
    ("max_denoising_steps", "steps"),
    ("t_min", "t_min"),
    ("t_max", "t_max"),
    ("stability_threshold", "stability_threshold"),
    ("confidence_threshold", "confidence_threshold"),
)
_GENERATION_OTHER = {
    "sampler_config", "eos_token_id", "pad_token_id", "bos_token_id", "max_new_tokens", "max_length",
    "return_dict_in_generate", "cache_implementation", "cache_config", "disable_compile", "transformers_version",
    "_from_model_config", "_commit_hash",
}  # fmt: skip


def read_json(path: Path) -> Json:
    """A JSON object from a file; raises CheckpointError naming it when it is missing or no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; a checkpoint folder in the Hugging Face layout has it") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read as JSON ({reason}); copy the checkpoint again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; copy the checkpoint again")
    return values


def write_json(path: Path, values: Json) -> None:
    """Write a JSON object so that the file is either complete or absent; equal values give equal bytes."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _fixed(values: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for key, choices in allowed.items():
        if key in values and not any(type(values[key]) is type(c) and values[key] == c for c in choices):
            shown = " or ".join(json.dumps(c) for c in choices)
            raise CheckpointError(f"{where}{key} is {values[key]!r}; only {shown} is supported")


def _known(values: Mapping[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(set(values) - names):
        raise CheckpointError(
            f"{where}{unknown[0]} is an unknown key, which may change what the model computes; remove it if it does not, "
            "or upgrade dgemma"
        )


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{where} is {value!r}; it must be an integer")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{where} is {value!r}; it must be a number")
    return float(value)


def _object(value: Any, where: str) -> Json:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {value!r}; it must be an object")
    return value


def _rope(text: Json, where: str) -> dict[str, float]:
    """ModelConfig's rope fields from `rope_parameters`; null or absent means ModelConfig's defaults."""
    if text.get("rope_parameters") is None:
        return {}
    rope = _object(text["rope_parameters"], f"{where}rope_parameters")
    where += "rope_parameters."
    _known(rope, {SLIDING, FULL}, where)
    fields: dict[str, float] = {}
    for kind, rope_type, theta in (
        (SLIDING, "default", "sliding_rope_theta"),
        (FULL, "proportional", "full_rope_theta"),
    ):
        if kind not in rope:
            continue
        inner, values = f"{where}{kind}.", _object(rope[kind], f"{where}{kind}")
        _known(values, {"rope_type", "rope_theta", "partial_rotary_factor", "factor"}, inner)
        if values.get("rope_type", "default") != rope_type:
            raise CheckpointError(f"{inner}rope_type is {values.get('rope_type')!r}; only {rope_type!r} is supported")
        if _number(values.get("factor", 1.0), f"{inner}factor") != 1.0:
            raise CheckpointError(f"{inner}factor is {values['factor']!r}; only 1.0 is supported")
        if "rope_theta" in values:
            fields[theta] = _number(values["rope_theta"], f"{inner}rope_theta")
        partial = _number(values.get("partial_rotary_factor", 1.0), f"{inner}partial_rotary_factor")
        if kind == FULL:
            fields["full_partial_rotary_factor"] = partial
        elif partial != 1.0:
            raise CheckpointError(f"{inner}partial_rotary_factor is {partial!r}; only 1.0 is supported")
    return fields


def _layers(text: Json, where: str) -> tuple[str, ...] | None:
    """`layer_types`, checked; None when the default pattern is meant."""
    types = text.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or (unknown := [t for t in types if t not in (SLIDING, FULL)]):
        shown = unknown[0] if isinstance(types, list) else types
        raise CheckpointError(f"{where}layer_types holds {shown!r}; only {SLIDING!r} and {FULL!r} are supported")
    return tuple(types)


def _global_heads(text: Json, types: tuple[str, ...], where: str) -> Json:
    """Head size and kv heads of full layers, from `per_layer_config` (differences only) or the two global keys."""
    own = {"head_dim": text["head_dim"], "num_key_value_heads": text["num_key_value_heads"]}
    if text.get("per_layer_config") is None:
        dim, kv_heads = text.get("global_head_dim"), text.get("num_global_key_value_heads")
        found = {
            "head_dim": _DEFAULT_GLOBAL_HEAD_DIM if dim is None else dim,
            "num_key_value_heads": own["num_key_value_heads"] if kv_heads is None else kv_heads,
        }
    else:
        layers = _object(text["per_layer_config"], f"{where}per_layer_config")
        layers = {str(int(key)) if key.isdecimal() else key: values for key, values in layers.items()}  # "05" of 12 layers
        _known(layers, {str(i) for i in range(len(types))}, f"{where}per_layer_config.")
        found = {}
        for i, kind in enumerate(types):
            inner = f"{where}per_layer_config.{i}."
            values = _object(layers.get(str(i), {}), inner[:-1])
            _known(values, set(own), inner)
            expected = own if kind == SLIDING else found
            for key, default in own.items():
                value = _integer(values.get(key, default), inner + key)
                if expected.setdefault(key, value) != value:
                    raise CheckpointError(f"{inner}{key} is {value}; {kind} layers must all have {expected[key]}")
    return {
        "global_head_dim": _integer(found["head_dim"], f"{where}global_head_dim"),
        "global_num_kv_heads": _integer(found["num_key_value_heads"], f"{where}num_global_key_value_heads"),
    }


def _stop_tokens(path: Path, generation: Json, top: Json, text: Json) -> tuple[tuple[int, ...], str]:
    """Stop tokens and the place that names them: the first of the three that names any; null and an empty list name none."""
    places = ((f"{path.with_name(GENERATION)}: ", generation), (f"{path}: ", top), (f"{path}: text_config.", text))
    for where, values in places:
        value = values.get("eos_token_id", _DEFAULT_EOS if values is text else None)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if ids:
            return tuple(_integer(i, f"{where}eos_token_id") for i in ids), where
    return (), ""


def described(top: Json, path: Path, generation: Json) -> ModelConfig:
    """The shape that a config in the layout describes, as it stands in the file `path`; raises CheckpointError."""
    where, inner = f"{path}: ", f"{path}: text_config."
    if top.get("model_type") != "diffusion_gemma":
        raise CheckpointError(f"{where}model_type is {top.get('model_type')!r}; only 'diffusion_gemma' is supported")
    if quantized := [key for key in keys.REFUSED if top.get(key) is not None]:
        raise CheckpointError(f"{where}{quantized[0]}: the weights are quantized; give the checkpoint they were made from")
    _fixed(top, keys.TOP_FIXED, where)
    text = _object(top.get("text_config"), f"{where}text_config")
    _known(text, keys.TEXT, inner)
    _fixed(text, keys.TEXT_FIXED, inner)
    fields: Json = {}
    for key, field, needed in keys.SHAPES:
        if text.get(key) is not None:
            convert = _number if key in keys.FLOATS else _integer
            fields[field] = convert(text[key], inner + key)
        elif needed:
            raise CheckpointError(f"{inner}{key} is missing; shapes are not guessed")
    if text.get("enable_moe_block", fields.get("num_experts") is not None) is not (fields.get("num_experts") is not None):
        raise CheckpointError(f"{inner}enable_moe_block contradicts num_experts {fields.get('num_experts')}")
    if "final_logit_softcapping" in text:
        fields["final_logit_softcapping"] = _number(text["final_logit_softcapping"], f"{inner}final_logit_softcapping")
    if top.get("canvas_length") is not None:
        fields["canvas_length"] = _integer(top["canvas_length"], f"{where}canvas_length")
    folder_generation = f"{path.with_name(GENERATION)}: "
    for key in ("pad_token_id", "bos_token_id"):
        if generation.get(key) is not None:
            fields[key] = _integer(generation[key], folder_generation + key)
    fields["eos_token_ids"], _ = _stop_tokens(path, generation, top, text)
    fields |= _rope(text, inner)
    types = _layers(text, inner)
    if types is not None:
        fields["layer_types"] = types
    try:
        # a first instance settles the default layer pattern, which the head sizes below refer to
        draft = ModelConfig(**fields, global_head_dim=2, global_num_kv_heads=1)
        return ModelConfig(**fields, **_global_heads(text, draft.layer_types, inner))
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(message if message.startswith(str(path)) else f"{where}{message}") from None


def _read_sampler(path: Path, values: Json) -> SamplerConfig:
    where = f"{path}: "
    _known(values, _GENERATION_OTHER | {key for key, _ in _GENERATION_FIELDS}, where)
    fields: Json = {}
    for key, field in _GENERATION_FIELDS:
        if values.get(key) is not None:
            integral = field in ("steps", "stability_threshold")
            fields[field] = _integer(values[key], where + key) if integral else _number(values[key], where + key)
    if values.get("sampler_config") is not None:
        inner = f"{where}sampler_config."
        sampler = _object(values["sampler_config"], inner[:-1])
        _known(sampler, {"_cls_name", "entropy_bound"}, inner)
        _fixed(sampler, {"_cls_name": ("EntropyBoundSamplerConfig",)}, inner)
        if sampler.get("entropy_bound") is not None:
            fields["entropy_bound"] = _number(sampler["entropy_bound"], f"{inner}entropy_bound")
    try:
        return SamplerConfig(**fields)
    except UsageError as error:
        raise CheckpointError(f"{where}{error}") from None


def read_config(folder: Path | str) -> tuple[ModelConfig, SamplerConfig]:
    """Shapes and sampler policy of a checkpoint folder; without `generation_config.json` the sampler has its defaults.

    Raises:
        CheckpointError: one line that names the file and the key.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file, not a checkpoint folder; unpack an archive and give the folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a checkpoint folder in the Hugging Face layout")
    if (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder / ADAPTER}: belongs to an adapter, which transformers would load on top; merge it into the model "
            "(PEFT's `merge_and_unload`, then `save_pretrained`), or move its files away"
        )
    path = folder / GENERATION
    generation = read_json(path) if path.exists() else {}
    return described(read_json(folder / CONFIG), folder / CONFIG, generation), _read_sampler(path, generation)


def find_config(named: Path | str) -> tuple[ModelConfig, SamplerConfig, Path | None]:
    """As `read_config`, of a folder, a hub id or a preset, and the folder, None for a preset. Folders come first.

    Raises:
        CheckpointError: also when there is none of them; `tiny` is shipped as a bundle alone.
    """
    from dgemma.model.hub import folder_of  # which reads names with this module

    if str(named) in PRESETS and not Path(named).is_dir():
        return PRESETS[str(named)], SamplerConfig(), None
    folder = folder_of(named)
    if folder.exists():
        return *read_config(folder), folder
    what = "is a file, not a checkpoint folder" if Path(named).is_file() else "no such checkpoint folder"
    raise CheckpointError(f"{named}: {what}; give a folder, a hub id, or a preset: {', '.join(PRESETS)}")


def notes(folder: Path | str) -> tuple[str, ...]:
    """What the configs of a folder that `read_config` reads leave out, one line each."""
    path = Path(folder) / GENERATION
    generation = read_json(path) if path.exists() else {}
    config = read_json(path.with_name(CONFIG))
    stops, where = _stop_tokens(path.with_name(CONFIG), generation, config, config["text_config"])
    found = [] if path.exists() else [f"no {GENERATION}: the sampler uses its defaults"]
    if unknown := sorted(set(config) - keys.TOP - set(keys.REFUSED)):
        found.append(f"{CONFIG}: unknown keys are skipped: {', '.join(unknown)}")
    if not stops:
        found.append(f"no stop token: every answer runs to its full length; set eos_token_id in {GENERATION}")
    elif not where.startswith(str(path)):
        found.append(f"{GENERATION} names no stop token: {CONFIG}'s are used ({', '.join(map(str, stops))})")
    return tuple(found)


def text_config(config: ModelConfig) -> Json:
    """The shape in the keys of the layout's text config."""
    text: Json = {key: getattr(config, field) for key, field, _ in keys.SHAPES}
    return text | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "enable_moe_block": config.is_moe,
        "final_logit_softcapping": config.final_logit_softcapping,
        "eos_token_id": list(config.eos_token_ids),
        "layer_types": list(config.layer_types),
        "global_head_dim": config.global_head_dim,
        "num_global_key_value_heads": config.global_num_kv_heads,
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": config.sliding_rope_theta},
            FULL: {
                "rope_type": "proportional",
                "rope_theta": config.full_rope_theta,
                "partial_rotary_factor": config.full_partial_rotary_factor,
            },
        },
    }


def write_config(folder: Path | str, config: ModelConfig, sampler: SamplerConfig, *, dtype: str = "float32") -> None:
    """Write both files so that `read_config` gives the same values back; `dtype` is said for other readers only."""
    folder = Path(folder)
    text = text_config(config) | {"model_type": "diffusion_gemma_text"}
    write_json(
        folder / CONFIG,
        {
            "architectures": ["DiffusionGemmaForBlockDiffusion"],
            "model_type": "diffusion_gemma",
            "canvas_length": config.canvas_length,
            "dtype": dtype,
            "text_config": text,
            "tie_word_embeddings": True,
        },
    )
    generation: Json = {key: getattr(sampler, field) for key, field in _GENERATION_FIELDS}
    generation |= {
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": sampler.entropy_bound},
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
    }
    write_json(folder / GENERATION, generation)
