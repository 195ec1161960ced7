"""The same prompt, seed and bundle on every engine, loop and backend above: the same trajectory, or the reason why not.

    python -m dgemma.benchmarks.studies.same_tokens BUNDLE [--checkpoint CKPT] [--prompts FILE.jsonl] [--count 200] \
        [--seeds 3] [--out FILE]

Differences are found, measured and counted; see `divergence.py`.
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
from dgemma.core.engines import ENGINES
from dgemma.core.errors import DgemmaError, UsageError
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.core.prompts import held_out, read, spaced
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.tokenizer import chat_ids
from dgemma.verify.backend import Backend
from dgemma.verify.backends import BFLOAT16, float_backends
from dgemma.verify.comparison import divergence_of
from dgemma.verify.divergence import CLOSE, NEAR, Divergence, Rule
from dgemma.verify.engine_backend import EngineBackend


@dataclass
class Report:
    """Counts by backend against the first backend, and every difference with its reason."""

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
    rounded: list[str] = field(default_factory=list)  # backends of another arithmetic, whose differences are not judged

    def add(
        self, backend: str, prompt: str, seed: int, difference: Divergence | None, same_tokens: bool, canvases: int, steps: int
    ) -> None:
        self.steps[backend] = self.steps.get(backend, 0) + steps
        self.compared[backend] = self.compared.get(backend, 0) + 1
        self.equal[backend] = self.equal.get(backend, 0) + (difference is None)
        self.same_tokens[backend] = self.same_tokens.get(backend, 0) + same_tokens
        self.canvases[backend] = self.canvases.get(backend, 0) + canvases
        kept = canvases if difference is None else difference.canvas
        self.equal_canvases[backend] = self.equal_canvases.get(backend, 0) + kept
        if difference is not None:
            near = {"near_tie": difference.within(self.limits), "same_tokens": same_tokens}
            self.differences.append({"backend": backend, "prompt": prompt, "seed": seed, **asdict(difference), **near})

    @property
    def unexplained(self) -> int:
        """Differences beyond the limits, or whose margin is not known."""
        return sum(d["near_tie"] is not True and d["backend"] not in self.rounded for d in self.differences)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unexplained": self.unexplained}


Generate = Callable[[Sequence[int], int, int], Trajectory]  # prompt ids, seed, most tokens → trajectory


def compare(
    bundle: Path,
    checkpoint: Path | None,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    engines: Sequence[str] | None = None,
    threads: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Run every prompt with every seed on each engine and loop, and on the backends above them when a checkpoint is given.

    Args:
        checkpoint: of a float bundle; a quantized bundle's integers are not in it, so give None there.
        progress: called with prompts done and their number.
    Returns:
        the report; everything is compared with the first backend: the reference in float32, eager torch where there is no JAX,
        or without a checkpoint the first engine's host loop.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    rounds = any(bits < 32 for bits in manifest.quantization.get("bits", {}).values())
    names = engines or [name for name in ENGINES if name in manifest.graphs]
    with ExitStack() as stack:
        artifacts = [EngineBackend(opened, name, threads) for name in names]
        above = _above(opened, checkpoint, threads)
        for backend in (*artifacts, *above):
            stack.callback(backend.close)
        generate = {backend.name: backend.trajectory for backend in above} | {
            f"{backend.name}/{loop}": partial(backend.trajectory, loop=loop)
            for backend in artifacts
            for loop in ("host", "graph")
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
                    difference = divergence_of(judge, first, other, seed)
                    same = np.array_equal(first.tokens, other.tokens)
                    report.add(name, prompt, seed, difference, same, int(first.canvas_index[-1]) + 1, len(other.step))
                    worst = float(np.abs(first.entropy[:1] - other.entropy[:1]).max())
                    report.entropy_error[name] = max(report.entropy_error.get(name, 0.0), worst)
                report.steps[report.first] = report.steps.get(report.first, 0) + len(first.step)
            if progress:
                progress(i, len(prompts))
    return report


def _above(bundle: Bundle, checkpoint: Path | None, threads: int | None) -> list[Backend]:
    """The backends above the engines: the reference in float32 first, which all others are compared with."""
    if checkpoint is None:
        return []
    backends = [backend for backend, _ in float_backends(bundle, str(checkpoint), threads or 1)[0]]
    return sorted(backends, key=lambda backend: backend.name == BFLOAT16)


def read_prompts(path: Path, count: int) -> list[str]:
    """`count` texts at equal distances in a file; raises UsageError naming file and line."""
    return [str(prompt.prompt) for prompt in spaced(read(path), count)]


def _progress(done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        print(f"same tokens: {done}/{total} prompts", file=sys.stderr, flush=True)


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.same_tokens", description="Same tokens on every backend."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="add eager torch, and margins from its logits")
    parser.add_argument("--prompts", type=Path, default=held_out())
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
        options.bundle,
        options.checkpoint,
        prompts,
        range(options.seeds),
        engines=options.engine,
        threads=options.threads,
        progress=_progress,
    )
    for backend, n in report.compared.items():
        equal, answers = report.equal[backend], report.same_tokens[backend]
        canvases = f"{report.equal_canvases[backend]} of {report.canvases[backend]} canvases"
        print(f"{backend} against {report.first}: {equal} of {n} trajectories equal, {canvases}, {answers} of {n} answers")
    for d in report.differences:
        margin = "not known" if d["margin"] is None else f"{d['margin']:.2e}"
        place = f"canvas {d['canvas']} step {d['step']} position {d['position']}"
        print(f"  {d['backend']} seed {d['seed']} {d['prompt'][:40]!r}: {d['rule']} at {place}, margin {margin}")
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
