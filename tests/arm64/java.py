"""The same canvases from the Java runtime on ARM64 as on this machine? Runs the JVM tool here and under qemu, and compares.

    python tests/arm64/java.py BUNDLE… [--count 24] [--cpus cortex-a76 …] [--out FILE.json]

Needs the JVM tool (`mvn -q package` in android_demo/), whose ONNX Runtime jar holds the libraries of both architectures, and
a Java here. The emulated one is Debian's, unpacked below --work like all else that is fetched (see environment.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

import compare  # noqa: E402
import environment  # noqa: E402
import run  # noqa: E402

from dgemma.core.errors import DgemmaError  # noqa: E402
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder  # noqa: E402
from dgemma.runtime import cache  # noqa: E402
from dgemma.runtime.bundle import Bundle  # noqa: E402
from dgemma.verify.divergence import CLOSE, NEAR  # noqa: E402

JAR = ROOT / "android_demo" / "jvm" / "target" / "dgemma-jvm-0.1.0.jar"
# One thread, the quick compiler, the simple collector: what runs well under an emulator; the tokens do not depend on them.
JAVA_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
ROWS = ("canvas_index", "step", "temperature", "canvas_in", "argmax", "entropy", "accepted", "canvas_out")


def answers(command: Sequence[str], jar: Path, bundle: Path, prompts: Path, out: Path) -> float:
    """Have the JVM tool write its JSON lines to `out`, unless they are there; seconds that it took. Raises Missing."""
    seconds = out.with_suffix(".seconds")
    if seconds.exists():
        return float(seconds.read_text())
    clock = time.monotonic()
    tool = [*JAVA_OPTIONS, "-jar", str(jar), "run", str(bundle), "--engine", "onnx", "--threads", "1"]
    temporary = {**os.environ, "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={out.parent}"}
    with out.open("w") as file:
        done = subprocess.run([*command, *tool, "--prompts", str(prompts), "--json", "--trace"], stdout=file, env=temporary)
    if done.returncode:
        raise environment.Missing(f"the JVM tool ended with status {done.returncode} on {out.stem}")
    seconds.write_text(str(time.monotonic() - clock))
    return float(seconds.read_text())


def trajectories(file: Path, n: int) -> list[Trajectory]:
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        given, recorder = json.loads(line)["trajectory"], TrajectoryRecorder(n)
        for row in zip(*(given[name] for name in ROWS), strict=True):
            recorder.add(*row)
        found.append(recorder.finish(given["prompt_ids"], given["tokens"]))
    return found


def check(path: Path, jar: Path, emulated: Sequence[str], cpus: Sequence[str], work: Path, count: int) -> list[dict[str, Any]]:
    bundle = Bundle.open(path)
    items = run.prompts_of(bundle, count)
    folder = work / "java" / f"{bundle.digest[:16]}-{count}-{environment.digest(jar)}"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    here_s = answers(["java"], jar, path, prompts, folder / "here.jsonl")
    n, manifest = bundle.manifest.canvas_length, bundle.manifest
    ours = trajectories(folder / "here.jsonl", n)
    limits = CLOSE if any(bits < 32 for bits in manifest.quantization.get("bits", {}).values()) else NEAR
    logits, results = run.own_logits(bundle), []
    for cpu in cpus:
        command = [*emulated[:-1], "-cpu", cpu, emulated[-1]]
        there_s = answers(command, jar, path, prompts, folder / f"{cpu}.jsonl")
        theirs = trajectories(folder / f"{cpu}.jsonl", n)
        figures = compare.compare(ours, theirs, [item["seed"] for item in items], manifest.sampler, logits, limits)
        recipe = manifest.quantization.get("recipe", "fp32")
        head = {"bundle": recipe, "digest": bundle.digest, "engine": "onnx (Java)", "cpu": cpu, "limits": limits}
        results.append({**head, **figures, "seconds": there_s, "seconds_here": here_s})
        print(compare.line(results[-1]), flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="The same canvases from Java on ARM64?")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=24, help="prompts, the golden ones first")
    parser.add_argument("--cpus", nargs="+", default=["cortex-a76"])
    parser.add_argument("--jar", type=Path, default=JAR, help="the JVM tool, with its lib/ beside it")
    parser.add_argument("--work", type=Path, default=cache.folder() / "arm64", help="for what is fetched and what was run")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if not options.jar.is_file():
        raise environment.Missing(f"{options.jar} is missing; run `mvn -q package` in android_demo/")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    command, facts = environment.java(work)
    results = []
    for path in options.bundles:
        results += check(path.resolve(), options.jar.resolve(), command, options.cpus, work, options.count)
    if options.out:
        head = {"command": "python tests/arm64/java.py", **facts}
        options.out.write_text(json.dumps({"facts": head, "runs": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (environment.Missing, DgemmaError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
