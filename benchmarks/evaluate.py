"""Held-out exact match by task: diffusion and autoregressive decoding of one bundle, on the same prompts.

    python -m dgemma.benchmarks.evaluate BUNDLE [--tasks FILE] [--engine E] [--threads N] [--per-task K] [--out FILE]

Exact match compares the text with white space stripped at both ends. Nothing here knows what a task means.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dgemma.benchmarks import report
from dgemma.benchmarks.stats import paired_difference, wilson
from dgemma.core import machine
from dgemma.core.errors import UsageError
from dgemma.core.manifest import read_manifest
from dgemma.core.progress import progress

TASKS = Path(__file__).with_name("tasks") / "tiny_held_out.jsonl"
SOLVED = 0.9  # tasks at or above this exact match are pooled a second time


class Answer(Protocol):
    """What evaluation needs of `runtime.Result`."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def steps(self) -> int: ...


class Decoder(Protocol):
    """What evaluation needs of `runtime.Session`; each call starts from an empty prefix."""

    def generate(self, prompt: str, *, max_new_tokens: int, seed: int) -> Answer: ...
    def decode_greedy(self, prompt: str, *, max_new_tokens: int) -> Answer: ...


@dataclass(frozen=True, kw_only=True)
class Item:
    """One held-out exercise."""

    task: str
    prompt: str
    answer: str


