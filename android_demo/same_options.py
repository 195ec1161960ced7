"""Generations under options drawn at random, in Java and in Python: the same decisions, or where and how nearly not.

    python android_demo/same_options.py BUNDLE --checkpoint CKPT [--count 200] [--onnxruntime FOLDER] [--out FILE]

The options are those of `python -m dgemma.benchmarks.studies.same_options`, and differences are measured as there. Every
generation runs three times, as in `same_tokens.py`: by the JVM tool, by the Python runtime on the JVM tool's version of ONNX
Runtime, and on the installed one. Needs the JVM tool (`mvn -q package` in android_demo/).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import same_tokens

from dgemma.benchmarks import report
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.verify import golden, options, tolerance
from dgemma.verify.backend import Backend
from dgemma.verify.backends import backends_of
from dgemma.verify.options import Steered
from dgemma.verify.steer import Steer

SIDES = ("java", "python", "installed")
PAIRS = (("java", "python"), ("java", "installed"), ("python", "installed"))
OF_PROMPT = ("min_tokens", "guidance", "negative", "guidance_steps")  # what is no option of the sampler


def request_of(one: Steered) -> dict[str, Any]:
    """A line of the JVM tool's file of prompts; banned ids are biases there."""
    said = {**one.steer.to_dict(), **Steer(sampler=one.steer.biased).to_dict()}
    said.pop("ban", None)
    request = {"prompt": one.ids, "seed": one.seed, "loop": "host", "max_new_tokens": one.most}
    request |= {"adaptive": True, "continue": False}
    request |= {name: said.pop(name) for name in OF_PROMPT if name in said}
    return {**request, "sampler": said}


def generations(
    bundle: Bundle, asked: Sequence[Steered], given: argparse.Namespace, folder: Path
) -> dict[str, list[Trajectory]]:
    """Side → the trajectories of all that is asked."""
    found: dict[str, list[Trajectory]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        file = Path(temporary) / "requests.jsonl"
        file.write_text("".join(json.dumps(request_of(one)) + "\n" for one in asked), encoding="utf-8")
        running = same_tokens.sides_of(bundle, file, given, folder, stack)
        for number, answers in enumerate(zip(*running, strict=True), 1):
            for side, one in zip(SIDES, answers, strict=True):
                found[side].append(same_tokens.trajectory_of(one, bundle.manifest.canvas_length))
            if number % max(1, len(asked) // 10) == 0:
                print(f"{number}/{len(asked)} generations", file=sys.stderr, flush=True)
    return found


def compare(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`drawn`: of each option, in how many generations it is; of each pair of sides, what is equal, and all differences."""
    bundle = Bundle.open(given.bundle)
    runs = [(seed, golden.room_for(bundle.manifest, t.prompt_ids.tolist()), t) for seed, t in golden.read(bundle)]
    with ExitStack() as stack:
        backends, _, missing = backends_of(bundle, str(given.checkpoint), ["onnx"], given.threads)
        for backend in backends:
            stack.callback(backend.close)
        if not any(one.shows_guided for one in backends):
            raise UsageError(f"--checkpoint {given.checkpoint}: nothing shows the steps of guidance; {missing.get('torch')}")
        asked = options.draw_all(given.count, bundle.manifest, backends, runs)
        found = generations(bundle, asked, given, folder)
        judges: list[Backend] = backends[::-1]
        limits = tolerance.SAME_FLOAT.margins
        pairs = {
            f"{one}_against_{other}": {
                "drawn": len(asked),
                **options.differences(judges, asked, found[other], found[one], limits),
            }
            for one, other in PAIRS
        }
    drawn = Counter(name for one in asked for name in one.steer.to_dict())
    return {"bundle": bundle.path.name, "drawn": dict(sorted(drawn.items())), **pairs}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="android_demo/same_options.py", description="The same decisions in Java and Python under any options."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the float model of the bundle")
    parser.add_argument("--count", type=int, default=200, help="generations")
    same_tokens.add_machine_arguments(parser)
    given = parser.parse_args(argv)
    if given.count < 1:
        raise UsageError("--count must be at least 1")
    same_tokens.check_machine_arguments(given)
    found = compare(given, same_tokens.python_engine(given.version, given.onnxruntime))
    result = {"benchmark": "same options in Java", "machine": machine.facts(), **same_tokens.versions(given), **found}
    beyond = 0
    for one, other in PAIRS:
        pair = found[f"{one}_against_{other}"]
        print(f"{one} against {other}: {pair['equal']} of {pair['drawn']} generations equal")
        beyond += sum(difference["allowed"] is not True for difference in pair["differences"])
    print(f"{beyond} differences that are no near-ties")
    if given.out:
        report.write_json(given.out, result)
    return 1 if beyond else 0


if __name__ == "__main__":
    report.main(run)
