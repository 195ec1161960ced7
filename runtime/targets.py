"""What a bundle contains for accelerators, as lines of text. It knows no engine."""

from __future__ import annotations

from dgemma.core.accelerators import CHIPS
from dgemma.core.manifest import TargetSpec

_PRECISIONS = {
    "a16": "a16: products of integers with 16-bit activations, float16 between them",
    "w16": "w16: integers as weights, float16 for everything else",
}


def describe(name: str, spec: TargetSpec) -> list[str]:
    """What runs where, and the sizes that there are."""
    chip = "" if spec.chip is None else f" ({CHIPS[spec.chip].sold_as if spec.chip in CHIPS else 'unknown chip'})"
    widths = sorted({g.rows for g in spec.graphs if g.part == "layers"})
    lengths = sorted({g.slots for g in spec.graphs if g.part == "layers"})
    files = sorted({g.binary or g.file for g in spec.graphs})
    methods = sum(g.method is not None for g in spec.graphs)
    lines = [
        f"{name}{chip}, {_PRECISIONS.get(spec.precision, spec.precision)}",
        "  compiled with " + ", ".join(f"{package} {version}" for package, version in spec.versions.items()),
        f"  rows {', '.join(map(str, widths))}; prefix {', '.join(map(str, lengths))}, of sliding layers at most {spec.local}",
        "  where " + ", ".join(f"{part}: {place}" for part, place in spec.placement.items()),
        f"  {f'{methods} methods in' if methods else 'contexts'} {', '.join(files)}",
    ]
    if spec.needs is not None:
        lines.append(f"  needs {spec.needs}; read back and compared when it was exported, not run anywhere yet")
    return lines
