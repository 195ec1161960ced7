"""What an export took, against what `--dry-run` said beforehand: seconds, peak of resident memory, and bytes written.

    python -m dgemma.benchmarks.studies.export_cost SHAPE --recipe w4-mixed --work FOLDER --out FILE [--engine all] [--layers K]

A shape is a preset, or a folder with a config. Each run is a process of its own with random weights. `--layers` cuts a preset
to its first K layers, for shapes whose weights do not fit here. The bundle is deleted in the end, but with --keep.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.core import machine
from dgemma.core.config import PRESETS, layer_pattern
from dgemma.core.errors import UsageError
from dgemma.core.manifest import read_manifest
from dgemma.core.sampler import SamplerConfig


def planned(lines: str) -> dict[str, Any]:
    """Bytes of each engine's files and of the peak, from the text of `dgemma export --dry-run`."""
    line = next(line for line in lines.splitlines() if line.startswith("weights"))
    weights = re.findall(r"(onnx|executorch) ([\d.]+) ([MG])B", line)
    peak = re.search(r"^memory +peak ([\d.]+) GB", lines, re.MULTILINE)
    assert peak is not None
    sizes = {engine: float(size) * {"M": 1e6, "G": 1e9}[unit] for engine, size, unit in weights}
    return {"engines": sizes, "peak_bytes": float(peak[1]) * 1e9}


def shape(preset: str, layers: int | None, work: Path) -> str:
    """What to export: the preset, or a folder with the config of its first layers."""
    if layers is None:
        return preset
    if preset not in PRESETS:
        raise UsageError(f"--layers cuts a preset; choose one of {', '.join(PRESETS)}")
    from dgemma.model.hf_config import write_config

    folder = work / f"{preset}-{layers}"
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, replace(PRESETS[preset], num_layers=layers, layer_types=layer_pattern(layers)), SamplerConfig())
    return str(folder)


def measure(checkpoint: str, bundle: Path, options: Sequence[str]) -> dict[str, Any]:
    """Plan and export; raises UsageError when either fails."""
    command = [sys.executable, "-m", "dgemma.cli", "export", checkpoint, "--out", str(bundle), *options]
    plan = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    if plan.returncode:
        raise UsageError(plan.stderr.strip().removeprefix("error: "))
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UsageError(f"{checkpoint}: the export failed, see above")
    found = {
        "seconds": time.monotonic() - started,
        "peak_bytes": usage.ru_maxrss * 1024,
        "processor_s": usage.ru_utime + usage.ru_stime,
    }
    manifest, digest = read_manifest(bundle, check_files=False)
    sizes = {e: sum(f.size for name, f in manifest.files.items() if name.startswith(f"{e}/")) for e in manifest.engines}
    expected = planned(plan.stdout)
    ratios = {"peak": found["peak_bytes"] / expected["peak_bytes"], **{e: sizes[e] / expected["engines"][e] for e in sizes}}
    return {
        "checkpoint": Path(checkpoint).name,
        "parameters": manifest.quantization["parameters"],
        "digest": digest,
        "recipe": manifest.quantization["recipe"],
        "engines": sizes,
        **found,
        "planned": expected,
        "seen_over_planned": ratios,
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.export_cost", description="What exports take.")
    parser.add_argument("shape", help="2b, 9b, 26b-a4b, or a folder with config.json")
    parser.add_argument("--recipe", default="w4-mixed")
    parser.add_argument("--engine", default="all")
    parser.add_argument("--soft", default="topk:16")
    parser.add_argument("--layers", type=int, help="only the first K layers of the preset")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the bundle")
    parser.add_argument("--keep", action="store_true", help="leave the bundle there")
    parser.add_argument("--out", type=Path, help="JSON; one that is there gains this run")
    options = parser.parse_args(argv)
    report.check_out(options.out)
    layers = f"-{options.layers}" if options.layers else ""
    name = f"{Path(options.shape).name}{layers}-{Path(options.recipe).stem}-{options.engine}"
    bundle = options.work / f"{name}.dgemma"
    arguments = ["--random-weights", "0", "--recipe", options.recipe, "--engine", options.engine, "--soft", options.soft]
    found = measure(shape(options.shape, options.layers, options.work), bundle, arguments)
    if not options.keep:
        shutil.rmtree(bundle)
    print(json.dumps(found))
    if options.out:
        earlier = json.loads(options.out.read_text(encoding="utf-8"))["runs"] if options.out.exists() else {}
        runs = {**earlier, name: {**found, "machine": machine.facts()}}
        report.write_json(options.out, {"benchmark": "export_cost", "runs": dict(sorted(runs.items()))})
    return 0


if __name__ == "__main__":
    report.main(run)
