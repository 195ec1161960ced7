"""The same prompts, seeds and bundle in Java and in Python on one version of ONNX Runtime: the same trajectories, or where not.

    python android_demo/same_tokens.py BUNDLE… [--count 200] [--seeds 2] [--onnxruntime FOLDER] [--out FILE]

Every generation runs three times: by the JVM tool, by the Python runtime on the version of ONNX Runtime that the JVM tool has,
and by the Python runtime on the version that is installed. Java must equal the second in every canvas; where the third differs,
the versions' kernels do, and the second shows it as well. Needs the JVM tool (`mvn -q package` in android_demo/).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.same_tokens import read_prompts
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.prompts import held_out
from dgemma.core.trajectory import Trajectory, TrajectoryRecorder
from dgemma.runtime import cache
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.native import build
from dgemma.runtime.session import Session
from dgemma.verify.comparison import divergence_of
from dgemma.verify.divergence import CLOSE, NEAR, Rule
from dgemma.verify.engine_backend import EngineBackend

HERE = Path(__file__).parent
SEEDS = (0, 2**64 - 1, 7, 2**63, 2**32)  # unsigned 64 bits, where a signed reader would go wrong
FOLLOW_UP = 4  # every so many prompts a second turn follows
MOST = 128  # new tokens: two canvases of tiny
ROWS = ("canvas_index", "step", "temperature", "canvas_in", "argmax", "entropy", "accepted", "canvas_out")
WORKER = "--worker"  # what this file is called with to answer requests


@dataclass
class Tally:
    """Generations of one side against another's."""

    compared: int = 0
    equal: int = 0
    same_answers: int = 0
    canvases: int = 0
    equal_canvases: int = 0  # up to the first that differs
    steps: int = 0
    entropy_error: float = 0.0  # nats, worst position of the steps before the first difference
    differences: list[dict[str, Any]] = field(default_factory=list)


def pinned_version() -> str:
    """The version of ONNX Runtime that the JVM tool runs on."""
    found = re.search(r"<onnxruntime.version>([\d.]+)<", (HERE / "pom.xml").read_text(encoding="utf-8"))
    if found is None:
        raise UsageError(f"{HERE / 'pom.xml'}: does not say onnxruntime.version; add the property")
    return found[1]


