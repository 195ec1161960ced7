"""A task that tiny does not know, fine-tuned in with the defaults: what is learned, what is kept, what that costs, the gate.

    python -m dgemma.benchmarks.studies.finetune --work FOLDER [--only KIND | --timed KIND] --out FILE

Every step is a command that a user would type, run in a process of its own. Its wall time and its processor time (all threads,
the start of Python included) are kept in FOLDER, and what is done there is not done again, so that kinds can run beside each
other. Answers are judged in eager PyTorch in float32 with the checkpoint's own sampler; the gate is that of `dgemma verify`.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.benchmarks.studies import finetune_task
from dgemma.core import machine
from dgemma.core.errors import DgemmaError
from dgemma.core.metrics import paired_difference, wilson
from dgemma.core.progress import progress
from dgemma.model import checkpoint
from dgemma.train import records, rollout
from dgemma.train.runs import TRAINING
from dgemma.train.tiny.vocabulary import prompt_ids

CHECKPOINT = Path("checkpoints/tiny")
NEW, REPLAY, PROMPTS, MERGED = "new.jsonl", "replay.jsonl", "prompts.jsonl", "merged"
REPLAYED, ASKED = 3000, 200  # conversations; prompts of the new task
GATED, GATED_PER_TASK = 100, 20  # prompts of the gate: of the new task, of each other one
KINDS = {"full": "--replay REPLAY", "lora": "--lora 8 --replay REPLAY", "alone": ""}
_BATCH, _MOST_CANVASES = 32, 4


@dataclass(frozen=True)
class Work:
    """The study's folder, what its training runs with, and how many prompts of each of tiny's tasks are asked."""

    folder: Path
    threads: int
    per_task: int

    def kept(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def keep(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        report.write_json(self.folder / f"{name}.json", values)
        return values

    def ran(self, name: str, command: str, accepted: Sequence[int] = (0,)) -> dict[str, Any]:
        """What a command took; its output is in NAME.out. Raises DgemmaError where its status is another."""
        if found := self.kept(name):
            return found
        print(f"$ {command}", file=sys.stderr, flush=True)
        program, *words = shlex.split(command)
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with (self.folder / f"{name}.out").open("w", encoding="utf-8") as out:
            start = [sys.executable, "-m", "dgemma.cli"] if program == "dgemma" else [sys.executable]
            status = subprocess.run([*start, *words], stdout=out).returncode
        wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if status not in accepted:
            raise DgemmaError(f"status {status} of: {command}; see what it printed")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        shown = command.replace(f"{self.folder}/", "")  # results are published
        return self.keep(name, {"command": shown, "status": status, "wall_s": wall, "processor_s": used})


def prepare(work: Work) -> tuple[list[EvalItem], list[EvalItem]]:
    """Write the data and the gate's prompts, where they are not there; the prompts of the new task and of tiny's own ones."""
    work.folder.mkdir(parents=True, exist_ok=True)
    if not (path := work.folder / NEW).exists():
        finetune_task.write(path)
    if not (path := work.folder / REPLAY).exists():
        work.ran("replay", f"python -m dgemma.train.tiny.conversations {path} --count {REPLAYED}")
    new, own = finetune_task.examples("test", ASKED), read_items(TASKS, work.per_task)
    gated = [*read_items(TASKS, GATED_PER_TASK), *new[:GATED]]
    lines = [json.dumps({"task": one.task, "prompt": one.prompt, "answer": one.answer}) for one in gated]
    (work.folder / PROMPTS).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return new, own


def command(work: Work, kind: str, out: Path, threads: int) -> str:
    """Trains one kind."""
    options = KINDS[kind].replace("REPLAY", str(work.folder / REPLAY))
    parts = ("dgemma finetune", CHECKPOINT, "--data", work.folder / NEW, options, "--out", out, "--threads", threads)
    return " ".join(str(part) for part in parts if part != "")


def tune(work: Work, kind: str) -> Path:
    """Train one kind; the checkpoint to ask."""
    out = work.folder / kind
    work.ran(f"{kind}-cost", command(work, kind, out, work.threads))
    if "--lora" not in KINDS[kind]:
        return out
    merged = work.folder / MERGED
    work.ran("merge", f"dgemma merge {CHECKPOINT} {out} --out {merged}")
    return merged


def timed(work: Work, kind: str) -> None:
    """Train one kind again, with two threads, for the wall time on a machine with nothing else to do."""
    work.ran(f"{kind}-two-threads", command(work, kind, work.folder / f"{kind}-two-threads", 2))


def judged(work: Work, name: str, folder: Path, items: Sequence[EvalItem]) -> list[bool]:
    """Whether each answer of a checkpoint is the right one, to the letter; all with the noise of seed 0."""
    kept: dict[str, bool] = work.kept(f"{name}-right") or {}
    left = [one for one in items if one.prompt not in kept]
    loaded = checkpoint.load(folder)
    model = loaded.model.requires_grad_(False).eval()
    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for at in progress(range(0, len(left), _BATCH), f"{name}: answers"):
        part = left[at : at + _BATCH]
        prompts = [prompt_ids(sp, str(one.prompt)) for one in part]
        answers = rollout.generate_rows(model, loaded.sampler, prompts, [0] * len(part), most_canvases=_MOST_CANVASES)
        said = [str(sp.decode(list(answer.tokens))).strip() for answer in answers]
        kept |= {one.prompt: text == one.answer.strip() for text, one in zip(said, part, strict=True)}
        work.keep(f"{name}-right", kept)
    return [kept[one.prompt] for one in items]


def share(right: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(right), len(right))
    return {"n": len(right), "right": sum(right), "exact": sum(right) / len(right), "low": low, "high": high}


def by_task(right: Sequence[bool], items: Sequence[EvalItem]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for one, item in zip(right, items, strict=True):
        found[item.task] += one
    return dict(found)


def figures(right: Sequence[bool], new: Sequence[EvalItem], own: Sequence[EvalItem]) -> dict[str, Any]:
    """Of answers to the new task's prompts, then to those of tiny's own tasks."""
    return {"new": share(right[: len(new)]), "own": share(right[len(new) :]), "tasks": by_task(right[len(new) :], own)}


def course(folder: Path) -> dict[str, Any]:
    """Steps, the step that was kept, positions, and both losses in the end, from the log."""
    lines = records.read(folder / TRAINING)
    held_out = {int(line["step"]): float(line["held_out"]) for line in lines if "held_out" in line}
    best = min(held_out, key=lambda step: held_out[step])
    return {
        "steps": int(lines[-1]["step"]), "best_step": best, "positions": int(lines[-1]["tokens"]),
        "held_out": {str(step): loss for step, loss in held_out.items()}, "training_s": float(lines[-1]["seconds"]),
    }  # fmt: skip


def gate(work: Work, merged: Path) -> dict[str, Any]:
    """The merged checkpoint as a bundle of recipe w8 through verify: tiny's own prompts and some of the new task."""
    bundle = work.folder / "merged-w8.dgemma"
    exported = work.ran("export", f"dgemma export {merged} --recipe w8 --engine onnx --out {bundle}")
    verified = work.ran(
        "verify",
        f"dgemma verify {bundle} --engine onnx --checkpoint {merged} --prompts {work.folder / PROMPTS} "
        f"--threads {work.threads} --json",
        accepted=(0, 1),
    )
    said = json.loads((work.folder / "verify.out").read_text(encoding="utf-8"))
    found = said["float"]["onnx"]
    free = {key: found["free_running"][key] for key in ("steps", "step_inflation", "exact_match", "exact_match_loss", "tasks")}
    ladder = {name: rung["passed"] for name, rung in said["ladder"].items()}
    return {
        "passed": bool(found["passed"]), "ladder": ladder, "prompts": found["prompts"]["count"], "checks": found["checks"],
        **free, "export": exported, "verify": verified,
    }  # fmt: skip


