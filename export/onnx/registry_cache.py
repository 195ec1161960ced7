"""Makes torch's exporter keep what each of its many calls would otherwise make again.

Seen with torch 2.13: every call parses the sources of all of torchlib's functions, which takes as long as a small piece does,
and selects decompositions for the operators that have no such function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.onnx._internal.exporter import _decomp, _registration

from dgemma.export.patching import replaced


@contextmanager
def cached_registry() -> Iterator[None]:
    """Torchlib's functions are registered once for each opset, and decompositions picked once, while it lasts."""
    kind: Any = _registration.ONNXRegistry
    build = kind.from_torchlib
    made: dict[int, Any] = {}

    def kept(opset_version: int) -> Any:
        if opset_version not in made:
            made[opset_version] = build(opset_version)
        registry = kind()
        registry._opset_version = opset_version
        registry.functions = {target: [*found] for target, found in made[opset_version].functions.items()}  # callers add to it
        return registry

    pick: Any = _decomp.create_onnx_friendly_decomposition_table
    tables: dict[frozenset[Any], Any] = {}

    def picked(operators: set[Any]) -> Any:
        key = frozenset(operators)
        if key not in tables:
            tables[key] = pick(operators)
        return {**tables[key]}

    with (
        replaced(kind, "from_torchlib", staticmethod(kept)),
        replaced(_decomp, "create_onnx_friendly_decomposition_table", picked),
    ):
        yield