def python_engine(version: str, given: Path | None) -> Path:
    """A folder with ONNX Runtime of this version for PYTHONPATH: the one given, or one made by pip in the cache."""
    folder = given or cache.folder() / f"onnxruntime-{version}"
    if given is None and not folder.is_dir():
        print(f"installing onnxruntime {version} into {folder}", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        if subprocess.run([*command, f"onnxruntime=={version}"], check=False).returncode:
            raise UsageError(f"onnxruntime {version} cannot be installed; give a folder that holds it with --onnxruntime")
    if not (folder / f"onnxruntime-{version}.dist-info").is_dir():
        raise UsageError(f"--onnxruntime {folder}: does not hold onnxruntime {version}; pip install --target it there")
    return folder


def random_options(number: int, bundle: Bundle) -> dict[str, Any]:
    """Some of the options of a generation, drawn by a number, in the words of the JVM tool's file of prompts."""
    draw, model = random.Random(number), bundle.manifest.model
    ids = [i for i in range(model.vocab_size) if i not in (model.pad_token_id, *model.eos_token_ids)]
    sampler = {
        "temperature": [draw.uniform(0.3, 1.5), draw.uniform(0.1, 0.8)],
        "max_steps": draw.randint(2, bundle.manifest.steps),
        "entropy_bound": draw.choice([0.02, 0.5, 5.0]),
        "confidence": draw.choice([0.01, 0.5]),
        "stability": draw.randint(0, 3),
        "top_k": draw.randint(1, 16),
        "top_p": draw.uniform(0.3, 1.0),
        "min_p": draw.uniform(0.01, 0.5),
        "logit_bias": [[i, draw.choice([-3.0, 2.0, None])] for i in sorted(draw.sample(ids, 20))],
    }
    kept = draw.sample(sorted(sampler), draw.randint(1, 4))
    found: dict[str, Any] = {"sampler": {name: sampler[name] for name in kept}}
    if draw.random() < 0.3:
        found["stop"] = draw.sample(["e", " ", "ta", "1", "the"], 2)
    if draw.random() < 0.5:
        found["logprobs"] = draw.randint(0, 5)
    return found


def keywords_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The options of a request as keywords of `Session.generate`."""
    names = ("stop", "logprobs", "min_tokens", "guidance", "negative", "guidance_steps")
    found = {**asked.get("sampler", {}), **{name: asked[name] for name in names if name in asked}}
    if "logit_bias" in found:
        found["logit_bias"] = {i: -math.inf if bias is None else bias for i, bias in found["logit_bias"]}
    return found


def requests_of(bundle: Bundle, prompts: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One generation each: both loops, every seed, now and then a second turn, and fixed steps for a few; then every prompt
    with some of the options."""
    found: list[dict[str, Any]] = []
    for loop in ("host", "graph"):
        for number, prompt in enumerate(prompts):
            for seed in seeds:
                one = {"prompt": prompt, "seed": seed, "loop": loop, "max_new_tokens": MOST, "continue": False}
                found.append({**one, "adaptive": number % 10 != 9})
                if number % FOLLOW_UP == 0:
                    found.append({**one, "prompt": prompts[(number + 1) % len(prompts)], "adaptive": True, "continue": True})
    one = {"seed": 0, "loop": "host", "max_new_tokens": MOST, "adaptive": True, "continue": False}
    found += [{**one, "prompt": prompt, **random_options(number, bundle)} for number, prompt in enumerate(prompts)]
    return found


def work(argv: Sequence[str]) -> int:
    """Answer a file of requests as the JVM tool does: one JSON object a line, with its trajectory."""
    bundle, file, threads = argv
    with Session.load(bundle, engine="onnx", threads=int(threads)) as session:
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            asked = json.loads(line)
            result = session.generate(
                asked["prompt"],
                seed=asked["seed"],
                loop=asked["loop"],
                max_new_tokens=asked["max_new_tokens"],
                adaptive=asked["adaptive"],
                continue_=asked["continue"],
                trace=True,
                **keywords_of(asked),
            )
            assert result.trajectory is not None
            arrays = {name: array.tolist() for name, array in result.trajectory.arrays().items()}
            print(json.dumps({**result.to_dict(), "version": session.engine_version, "trajectory": arrays}), flush=True)
    return 0


def answers(command: Sequence[str], environment: dict[str, str], stack: ExitStack) -> Iterator[dict[str, Any]]:
    """The JSON lines that a command prints; raises UsageError when it fails."""
    process = stack.enter_context(
        subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True, encoding="utf-8")
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise UsageError(f"{command[0]} ended with status {process.returncode}; see its message above")


def trajectory_of(answer: dict[str, Any], n: int) -> Trajectory:
    given, recorder = answer["trajectory"], TrajectoryRecorder(n)
    bounds = given.get("entropy_bound", [None] * len(given["step"]))
    for row in zip(*(given[name] for name in ROWS), bounds, strict=True):
        recorder.add(*row)
    return recorder.finish(given["prompt_ids"], given["tokens"])


def compare(tally: Tally, judge: EngineBackend, asked: dict[str, Any], a: dict[str, Any], b: dict[str, Any]) -> None:
    """Two answers to one request: `a` is measured against, `b` is counted."""
    n = judge.bundle.manifest.canvas_length
    first, other = trajectory_of(a, n), trajectory_of(b, n)
    same = all(a[name] == b[name] for name in ("text", "tokens", "stop_reason"))
    names = ("prompt", "seed", "loop", "continue", "sampler", "stop", "logprobs")
    where = {name: asked[name] for name in names if name in asked}
    tally.compared += 1
    tally.same_answers += same
    tally.canvases += a["canvases"]
    tally.steps += len(first.step)
    if not np.array_equal(first.prompt_ids, other.prompt_ids):
        tally.differences.append({**where, "rule": "prompt", "same_answer": same, "near_tie": None})
        return
    difference = divergence_of(judge, first, other, asked["seed"])
    rows = len(first.step) if difference is None else difference.row + 1
    tally.entropy_error = max(tally.entropy_error, float(np.abs(first.entropy[:rows] - other.entropy[:rows]).max(initial=0.0)))
    unequal = difference is None and any(a[name] != b[name] for name in ("text", "steps", "canvases", "stop_reason"))
    unequal = unequal or (difference is None and not same_logprobs(a.get("logprobs", []), b.get("logprobs", [])))
    tally.equal += difference is None and not unequal
    tally.equal_canvases += a["canvases"] if difference is None else difference.canvas
    if difference is not None:
        limits: dict[Rule, float] = CLOSE if is_quantized(judge.bundle) else NEAR
        tally.differences.append({**where, **asdict(difference), "near_tie": difference.within(limits), "same_answer": same})
    elif unequal:
        tally.differences.append({**where, "rule": "result", "near_tie": None, "same_answer": same})


def same_logprobs(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> bool:
    """Whether log-probabilities are of the same tokens, and as far as float32 sums tell the same; null is impossible."""

    def pairs(one: dict[str, Any]) -> list[tuple[int, float]]:
        return [(one["id"], -math.inf if one["logprob"] is None else one["logprob"]), *((i, x) for i, x in one["top"])]

    flat = [[pair for one in side for pair in pairs(one)] for side in (a, b)]
    return len(flat[0]) == len(flat[1]) and all(
        i == j and (x == y or abs(x - y) < 1e-3) for (i, x), (j, y) in zip(*flat, strict=True)
    )


def is_quantized(bundle: Bundle) -> bool:
    return any(bits < 32 for bits in bundle.manifest.quantization.get("bits", {}).values())


def experts_library(bundle: Bundle) -> list[str]:
    """What Java needs to run a quantized mixture of experts."""
    is_mixture = bundle.manifest.model.num_experts is not None
    return [f"-Ddgemma.experts.library={build.experts()}"] if is_mixture and is_quantized(bundle) else []


def sides_of(
    bundle: Bundle, file: Path, options: argparse.Namespace, folder: Path, stack: ExitStack
) -> list[Iterator[dict[str, Any]]]:
    """Answers to a file of requests: the JVM tool's, Python's on its version of ONNX Runtime, and on the installed one."""
    source, threads = str(Path(sys.modules["dgemma"].__path__[0]).parent), str(options.threads)
    python = [sys.executable, str(Path(__file__).resolve()), WORKER, str(bundle.path), str(file), threads]
    java = [options.java, *experts_library(bundle), "-jar", str(options.jar), "run", str(bundle.path), "--prompts", str(file)]
    return [
        answers([*java, "--json", "--trace", "--engine", "onnx", "--threads", threads], {}, stack),
        answers(python, {"PYTHONPATH": os.pathsep.join([str(folder), source])}, stack),
        answers(python, {"PYTHONPATH": source}, stack),
    ]


def compare_bundle(path: Path, options: argparse.Namespace, folder: Path, prompts: Sequence[str]) -> dict[str, Any]:
    """All requests on the three sides, in step, so that no side's answers are held."""
    bundle = Bundle.open(path)
    asked = requests_of(bundle, prompts, SEEDS[: options.seeds])
    tallies = {"java_against_python": Tally(), "java_against_installed": Tally(), "python_against_installed": Tally()}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        file = Path(temporary) / "requests.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
        sides = sides_of(bundle, file, options, folder, stack)
        judge = EngineBackend(bundle, "onnx", options.threads)
        stack.callback(judge.close)
        versions = ("", "")
        for number, (one, jvm, pinned, installed) in enumerate(zip(asked, *sides, strict=True), 1):
            versions = pinned["version"], installed["version"]
            compare(tallies["java_against_python"], judge, one, pinned, jvm)
            compare(tallies["java_against_installed"], judge, one, installed, jvm)
            compare(tallies["python_against_installed"], judge, one, installed, pinned)
            if number % max(1, len(asked) // 10) == 0:
                print(f"{path.name}: {number}/{len(asked)} generations", file=sys.stderr, flush=True)
    if versions[0] != options.version:
        raise UsageError(f"--onnxruntime {folder}: the worker loaded {versions[0]}, not {options.version}; unset PYTHONPATH")
    found = {name: asdict(tally) for name, tally in tallies.items()}
    installed_list = found["python_against_installed"]["differences"]
    on_java = found["java_against_installed"]
    shared = [difference for difference in on_java["differences"] if difference in installed_list]
    on_java["differences_that_python_has_too"] = len(shared)
    on_java["differences"] = [difference for difference in on_java["differences"] if difference not in shared]
    return {
        "bundle": path.name,
        "digest": bundle.digest,
        "generations": len(asked),
        "prompts": len(prompts),
        "seeds": list(SEEDS[: options.seeds]),
        "second_turns": sum(one["continue"] for one in asked),
        "fixed_steps": sum(not one["adaptive"] for one in asked),
        "with_options": sum("sampler" in one for one in asked),
        "installed_onnxruntime": versions[1],
        **found,
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="android_demo/same_tokens.py", description="The same tokens in Java and Python.")
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--prompts", type=Path, default=held_out())
    parser.add_argument("--count", type=int, default=200, help="how many prompts of the file")
    parser.add_argument("--seeds", type=int, default=2, help=f"how many, at most {len(SEEDS)}")
    add_machine_arguments(parser)
    options = parser.parse_args(argv)
    if options.count < 1 or not 1 <= options.seeds <= len(SEEDS):
        raise UsageError(f"--count must be at least 1, --seeds between 1 and {len(SEEDS)}")
    check_machine_arguments(options)
    return options


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """What runs the sides, and where the report goes."""
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--java", default="java")
    parser.add_argument("--jar", type=Path, default=HERE / "jvm" / "target" / "dgemma-jvm-0.1.0.jar")
    parser.add_argument("--onnxruntime", type=Path, metavar="FOLDER", help="from pip install --target; default: in the cache")
    parser.add_argument("--out", type=Path, help="write the report as JSON")


def check_machine_arguments(options: argparse.Namespace) -> None:
    """Sets `version`, ONNX Runtime's in Java; raises UsageError."""
    if options.threads < 1:
        raise UsageError("--threads must be at least 1")
    if not options.jar.is_file():
        raise UsageError(f"--jar {options.jar}: is not there; run `mvn -q package` in android_demo first")
    report.check_out(options.out)
    options.version = pinned_version()


def versions(options: argparse.Namespace) -> dict[str, Any]:
    """What ran the sides."""
    java = subprocess.run([options.java, "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
    return {
        "java": java[:1],
        "onnxruntime_java": options.version,
        "onnxruntime_python": options.version,
        "onnxruntime_installed": metadata.version("onnxruntime"),
        "threads": options.threads,
    }


def write(options: argparse.Namespace, bundles: Sequence[dict[str, Any]]) -> None:
    report.write_json(options.out, {"machine": machine.facts(), **versions(options), "bundles": list(bundles)})


def run(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == [WORKER]:
        return work(given[1:])
    options = arguments(given)
    folder = python_engine(options.version, options.onnxruntime)
    prompts = read_prompts(options.prompts, options.count)
    found: list[dict[str, Any]] = []
    for path in options.bundle:
        found.append(compare_bundle(path, options, folder, prompts))
        if options.out:  # after each, for a bundle takes minutes
            write(options, found)
    rows = []
    for one in found:
        for name in ("java_against_python", "java_against_installed", "python_against_installed"):
            tally = one[name]
            rows.append(
                [
                    f"{one['bundle']} {name.replace('_', ' ')}",
                    *(
                        f"{tally[key]} of {tally[of]}"
                        for key, of in (("equal", "compared"), ("equal_canvases", "canvases"), ("same_answers", "compared"))
                    ),
                    f"{tally['entropy_error']:.1e}",
                ]
            )
    report.table("Same tokens", ["bundle, sides", "trajectories", "canvases", "answers", "entropy, nats"], rows)
    for difference in (d for one in found for d in one["java_against_python"]["differences"]):
        print(f"  {json.dumps(difference, ensure_ascii=False)}")
    return 1 if any(one["java_against_python"]["differences"] for one in found) else 0


if __name__ == "__main__":
    report.main(run)
