"""Tokens per second of the JVM tool and of the Python runtime: one bundle, one version of ONNX Runtime, in turns A B A B.

    python -m dgemma.benchmarks.studies.jvm BUNDLE [--onnxruntime FOLDER] [--rounds 3] [--seconds 15] [--threads N] \
        [--out FILE.json]

Both run the real prompts of `dgemma bench` in a process of their own, again and again. FOLDER is what
`pip install --target FOLDER onnxruntime==VERSION` made of the version that android_demo/pom.xml names; without it the
installed one is taken, and a difference of versions is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.bench import pairs
from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.bench.run import SEED
from dgemma.benchmarks.stats import quartiles
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS

JAR = Path(__file__).resolve().parents[2] / "android_demo/jvm/target"
Json = dict[str, Any]


def measure_here(bundle: Path, seconds: float, threads: int) -> Json:
    """What a Python process measures: groups of real prompts, and the version of ONNX Runtime."""
    from dgemma.runtime.session import Session

    with Session.load(bundle, engine="onnx", threads=threads) as session:
        given = pairs.prompts(bundle, session.manifest)
        by = pairs.decoders(session, MAX_NEW_TOKENS, SEED)
        found = pairs.paired_runs(given, by, Budget(seconds=seconds))
        groups = {group: pairs.summarize(done) for group, done in found.items() if done}
        return {"onnxruntime": session.engine_version, "groups": groups}


def _run(command: Sequence[str], paths: Sequence[Path] = ()) -> Json:
    environment = dict(os.environ)
    if paths:
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), environment.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"{Path(command[0]).name} exited with status {done.returncode}: {last}")
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def python(bundle: Path, seconds: float, threads: int, onnxruntime: Path | None) -> Json:
    command = [sys.executable, "-m", __spec__.name, str(bundle), "--child", "--seconds", str(seconds)]
    command += ["--threads", str(threads)]
    return _run(command, [onnxruntime] if onnxruntime else [])


def java(bundle: Path, seconds: float, threads: int) -> Json:
    """Half of a benchmark's time is for real prompts."""
    jars = sorted(JAR.glob("dgemma-jvm-*.jar"))
    if not jars:
        raise UsageError(f"no JVM tool in {JAR}; make it: mvn -q -f android_demo/pom.xml -DskipTests package")
    command = ["java", "-jar", str(jars[-1]), "bench", str(bundle), "--engine", "onnx", "--seconds", str(2 * seconds), "--json"]
    found = _run([*command, "--threads", str(threads)])
    versions = found["machine"]["versions"]
    return {"onnxruntime": versions["onnxruntime"], "java": versions["java"], "groups": found["groups"]}


def compare(rounds: Sequence[tuple[Json, Json]]) -> Json:
    """Group → decoder → rates of both sides and their ratio, Java over Python; counts that must be the same.

    Other work on a machine only slows: `best` compares each side's fastest quartile in its best round, and
    `fastest_step_ms` is the least of all answers, Python's and Java's.
    """
    found: Json = {}
    for group in rounds[0][0]["groups"]:
        found[group] = {}
        for name in pairs.DECODERS:
            sides = [[side["groups"][group][name] for side in both] for both in rounds]
            rates = [[side["tokens_per_s"]["median"] for side in both] for both in sides]
            best = [max(both[i]["tokens_per_s"]["q3"] for both in sides) for i in range(2)]
            found[group][name] = {
                "python_tokens_per_s": median(a for a, _ in rates),
                "java_tokens_per_s": median(b for _, b in rates),
                "java_over_python": asdict(quartiles([b / a for a, b in rates])),
                "best": best[1] / best[0],
                "fastest_step_ms": [min(both[i]["step_ms"]["least"] for both in sides) for i in range(2)],
                "tokens_per_forward": [side["tokens_per_forward"] for side in sides[0]],
                "host_share": [median(both[i]["host_share"]["median"] for both in sides) for i in range(2)],
            }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.jvm", description="The JVM beside Python.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--onnxruntime", type=Path, help="a folder that pip installed ONNX Runtime into")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each side in each round")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--out", type=Path, help="where to write the result")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure_here(given.bundle, given.seconds, given.threads)))
        return 0
    report.check_out(given.out)
    rounds = []
    for _ in range(given.rounds):
        here = python(given.bundle, given.seconds, given.threads, given.onnxruntime)
        there = java(given.bundle, given.seconds, given.threads)
        if here["onnxruntime"] != there["onnxruntime"]:
            raise UsageError(
                f"Python has onnxruntime {here['onnxruntime']} and the JVM {there['onnxruntime']}; give --onnxruntime FOLDER"
            )
        rounds.append((here, there))
    facts = machine.facts()
    facts["versions"] |= {key: rounds[0][1][key] for key in ("onnxruntime", "java")}
    groups = compare(rounds)
    result = {
        "benchmark": "jvm",
        "machine": facts,
        "bundle": given.bundle.name,
        "options": {"rounds": given.rounds, "seconds": given.seconds, "threads": given.threads},
        "groups": groups,
    }
    rows = [
        [
            f"{group}, {name}",
            f"{one['python_tokens_per_s']:.0f}",
            f"{one['java_tokens_per_s']:.0f}",
            f"{one['java_over_python']['median']:.3f}",
            f"{one['best']:.3f}",
            *(f"{ms:.3f}" for ms in one["fastest_step_ms"]),
            *(f"{share:.3f}" for share in one["host_share"]),
        ]
        for group, both in groups.items()
        for name, one in both.items()
    ]
    header = ["prompts, decoder", "Python", "Java", "Java / Python", "best of each"]
    header += ["fastest step, ms", "Java's", "host share", "Java's"]
    report.table("Tokens/s", header, rows)
    if given.out:
        report.write_json(given.out, result)
    return 0


if __name__ == "__main__":
    report.main(main)
