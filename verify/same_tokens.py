"""The same prompt, seed and bundle on every engine and loop, and in eager PyTorch: the same trajectory, or the reason why not.

    python -m dgemma.verify.same_tokens BUNDLE [--checkpoint CKPT] [--prompts FILE.jsonl] [--count 200] [--seeds 3] [--out FILE]

Float sums in another order flip near-ties, and one flip changes all that follows. So trajectories are compared up to the
first difference, and that one is put down to a rule and its margin: how far the rule was from deciding otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dgemma.core.errors import DgemmaError, UsageError
from dgemma.core.manifest import read_manifest
from dgemma.core.noise import step_words, uniform_from_word
from dgemma.core.sampler import SamplerConfig
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

Rule = Literal["argmax", "accept", "sample", "stop", "host"]

# Margins below which a flip counts as a near-tie. Engines differ by about 1e-5 in logits of ±30; entropies add up over N.
NEAR: dict[Rule, float] = {"argmax": 1e-3, "accept": 1e-3, "sample": 1e-4, "stop": 1e-4, "host": 0.0}
# Margins below which a decision was open, so that the noise of 8-bit arithmetic may well take it the other way: best two
# tokens within 10 % in odds; a fifth of the default entropy bound, in nats; 1 % of probability; nats. Beyond: damage.
CLOSE: dict[Rule, float] = {"argmax": 0.1, "accept": 0.02, "sample": 0.01, "stop": 0.01, "host": 0.0}

Logits = Callable[[Trajectory, int], npt.NDArray[np.float32]]  # trajectory, row → tempered logits [N, V]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first difference between two trajectories.

    Args:
        row: denoising step over all canvases, from 0; `canvas` and `step` (remaining) name the same.
        rule: argmax, accept, sample, stop, or host (noise, bookkeeping: never a near-tie).
        position: first canvas position that differs; None for stop.
        margin: argmax: gap of the two best tempered logits; accept: nats to the other decision, see `accept_margin`;
            sample: probability to the border between two tokens; stop: nats to the confidence threshold. None when it needs
            logits and none are there.
        entropy_error: largest difference of the two entropies in this row, in nats.
    """

    row: int
    canvas: int
    step: int
    rule: Rule
    position: int | None
    margin: float | None
    entropy_error: float

    @property
    def is_near_tie(self) -> bool | None:
        """None when the margin is not known."""
        return None if self.margin is None else self.margin <= NEAR[self.rule]


def accept_margin(entropy: npt.NDArray[Any], position: int, bound: float) -> float:
    """Nats that a position was from the other decision; entropy [N] float32, sums in float64.

    The smaller of two ways there: the entropies ahead of it sum up to the bound, or its own entropy moves it to a place in the
    order that is on the other side of the bound.
    """
    e = entropy.astype(np.float64)
    index = np.arange(len(e))
    ahead = (e < e[position]) | ((e == e[position]) & (index < position))
    total = float(e[ahead].sum())
    others = np.sort(np.delete(e, position))
    beyond = np.flatnonzero(np.cumsum(others) > bound)  # behind the first of these, a position is not accepted
    own = abs(float(others[beyond[0]]) - float(e[position])) if len(beyond) else float("inf")
    return min(abs(total - bound), own)


def sample_margin(logits: npt.NDArray[np.float32], token: int, u: float) -> float:
    """Probability between u and the nearer end of the token's interval of the inverse CDF; tempered logits [V]."""
    weights = np.exp((logits - logits.max()).astype(np.float64))
    running = np.cumsum(weights) / weights.sum()
    return float(min(abs(u - (running[token - 1] if token else 0.0)), abs(running[token] - u)))


def first_difference(
    a: Trajectory, b: Trajectory, sampler: SamplerConfig, *, seed: int, logits: Logits | None = None
) -> Difference | None:
    """Compare two trajectories of one prompt and seed; None when argmax, acceptance, canvases, steps and tokens are equal."""
    rows = min(len(a.step), len(b.step))
    if not np.array_equal(a.prompt_ids, b.prompt_ids):
        raise UsageError("trajectories of different prompts cannot be compared; give both the same prompt")
    for row in range(rows):
        error = float(np.abs(a.entropy[row] - b.entropy[row]).max())
        where = {"row": row, "canvas": int(a.canvas_index[row]), "step": int(a.step[row]), "entropy_error": error}
        if a.canvas_index[row] != b.canvas_index[row] or a.step[row] != b.step[row]:
            return _stop(a, b, row - 1, sampler)
        for name in ("canvas_in", "argmax", "accepted", "canvas_out"):
            x, y = getattr(a, name)[row], getattr(b, name)[row]
            if np.array_equal(x, y):
                continue
            position = int(np.flatnonzero(x != y)[0])
            rule, margin = _explain(name, a, row, position, sampler, seed, logits)
            return Difference(**where, rule=rule, position=position, margin=margin)  # type: ignore[arg-type]
    if len(a.step) != len(b.step):
        return _stop(a, b, rows - 1, sampler)
    if not np.array_equal(a.tokens, b.tokens):
        last = rows - 1
        return Difference(
            row=last, canvas=int(a.canvas_index[last]), step=int(a.step[last]), rule="host", position=None, margin=None,
            entropy_error=0.0,
        )  # fmt: skip
    return None


