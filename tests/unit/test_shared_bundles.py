"""The good and bad bundles, and the JSON texts, that the Java runtime's tests read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_recipes import BUNDLES, RECIPES, make

from dgemma.core import errors
from dgemma.core.manifest import canonical
from dgemma.runtime.bundle import Bundle

TEXTS: dict[str, Any] = json.loads((BUNDLES / "json.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["name"].encode("ascii", "replace").decode())
def test_recipe(recipe: dict[str, Any], tmp_path: Path) -> None:
    bundle = make(tmp_path / "b.dgemma", recipe)
    if "error" not in recipe:
        assert Bundle.open(bundle).digest == recipe["opens"]
        return
    with pytest.raises(getattr(errors, recipe["error"] + "Error")) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert recipe["says"] in message
    assert "\n" not in message


def test_there_are_many_recipes_of_both_sorts() -> None:
    good = [recipe for recipe in RECIPES if "error" not in recipe]
    assert len(good) >= 20
    assert len(RECIPES) - len(good) >= 100
    assert len({recipe["opens"] for recipe in good}) > 20  # a digest that were always the same would hold nothing


def test_canonical_texts() -> None:
    for text, expected in TEXTS["canonical"]:
        assert canonical({"x": json.loads(text)}).decode() == '{"x":' + expected + "}", text


@pytest.mark.parametrize("text", TEXTS["without_canonical"])
def test_values_without_canonical_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|surrogates not allowed"):
        canonical({"x": json.loads(text)})


@pytest.mark.parametrize("text", TEXTS["refused"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)
