"""What a study's result says of the bundle that it measured."""

from __future__ import annotations

from typing import Any

from dgemma.runtime.bundle import Bundle


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "digest": bundle.digest,
        "name": manifest.provenance.get("name"),
        "recipe": manifest.quantization.get("recipe"),
        "parameters": manifest.quantization.get("parameters"),
        "canvas": manifest.canvas_length,
        "model": manifest.model.to_dict(),
    }
