"""The same prompt, seed and bundle on every engine, loop and rung above: the same trajectory, or the reason why not.

    python -m dgemma.benchmarks.studies.same_tokens BUNDLE [--checkpoint CKPT] [--prompts FILE.jsonl] [--count 200] \
        [--seeds 3] [--out FILE]

Differences are found, measured and counted; see `difference.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.core import machine
from dgemma.core.errors import DgemmaError, UsageError
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import ENGINES
from dgemma.runtime.tokenizer import chat_ids
from dgemma.verify.compared import difference_of
from dgemma.verify.difference import CLOSE, NEAR, Difference, Rule
from dgemma.verify.engine_rung import EngineRung
from dgemma.verify.rung import Rung
from dgemma.verify.rungs import BFLOAT16, float_rungs


@dataclass
class Report:
    """Counts by rung against the first rung, and every difference with its reason."""

    first: str
    limits: dict[Rule, float] = field(default_factory=lambda: dict(NEAR))  # margins that explain a difference
    compared: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)
    same_tokens: dict[str, int] = field(default_factory=dict)
    canvases: dict[str, int] = field(default_factory=dict)
    equal_canvases: dict[str, int] = field(default_factory=dict)  # up to the first that differs
    differences: list[dict[str, Any]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    entropy_error: dict[str, float] = field(default_factory=dict)  # nats, worst position of any first step
    rounded: list[str] = field(default_factory=list)  # rungs of another arithmetic, whose differences are not judged

    def add(
        self, rung: str, prompt: str, seed: int, difference: Difference | None, same_tokens: bool, canvases: int, steps: int
    ) -> None:
        self.steps[rung] = self.steps.get(rung, 0) + steps
        self.compared[rung] = self.compared.get(rung, 0) + 1
        self.equal[rung] = self.equal.get(rung, 0) + (difference is None)
        self.same_tokens[rung] = self.same_tokens.get(rung, 0) + same_tokens
        self.canvases[rung] = self.canvases.get(rung, 0) + canvases
        kept = canvases if difference is None else difference.canvas
        self.equal_canvases[rung] = self.equal_canvases.get(rung, 0) + kept
        if difference is not None:
            near = {"near_tie": difference.within(self.limits), "same_tokens": same_tokens}
            self.differences.append({"rung": rung, "prompt": prompt, "seed": seed, **asdict(difference), **near})

    @property
    def unexplained(self) -> int:
        """Differences beyond the limits, or whose margin is not known."""
        return sum(d["near_tie"] is not True and d["rung"] not in self.rounded for d in self.differences)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unexplained": self.unexplained}


Generate = Callable[[Sequence[int], int, int], Trajectory]  # prompt ids, seed, most tokens → trajectory


def compare(
    bundle: Path, checkpoint: Path | None, prompts: Sequence[str], seeds: Sequence[int], *,
    engines: Sequence[str] | None = None, threads: int | None = None, max_new_tokens: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Run every prompt with every seed on each engine and loop, and on the rungs above them when a checkpoint is given.

    Args:
        checkpoint: of a float bundle; a quantized bundle's integers are not in it, so give None there.
        progress: called with prompts done and their number.
    Returns:
        the report; everything is compared with the first rung: the reference in float32, eager torch where there is no JAX, or
        without a checkpoint the first engine's host loop.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    rounds = any(bits < 32 for bits in manifest.quantization.get("bits", {}).values())
    names = engines or [name for name in ENGINES if name in manifest.graphs]
    with ExitStack() as stack:
        artifacts = [EngineRung(opened, name, threads) for name in names]
        above = _above(opened, checkpoint, threads)
        for rung in (*artifacts, *above):
            stack.callback(rung.close)
        generate = {rung.name: rung.trajectory for rung in above} | {
            f"{rung.name}/{loop}": partial(rung.trajectory, loop=loop) for rung in artifacts for loop in ("host", "graph")
        }
        report = Report(first=next(iter(generate)), limits=CLOSE if rounds else NEAR, rounded=[BFLOAT16])
        judge = (above or artifacts)[0]  # whose trajectories are first, and whose logits give margins
        session = artifacts[0].session
        if session.tokenizer is None:
            raise UsageError(f"{bundle}: has no tokenizer, so it cannot be asked these prompts")
        for i, prompt in enumerate(prompts, 1):
            ids = chat_ids(manifest, session.tokenizer, prompt, [])
            n = manifest.canvas_length
            most = min(max_new_tokens, (manifest.context - len(ids)) // n * n)
            for seed in seeds if most >= 1 else ():
                first = generate[report.first](ids, seed, most)
                for name in list(generate)[1:]:
                    other = generate[name](ids, seed, most)
                    difference = difference_of(judge, first, other, seed)
                    same = np.array_equal(first.tokens, other.tokens)
                    report.add(name, prompt, seed, difference, same, int(first.canvas_index[-1]) + 1, len(other.step))
                    worst = float(np.abs(first.entropy[: 1] - other.entropy[: 1]).max())
                    report.entropy_error[name] = max(report.entropy_error.get(name, 0.0), worst)
                report.steps[report.first] = report.steps.get(report.first, 0) + len(first.step)
            if progress:
                progress(i, len(prompts))
    return report


def _above(bundle: Bundle, checkpoint: Path | None, threads: int | None) -> list[Rung]:
    """The rungs above the engines: the reference in float32 first, which all others are compared with."""
    if checkpoint is None:
        return []
    rungs = [rung for rung, _ in float_rungs(bundle, str(checkpoint), threads or 1)[0]]
    return sorted(rungs, key=lambda rung: rung.name == BFLOAT16)


def read_prompts(path: Path, count: int) -> list[str]:
    """`count` prompts evenly from a JSONL file with a key `prompt`; raises UsageError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a JSONL file with prompts") from None
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                prompts.append(str(json.loads(line)["prompt"]))
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}:{number}: is no JSON object with a prompt; mend the line") from None
    if not prompts:
        raise UsageError(f"{path}: holds no prompts; give a JSONL file with prompts")
    count = min(count, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _progress(done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        print(f"same tokens: {done}/{total} prompts", file=sys.stderr, flush=True)


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.same_tokens", description="Same tokens on every rung."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="add eager torch, and margins from its logits")
    parser.add_argument("--prompts", type=Path, default=Path("benchmarks/tasks/tiny_held_out.jsonl"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--engine", nargs="+", help="default: every engine of the bundle")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    options = parser.parse_args(argv)
    if options.count < 1 or options.seeds < 1:
        raise UsageError("--count and --seeds must be at least 1")
    prompts = read_prompts(options.prompts, options.count)
    report = compare(
        options.bundle, options.checkpoint, prompts, range(options.seeds), engines=options.engine, threads=options.threads,
        progress=_progress,
    )  # fmt: skip
    for rung, n in report.compared.items():
        equal, answers = report.equal[rung], report.same_tokens[rung]
        canvases = f"{report.equal_canvases[rung]} of {report.canvases[rung]} canvases"
        print(f"{rung} against {report.first}: {equal} of {n} trajectories equal, {canvases}, {answers} of {n} answers")
    for d in report.differences:
        margin = "not known" if d["margin"] is None else f"{d['margin']:.2e}"
        place = f"canvas {d['canvas']} step {d['step']} position {d['position']}"
        print(f"  {d['rung']} seed {d['seed']} {d['prompt'][:40]!r}: {d['rule']} at {place}, margin {margin}")
    print(f"{len(report.differences)} differences, {report.unexplained} not explained by a near-tie")
    if options.out:
        found = {"machine": machine.facts(), **report.to_dict()}
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if report.unexplained else 0


def main() -> None:
    try:
        raise SystemExit(run())
    except DgemmaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
