"""A micro bundle with methods for a backend of ExecuTorch, in few sizes: two widths, one length, a vocabulary of one tile."""

from __future__ import annotations

import json
from pathlib import Path

import micro
import micro_bundle
import pytest
import shared

from dgemma.core.accelerators import COREML, VULKAN
from dgemma.core.config import ModelConfig
from dgemma.export.delegates import lower
from dgemma.export.graphs import Shapes
from dgemma.export.pipeline import export_bundle
from dgemma.export.quiet import quiet
from dgemma.export.static import Sizes
from dgemma.quantize.recipes import find

SLOTS = 64


def recipe(target: str) -> Path:
    """Blocks of 4 bits and a rotation in sizes that the micro model has, and 8 bits where the backend takes them."""
    path = Path(micro_bundle.root()) / f"mixed-{target}.json"
    values = {**find("w4-mixed").to_dict(), "name": "mixed", "group": 16, "rotation": 16}
    if target == VULKAN:
        values["bits"] = {kind: 4 if bits == 4 else 32 for kind, bits in values["bits"].items()}
    path.write_text(json.dumps(values))
    return path


def bundle(target: str, of: str = COREML) -> Path:
    """`of`: the backend whose recipe is taken."""
    return shared.bundle(f"micro-{target}-{of}", lambda out: export(out, target, of))


def export(out: Path, target: str, of: str = COREML) -> Path:
    def few(cls: type[Sizes], shapes: Shapes, config: ModelConfig) -> Sizes:
        return cls(rows=(1, micro.N), slots=(SLOTS,), local=SLOTS)

    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setattr(lower.Sizes, "of", classmethod(few))
        return export_bundle(
            micro_bundle.checkpoint(), out, engines=("onnx",), recipe=str(recipe(of)), context=SLOTS, target=target
        )