def _explain(
    name: str, a: Trajectory, row: int, position: int, sampler: SamplerConfig, seed: int, logits: Logits | None
) -> tuple[Rule, float | None]:
    if name == "accepted":
        return "accept", accept_margin(a.entropy[row], position, sampler.entropy_bound)
    if name == "argmax":
        if logits is None:
            return "argmax", None
        best = np.sort(logits(a, row)[position])[-2:]
        return "argmax", float(best[1] - best[0])
    if name == "canvas_out" and a.accepted[row, position]:
        if logits is None:
            return "sample", None
        run = sampler.steps - int(a.step[row]) + 1
        word = step_words(seed, int(a.canvas_index[row]), run, a.canvas_in.shape[1])[0, position : position + 1]
        u = float(uniform_from_word(word)[0])
        return "sample", sample_margin(logits(a, row)[position], int(a.canvas_out[row, position]), u)
    return "host", None  # the input canvas, or a renoised token: integers from the noise alone


def _stop(a: Trajectory, b: Trajectory, row: int, sampler: SamplerConfig) -> Difference:
    """One of them stopped after this row, the other went on: the mean entropy's distance to the threshold."""
    mean = float(a.entropy[row].mean(dtype=np.float64))
    return Difference(
        row=row, canvas=int(a.canvas_index[row]), step=int(a.step[row]), rule="stop", position=None,
        margin=abs(mean - sampler.confidence_threshold), entropy_error=float(np.abs(a.entropy[row] - b.entropy[row]).max()),
    )  # fmt: skip


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

    def add(
        self, rung: str, prompt: str, seed: int, difference: Difference | None, same_tokens: bool, canvases: int
    ) -> None:
        self.compared[rung] = self.compared.get(rung, 0) + 1
        self.equal[rung] = self.equal.get(rung, 0) + (difference is None)
        self.same_tokens[rung] = self.same_tokens.get(rung, 0) + same_tokens
        self.canvases[rung] = self.canvases.get(rung, 0) + canvases
        kept = canvases if difference is None else difference.canvas
        self.equal_canvases[rung] = self.equal_canvases.get(rung, 0) + kept
        if difference is not None:
            tie = None if difference.margin is None else difference.margin <= self.limits[difference.rule]
            near = {"near_tie": tie, "same_tokens": same_tokens}
            self.differences.append({"rung": rung, "prompt": prompt, "seed": seed, **asdict(difference), **near})

    @property
    def unexplained(self) -> int:
        """Differences beyond the limits, or whose margin is not known."""
        return sum(d["near_tie"] is not True for d in self.differences)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unexplained": self.unexplained}


@contextmanager
def open_sessions(bundle: Path, engines: Sequence[str], threads: int | None) -> Iterator[dict[str, Session]]:
    with ExitStack() as stack:
        yield {e: stack.enter_context(Session.load(bundle, engine=e, threads=threads)) for e in engines}


def compare(
    bundle: Path, checkpoint: Path | None, prompts: Sequence[str], seeds: Sequence[int], *,
    engines: Sequence[str] | None = None, threads: int | None = None, max_new_tokens: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Run every prompt with every seed on each engine and loop, and in eager torch when a checkpoint is given.

    Args:
        checkpoint: of a float bundle; a quantized bundle's integers are not in it, so give None there.
        progress: called with prompts done and their number.
    Returns:
        the report; everything is compared with the first engine's host loop.
    """
    manifest, _ = read_manifest(bundle, check_files=False)  # Session.load checks the files
    if checkpoint:
        from dgemma.verify.eager import Eager  # torch, which engines alone do without

    eager = Eager(checkpoint, manifest.sampler, manifest.canvas_length) if checkpoint else None
    rounds = any(bits < 32 for bits in manifest.quantization.get("bits", {}).values())
    with open_sessions(bundle, engines or sorted(manifest.engines, reverse=True), threads) as sessions:
        rungs = [(f"{engine}/{loop}", engine, loop) for engine in sessions for loop in ("host", "graph")]
        report = Report(first=rungs[0][0], limits=CLOSE if rounds else NEAR)
        own = None if eager else _own_logits(bundle, rungs[0][1], threads)
        for i, prompt in enumerate(prompts, 1):
            for seed in seeds:
                found: dict[str, Trajectory] = {}
                for rung, engine, loop in rungs:
                    result = sessions[engine].generate(
                        prompt, max_new_tokens=max_new_tokens, seed=seed, loop=loop, trace=True
                    )
                    assert result.trajectory is not None
                    found[rung] = result.trajectory
                first = found[report.first]
                if eager:
                    found["torch"] = eager.trajectory(first.prompt_ids.tolist(), seed, max_new_tokens)
                for rung, other in found.items():
                    if rung != report.first:
                        logits = eager.logits if eager else own(seed) if own else None
                        difference = first_difference(first, other, manifest.sampler, seed=seed, logits=logits)
                        same = np.array_equal(first.tokens, other.tokens)
                        report.add(rung, prompt, seed, difference, same, int(first.canvas_index[-1]) + 1)
            if progress:
                progress(i, len(prompts))
    return report


def _own_logits(bundle: Path, engine: str, threads: int | None) -> Callable[[int], Logits] | None:
    """Seed → logits of the first rung's own rows, where it is an ONNX graph and can be opened for them."""
    if engine != "onnx":
        return None
    from dgemma.verify.replay import OwnLogits
    from dgemma.verify.teacher import open_forced

    opened, missing = open_forced(Bundle.open(bundle), engine, threads)
    return None if missing else lambda seed: OwnLogits(opened, seed)  # type: ignore[arg-type]


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
    parser = argparse.ArgumentParser(prog="python -m dgemma.verify.same_tokens", description="Same tokens on every rung.")
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
        options.out.write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if report.unexplained else 0


def main() -> None:
    try:
        raise SystemExit(run())
    except DgemmaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