def read_items(path: Path, per_task: int | None = None, tasks: Sequence[str] | None = None) -> list[Item]:
    """Items of a JSONL file, in its order, at most `per_task` of each task; raises UsageError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a JSONL file of held-out tasks") from None
    items: list[Item] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            item = Item(task=str(values["task"]), prompt=str(values["prompt"]), answer=str(values["answer"]))
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}:{number}: is no JSON object with task, prompt and answer; mend the line") from None
        if tasks and item.task not in tasks:
            continue
        counts[item.task] = counts.get(item.task, 0) + 1
        if per_task is None or counts[item.task] <= per_task:
            items.append(item)
    if tasks and (missing := [t for t in tasks if t not in counts]):
        raise UsageError(f"{path}: has no task {missing[0]!r}; leave out --only or name tasks of the file")
    if not items:
        raise UsageError(f"{path}: holds no items; give a JSONL file of held-out tasks")
    return items


@dataclass
class Tally:
    """Counts of one decoder over some items."""

    right: list[bool] = field(default_factory=list)
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        self.right += other.right
        self.tokens += other.tokens
        self.steps += other.steps
        self.seconds += other.seconds

    def figures(self) -> dict[str, Any]:
        """n, exact match with its 95 % interval, mean steps, tokens per forward (pooled), seconds."""
        n, right = len(self.right), sum(self.right)
        low, high = wilson(right, n)
        return {
            "n": n,
            "right": right,
            "exact": right / n if n else 0.0,
            "low": low,
            "high": high,
            "mean_tokens": self.tokens / n if n else 0.0,
            "mean_steps": self.steps / n if n else 0.0,
            "tokens_per_forward": self.tokens / self.steps if self.steps else 0.0,
            "seconds": self.seconds,
        }


Tallies = dict[str, dict[str, Tally]]  # decoder → task → counts


def evaluate(
    session: Decoder, items: Iterable[Item], *, seed: int, max_new_tokens: int, autoregressive: bool
) -> tuple[Tallies, list[dict[str, Any]]]:
    """Run every item through the decoders; returns the counts and one row for each wrong answer."""
    tallies: Tallies = {"diffusion": {}, **({"autoregressive": {}} if autoregressive else {})}
    wrong: list[dict[str, Any]] = []
    for item in items:
        for name, by_task in tallies.items():
            started = time.perf_counter()
            if name == "diffusion":
                result = session.generate(item.prompt, max_new_tokens=max_new_tokens, seed=seed)
            else:
                result = session.decode_greedy(item.prompt, max_new_tokens=max_new_tokens)
            seconds = time.perf_counter() - started
            right = result.text.strip() == item.answer.strip()
            one = Tally(right=[right], tokens=len(result.tokens), steps=result.steps, seconds=seconds)
            by_task.setdefault(item.task, Tally()).add(one)
            if not right:
                wrong.append({"decoder": name, **asdict(item), "text": result.text})
    return tallies, wrong


def pooled(by_task: dict[str, Tally], tasks: Iterable[str]) -> Tally:
    total = Tally()
    for task in tasks:
        total.add(by_task[task])
    return total


def summarize(tallies: Tallies) -> dict[str, Any]:
    """Figures by decoder and task, over all tasks, and over the tasks that diffusion solves; with paired differences."""
    diffusion = tallies["diffusion"]
    groups = {
        "all tasks": list(diffusion),
        "solved tasks": [t for t, tally in diffusion.items() if tally.figures()["exact"] >= SOLVED],
    }
    summary: dict[str, Any] = {"tasks": {}, "pooled": {}, "difference": {}}
    for task in diffusion:
        summary["tasks"][task] = {name: by_task[task].figures() for name, by_task in tallies.items()}
    for group, tasks in groups.items():
        if not tasks:
            continue
        totals = {name: pooled(by_task, tasks) for name, by_task in tallies.items()}
        summary["pooled"][group] = {"tasks": tasks, **{name: total.figures() for name, total in totals.items()}}
        if "autoregressive" in totals:
            values = paired_difference(totals["diffusion"].right, totals["autoregressive"].right)
            summary["difference"][group] = dict(zip(("exact", "low", "high"), values, strict=True))
    return summary


def show(summary: dict[str, Any]) -> None:
    def row(label: str, by_decoder: dict[str, Any]) -> list[str]:
        d = by_decoder["diffusion"]
        cells = [label, str(d["n"]), f"{d['exact']:.1%}", f"{d['low']:.1%} … {d['high']:.1%}"]
        cells += [f"{d['mean_tokens']:.1f}", f"{d['mean_steps']:.2f}", f"{d['tokens_per_forward']:.1f}"]
        if a := by_decoder.get("autoregressive"):
            cells += [f"{a['exact']:.1%}", f"{a['low']:.1%} … {a['high']:.1%}"]
        return cells

    header = ["task", "n", "exact", "95 %", "tokens", "steps", "tokens/forward"]
    if any("autoregressive" in v for v in summary["tasks"].values()):
        header += ["autoregressive", "95 %"]
    rows = [row(task, values) for task, values in summary["tasks"].items()]
    rows += [row(f"{group} ({len(v['tasks'])})", v) for group, v in summary["pooled"].items()]
    report.table("Held-out exact match", header, rows)
    for group, d in summary["difference"].items():
        print(
            f"{group}: diffusion minus autoregressive {100 * d['exact']:+.1f} points "
            f"(95 %: {100 * d['low']:+.1f} … {100 * d['high']:+.1f})"
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.evaluate", description="Held-out exact match by task.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=Path, default=TASKS, help="JSONL lines with task, prompt, answer")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="these tasks of the file")
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--per-task", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--no-autoregressive", action="store_true", help="only diffusion")
    parser.add_argument("--out", type=Path, help="write the figures and the wrong answers as JSON")
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    report.check_out(options.out)
    items = read_items(options.tasks, options.per_task, options.only)
    manifest, digest = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    from dgemma.runtime.session import Session

    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        tallies, wrong = evaluate(
            session, progress(items, "evaluate"), seed=options.seed, max_new_tokens=options.max_new_tokens,
            autoregressive=not options.no_autoregressive,
        )  # fmt: skip
    summary = summarize(tallies)
    show(summary)
    if options.out:
        settings = {k: getattr(options, k) for k in ("engine", "threads", "seed", "max_new_tokens", "per_task")}
        result = {
            "benchmark": "evaluate",
            "machine": machine.facts(),
            "bundle": {"digest": digest, "steps": manifest.steps, "canvas_length": manifest.canvas_length},
            "recipe": manifest.quantization,
            "options": {**settings, "items": options.tasks.name},
            **summary,
            "wrong": wrong,
        }
        report.write_json(options.out, result)
        print(f"wrote {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    report.main(run)
