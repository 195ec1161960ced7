"""The same canvases on ARM64 as on this machine? Runs a bundle under emulated processors and compares, bit by bit.

    python tests/arm64/run.py BUNDLE… [--count 50] [--cpus cortex-a53 …] [--out FILE.json]

ONNX runs on every processor named, ExecuTorch on the first of them, or where --executorch-cpus says. Trajectories are kept
below --work, and a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

import compare  # noqa: E402
import environment  # noqa: E402

from dgemma.core.errors import DgemmaError  # noqa: E402
from dgemma.core.prompts import evenly, held_out, read  # noqa: E402
from dgemma.core.trajectory import Trajectory  # noqa: E402
from dgemma.runtime import cache  # noqa: E402
from dgemma.runtime.bundle import Bundle  # noqa: E402
from dgemma.verify.divergence import CLOSE, NEAR  # noqa: E402

CPUS = ("cortex-a53", "cortex-a76", "cortex-a710")  # without dot products, with them, with int8 matrix products
MAX_NEW_TOKENS = 128


def prompts_of(bundle: Bundle, count: int) -> list[dict[str, Any]]:
    """The golden prompts, as ids and with their seeds, then held-out ones of every task until there are `count`."""
    found: list[dict[str, Any]] = []
    with np.load(bundle.path / "golden.npz") as golden:
        for i, seed in enumerate(golden["seeds"].tolist()):
            ids = golden[f"artifact_{i}_prompt_ids"].tolist()
            found.append({"prompt": ids, "seed": int(seed), "max_new_tokens": MAX_NEW_TOKENS, "raw": True})
    for seed, item in enumerate(evenly(read(held_out()), max(0, count - len(found)))):
        found.append({"prompt": item.prompt, "seed": seed, "max_new_tokens": MAX_NEW_TOKENS, "raw": False})
    return found


def trajectories(folder: Path, count: int) -> list[Trajectory]:
    return [Trajectory.load(folder / f"{i:03}.npz") for i in range(count)]


class Check:
    """One bundle on all processors."""

    def __init__(self, path: Path, machine: environment.Machine, work: Path, count: int) -> None:
        self.bundle, self.machine, self.work = Bundle.open(path), machine, work
        self.items = prompts_of(self.bundle, count)
        text = json.dumps(self.items)
        self.folder = work / "runs" / f"{self.bundle.digest[:16]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "prompts.json"
        self.file.write_text(text)

    def run(self, engine: str, cpu: str | None) -> dict[str, Any]:
        """Trajectories of one engine here (no cpu) or on ARM64; returns what the worker says of it."""
        out = self.folder / f"{engine}-{cpu or 'here'}"
        command = [sys.executable] if cpu is None else self.machine.command(cpu)
        host = environment.Machine(emulator=(), python=(), path=(), facts={})
        env = (host if cpu is None else self.machine).environment(ROOT / "src", self.work / "cache")
        script = str(Path(__file__).with_name("worker.py"))
        done = subprocess.run([*command, script, str(self.bundle.path.resolve()), engine, str(self.file), str(out)], env=env)
        if done.returncode:
            raise environment.Missing(f"{engine} on {cpu or platform.machine()} ended with status {done.returncode}")
        facts: dict[str, Any] = json.loads((out / "facts.json").read_text())
        return facts

    def reference(self, engine: str) -> dict[str, Any]:
        """As `run`, of this machine; on ARM64 itself there has to be a run of another one. Raises Missing."""
        if self.machine.emulator:
            return self.run(engine, None)
        known = self.folder / f"{engine}-here" / "facts.json"
        if not known.exists():
            raise environment.Missing(f"{known.parent} is missing; copy the trajectories of an x86 machine there")
        facts: dict[str, Any] = json.loads(known.read_text())
        return facts

    def result(self, engine: str, cpu: str, logits: Any) -> dict[str, Any]:
        there = self.run(engine, cpu)
        here = self.reference(engine)
        count = len(self.items)
        ours, theirs = (trajectories(self.folder / f"{engine}-{name}", count) for name in ("here", cpu))
        manifest = self.bundle.manifest
        limits = CLOSE if any(bits < 32 for bits in manifest.quantization.get("bits", {}).values()) else NEAR
        seeds = [item["seed"] for item in self.items]
        figures = compare.compare(ours, theirs, seeds, manifest.sampler, logits, limits)
        recipe = manifest.quantization.get("recipe", "fp32")
        head = {"bundle": recipe, "digest": self.bundle.digest, "engine": engine, "cpu": cpu, "limits": limits}
        return {**head, **figures, "seconds": there["seconds"], "seconds_here": here["seconds"], "there": there, "here": here}


def own_logits(bundle: Bundle) -> Any:
    """Tempered logits of a row, from the bundle's ONNX graph, for margins; None where it has none."""
    from dgemma.verify.engine_backend import EngineBackend

    if "onnx" not in bundle.manifest.graphs:
        return None
    backend = EngineBackend(bundle, "onnx", 1)
    backend.reset()
    return None if backend.without_logits else backend.logits


def main() -> int:
    parser = argparse.ArgumentParser(description="The same canvases on ARM64?")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=50, help="prompts, the golden ones first")
    parser.add_argument("--engines", nargs="+", default=["onnx", "executorch"])
    parser.add_argument("--cpus", nargs="+", default=list(CPUS))
    parser.add_argument("--executorch-cpus", nargs="*", help="default: the first of --cpus")
    parser.add_argument("--work", type=Path, default=cache.folder() / "arm64", help="for what is fetched and what was run")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    machine = environment.prepare(work)
    results = []
    processors = options.cpus if machine.emulator else [platform.machine()]
    for path in options.bundles:
        check = Check(path, machine, work, options.count)
        logits = own_logits(check.bundle)
        for engine in options.engines:
            cpus = processors if engine == "onnx" else ((machine.emulator and options.executorch_cpus) or processors[:1])
            for cpu in cpus:
                results.append(check.result(engine, cpu, logits))
                print(compare.line(results[-1]), flush=True)
    if options.out:
        facts = {"command": "python tests/arm64/run.py", "here": platform.machine(), **machine.facts}
        options.out.write_text(json.dumps({"facts": facts, "runs": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (environment.Missing, DgemmaError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
