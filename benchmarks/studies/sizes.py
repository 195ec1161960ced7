"""Sizes of bundles, from their manifests: what a device has to store, and what its weights come to.

Run: `python -m dgemma.benchmarks.studies.sizes BUNDLE [BUNDLE …] [--out FILE]`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.core import machine
from dgemma.core.manifest import read_manifest

# Bytes that a bundle of the 2b shape with one engine may have.
GOALS = {"w8": 2.85e9, "w4-mixed": 1.95e9, "w4": 1.75e9, "w4-all": 1.45e9}


def measure(bundle: Path) -> dict[str, Any]:
    """JSON types: recipe, engines, bytes of all files and by engine, bits per weight as quantized and as stored."""
    manifest, digest = read_manifest(bundle)
    files = {name: entry.size for name, entry in manifest.files.items()}
    by_engine = {e: sum(size for name, size in files.items() if name.startswith(f"{e}/")) for e in manifest.engines}
    quantization = manifest.quantization
    return {
        "recipe": quantization["recipe"],
        "model": manifest.provenance.get("shape_of", manifest.provenance.get("name")),
        "parameters": quantization["parameters"],
        "engines": by_engine,
        "bytes": sum(files.values()),
        "bits_per_weight": quantization["bits_per_weight"],
        "stored_bits_per_weight": quantization["stored_bits_per_weight"],
        "digest": digest,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.sizes", description="Sizes of bundles.")
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    rows = [measure(bundle) for bundle in options.bundles]
    judged = [row for row in rows if row["model"] == "2b" and len(row["engines"]) == 1 and row["recipe"] in GOALS]
    missed = [row for row in judged if row["bytes"] > GOALS[row["recipe"]]]
    for row in rows:
        engines = ", ".join(f"{engine} {size / 1e9:.3f} GB" for engine, size in row["engines"].items())
        size = f"{row['bytes'] / 1e9:.3f} GB ({engines})"
        print(f"{row['model']} {row['recipe']}: {size}, {row['bits_per_weight']} bits per weight")
    if options.out:
        result = {"bundles": rows, "goals": GOALS, "holds": not missed, "machine": machine.facts()}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
