"""Recipes as data: what is built in, what a file may say, and what is refused before any work starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro
import pytest

from dgemma.core.config import PRESETS
from dgemma.core.errors import UsageError
from dgemma.model.checkpoint import read_config
from dgemma.quantize.recipes import ACCELERATED, CLASSES, RECIPES, SUPPORT, Recipe, Support, find, matrix_shapes

ENGINES = ("onnx", "executorch")
TINY = Path(__file__).parents[2] / "checkpoints" / "tiny"


def test_the_built_in_recipes_are_what_they_are_called() -> None:
    assert list(RECIPES) == ["fp32", "w8", "w4-mixed", "w4", "w4-all"]
    four = {name: {c for c in CLASSES if recipe.bits[c] == 4} for name, recipe in RECIPES.items()}
    assert four["fp32"] == four["w8"] == set()
    assert four["w4-mixed"] == {"mlp_up_gate", "mlp_down", "experts", "self_conditioning"}
    assert four["w4"] == set(CLASSES) - {"embedding", "router"} and four["w4-all"] == set(CLASSES) - {"router"}
    assert not RECIPES["fp32"].quantizes and all(RECIPES[name].quantizes for name in list(RECIPES)[1:])
    assert not any(recipe.needs_calibration for recipe in RECIPES.values())
    assert [recipe.rotation for recipe in RECIPES.values()] == [0, 0, 128, 128, 128]


def test_recipes_of_accelerators_have_the_integers_of_those_of_processors() -> None:
    for name, base in (("w8a16", "w8"), ("w4a16-mixed", "w4-mixed")):
        assert replace(find(name), name=base, activations=8) == find(base)
    assert set(ACCELERATED) == {"w8a16", "w4a16-mixed"} and not set(ACCELERATED) & set(RECIPES)


@pytest.mark.parametrize("name", [*RECIPES, *ACCELERATED])
def test_the_built_in_recipes_run_on_every_engine_and_fit_every_preset(name: str) -> None:
    for config in (read_config(TINY)[0], *PRESETS.values()):
        find(name).check(ENGINES, config)


def test_groups_are_the_largest_that_divide() -> None:
    recipe = find("w4-mixed")
    assert [recipe.group_of("x", inputs) for inputs in (2304, 9216, 2816, 2112, 704, 96)] == [128, 128, 128, 64, 64, 32]
    assert replace(recipe, group=64).group_of("x", 2304) == 64
    assert replace(recipe, group=16).group_of("x", 48) == 16
    for config in (PRESETS["2b"], PRESETS["9b"], read_config(TINY)[0]):
        assert {recipe.group_of(name, shape[-1]) for name, shape in matrix_shapes(config).items()} == {128}


@pytest.mark.parametrize(("group", "inputs"), [(128, 48), (96, 48), (160, 96), (48, 32)])
def test_a_shape_that_no_half_of_a_group_divides_is_refused_by_tensor(group: int, inputs: int) -> None:
    with pytest.raises(UsageError, match=rf"^down: groups of {group} do not divide its {inputs} inputs; set .* 16"):
        replace(find("w4-mixed"), group=group).group_of("down", inputs)
    with pytest.raises(UsageError, match=r"layers\.0\.mlp\.down_proj\.weight: groups of 128 .* 48 inputs; .* 16"):
        find("w4-mixed").check(ENGINES, micro.CONFIG)


@pytest.mark.parametrize("bits", [4, 2, 3, 16, True, "8"])
def test_routers_have_8_bits_or_more(bits: Any) -> None:
    with pytest.raises(UsageError, match="router"):
        Recipe(name="r", bits={**find("w8").bits, "router": bits})


def test_an_override_reaches_no_router() -> None:
    recipe = replace(find("w8"), overrides=(("layers.0.*", 4),))
    assert recipe.bits_of("layers.0.router.proj.weight") == find("w8").bits["router"] == 32
    assert recipe.bits_of("layers.0.mlp.up_proj.weight") == 4
    assert recipe.bits_of("layers.1.mlp.up_proj.weight") == 8


def test_the_last_override_that_matches_wins() -> None:
    recipe = replace(find("w4"), overrides=(("layers.*.mlp.*", 8), ("layers.2.*", 32), ("*.up_proj.weight", 4)))
    assert recipe.bits_of("layers.0.mlp.down_proj.weight") == 8
    assert recipe.bits_of("layers.2.mlp.down_proj.weight") == 32
    assert recipe.bits_of("layers.2.mlp.up_proj.weight") == 4
    assert recipe.bits_of("layers.2.input_layernorm.weight") == 32  # a vector is never quantized
    recipe.check(ENGINES, PRESETS["2b"])
    with pytest.raises(UsageError, match=r"'layer\.3\.\*' matches no matrix"):
        replace(recipe, overrides=(("layer.3.*", 8),)).check(ENGINES, PRESETS["2b"])


def test_rotation_is_of_the_down_projection_alone_and_divides_it() -> None:
    recipe = replace(find("w4"), rotation=128)
    down = "layers.0.mlp.down_proj.weight"
    assert [recipe.rotation_of(down, inputs) for inputs in (512, 9216, 2112, 48, 33)] == [128, 128, 64, 16, None]
    assert recipe.rotation_of("layers.0.mlp.up_proj.weight", 512) is None
    assert recipe.rotation_of("self_conditioning.down_proj.weight", 512) is None
    assert replace(find("fp32"), rotation=128).rotation_of(down, 512) is None
    assert replace(find("w4"), rotation=0).rotation_of(down, 512) is None


def test_experts_are_integers_together_or_not_at_all() -> None:
    recipe = replace(find("w8"), overrides=(("*.experts.down_proj", 32),))
    with pytest.raises(UsageError, match="both"):
        recipe.check(ENGINES, micro.MOE_CONFIG)
    find("w8").check(ENGINES, micro.MOE_CONFIG)
    assert any("experts" in name for name in matrix_shapes(micro.MOE_CONFIG))


def test_an_engine_says_which_product_it_cannot_run_and_what_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = replace(find("w4"), name="mine", group=48)
    odd.check(("onnx",))
    with pytest.raises(UsageError, match=r"'mine': XNNPACK's blockwise int4 .*executorch .* multiple of 32, not 48.*w4"):
        odd.check(("onnx", "executorch"))
    eight = Support(bits=frozenset({8, 32}), group_multiple=1, product="MatMulInteger")
    monkeypatch.setitem(SUPPORT, "onnx", eight)
    with pytest.raises(UsageError, match=r"onnx cannot run 4-bit .*; use --recipe w8"):
        find("w4-all").check(("onnx",))
    find("w4-all").check(("executorch",))


def test_a_recipe_file_says_all_that_a_recipe_has(tmp_path: Path) -> None:
    recipe = replace(
        find("w4"), name="mine", group=64, rotation=32, methods={"attention": "gptq"}, overrides=(("layers.0.*", 8),)
    )
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(recipe.to_dict()))
    assert find(str(path)) == recipe and recipe.needs_calibration
    for calibrated in (False, True):
        assert recipe.method_of("layers.0.self_attn.q_proj.weight", calibrated=calibrated) == "gptq"
    assert recipe.method_of("layers.0.mlp.up_proj.weight", calibrated=False) == "searched"
    assert recipe.method_of("layers.0.mlp.up_proj.weight", calibrated=True) == "gptq"
    assert find("w4-all").method_of("embed_tokens.weight", calibrated=True) == "searched"
    assert recipe.takes_calibration and not replace(recipe, methods=dict.fromkeys(CLASSES, "nearest")).takes_calibration


BAD: list[tuple[dict[str, Any], str]] = [
    ({"colour": 1}, "key 'colour' is unknown"),
    ({"bits": {"attention": 4}}, "missing or unknown"),
    ({"bits": {**RECIPES["w8"].bits, "head": 8}}, "'head'"),
    ({"bits": {**RECIPES["w8"].bits, "attention": 5}}, "5 bits for attention"),
    ({"bits": 4}, "'bits' must be an object"),
    ({"group": 0}, "group 0"),
    ({"group": "128"}, "group '128'"),
    ({"rotation": 96}, "power of two"),
    ({"activations": 12}, "activations 12 must be 8 or 16"),
    ({"activations": 16, "bits": RECIPES["fp32"].bits}, "16-bit activations need 8-bit or 4-bit weights"),
    ({"methods": {"attention": "awq"}}, "'awq' for attention is unknown; choose nearest, searched, gptq"),
    ({"methods": {"heads": "gptq"}}, "unknown class 'heads'"),
    ({"overrides": {"a": 4}}, "list of"),
    ({"overrides": [["layers.0.*", 6]]}, "6 bits"),
    ({"name": ""}, "name"),
]


@pytest.mark.parametrize(("edit", "message"), BAD)
def test_a_bad_recipe_file_is_one_line_that_names_it(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**RECIPES["w8"].to_dict(), **edit}))
    with pytest.raises(UsageError, match=message) as caught:
        find(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", "[1]", "\xff"])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"r\.json"):
        find(str(path))


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UsageError, match="'w3' is unknown; choose fp32, w8, w4-mixed, w4, w4-all"):
        find("w3")