def measured(work: Work, only: str | None) -> dict[str, Any] | None:
    """All figures; None where only one kind was to be trained and asked."""
    new, own = prepare(work)
    items, runs, base = [*new, *own], dict[str, Any](), list[bool]()
    if not only:
        base = judged(work, "base", CHECKPOINT, items)
    for kind in [only] if only else KINDS:
        folder = tune(work, kind)
        right = judged(work, kind, folder, items)
        if only:
            continue
        change = paired_difference(right[len(new) :], base[len(new) :])
        runs[kind] = {
            "cost": work.kept(f"{kind}-cost"), "two_threads": work.kept(f"{kind}-two-threads"),
            **course(work.folder / kind), **figures(right, new, own),
            "change": dict(zip(("value", "low", "high"), change, strict=True)),
        }  # fmt: skip
    if only:
        return None
    return {
        "task": finetune_task.NAME, "example": {"prompt": new[0].prompt, "answer": new[0].answer},
        "conversations": finetune_task.EXAMPLES, "replayed": REPLAYED, "per_task": work.per_task,
        "base": figures(base, new, own), "runs": runs, "gate": gate(work, work.folder / MERGED),
    }  # fmt: skip


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="finetune", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of data, checkpoints and what is measured")
    parser.add_argument("--only", choices=sorted(KINDS), help="train and ask one kind, and no more")
    parser.add_argument(
        "--timed", choices=sorted(KINDS), help="train one kind with two threads, for its wall time, and no more"
    )
    parser.add_argument("--per-task", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    torch.set_num_threads(options.threads)
    work = Work(options.work, options.threads, options.per_task)
    if options.timed:
        prepare(work)
        timed(work, options.timed)
        return 0
    found = measured(work, options.only)
    if found is None:
        return 0
    result = {"benchmark": "finetune", "options": {"threads": options.threads}, **found, "machine": machine.facts()}
    if options.out:
        report.write_json(options.out, result)
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    report.main(run)
