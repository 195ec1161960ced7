"""One artifact on one engine against the float model: free-running, then teacher-forced, then judged.

The two engines of a comparison are not open at the same time, so weights are in memory once, beside the float model's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.core.errors import UsageError
from dgemma.runtime.session import Session
from dgemma.verify import free, gate, golden, origin, prompts, teacher, verdict
from dgemma.verify.prompts import Item

if TYPE_CHECKING:
    from dgemma.verify.eager import Eager

SEED = 0
COUNT_OF_IDS = 16  # prompts for bundles that hold no text


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compare.

    Args:
        checkpoint: folder, or preset of a bundle of random weights.
        prompts: JSONL file; None is the committed one, or ids for bundles without a chat template.
        count: number of prompts; None is `prompts.COUNT`, or `COUNT_OF_IDS`.
        force: take another checkpoint than the bundle's as well.
    """

    bundle: Path
    checkpoint: str
    engine: str | None = None
    prompts: Path | None = None
    count: int | None = None
    threads: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"--count {self.count}: must be at least 1")


def compare(request: Request, progress: free.Progress) -> tuple[str, dict[str, dict[str, Any]]]:
    """Run the comparison.

    Returns:
        the manifest's digest, and engine → figures in JSON types: facts, `checks`, `passed`, `free`, `teacher`.
    Raises:
        DgemmaError: whatever is wrong with bundle, checkpoint, engine or prompts.
    """
    started = time.monotonic()
    with Session.load(request.bundle, engine=request.engine, threads=request.threads) as session:
        bundle, engine, version = session.bundle, session.engine, session.engine_version
        items, source = choose_items(session, request)
        eager, checkpoint = origin.load(bundle.manifest, request.checkpoint, force=request.force)
        _use_threads(request.threads)
        runs, left_out = free.answer_all(session, eager, items, SEED, progress)
    forced, without_logits = _force(session, eager, engine, runs, request.threads, progress)
    ran = free.figures(runs, left_out)
    fed = forced.figures(without_logits)
    recipe = str(bundle.manifest.quantization.get("recipe", "unknown"))
    checks = gate.judge(recipe, ran, fed)
    return bundle.digest, {
        engine: {
            **verdict.circumstances(engine, version),
            "recipe": recipe,
            "reference": "torch",
            "checkpoint": checkpoint,
            "forced": not checkpoint["same"],
            "prompts": source,
            "seed": SEED,
            "max_steps": bundle.manifest.steps,
            "limits": asdict(gate.limits_of(recipe)),
            "checks": [c.to_dict() for c in checks],
            "passed": all(c.passed for c in checks),
            "free": ran,
            "teacher": fed,
            "seconds": round(time.monotonic() - started, 1),
        }
    }


def _force(
    session: Session, eager: Eager, engine: str, runs: Sequence[free.Run], threads: int | None, progress: free.Progress
) -> tuple[teacher.Forced, str | None]:
    """Teacher-forced steps of all runs; and why there are no logits, if there are none."""
    forced_engine, without_logits = teacher.open_forced(session.bundle, engine, threads)
    try:
        return teacher.compare(forced_engine, eager, [r.reference for r in runs], SEED, progress), without_logits
    finally:
        forced_engine.close()


def choose_items(session: Session, request: Request) -> tuple[list[Item], dict[str, Any]]:
    """The prompts, and what is to be remembered of them; raises UsageError."""
    manifest = session.manifest
    if session.tokenizer is None or manifest.chat is None:
        if request.prompts is not None:
            raise UsageError(f"--prompts {request.prompts}: {request.bundle} has no chat template; leave --prompts out")
        room = max(1, manifest.context - manifest.canvas_length)
        ids = golden.prompts(manifest.model.vocab_size, request.count or COUNT_OF_IDS)
        return [Item(task="ids", prompt=tuple(p[:room])) for p in ids], {"file": None, "count": len(ids)}
    path = request.prompts or prompts.PROMPTS
    items = prompts.read(path, request.count or prompts.COUNT)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return items, {"file": path.name, "sha256": sha256, "count": len(items)}


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
