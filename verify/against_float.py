"""One artifact on one engine against the float model: free-running, then teacher-forced, then judged.

The two engines of a comparison are not open at the same time, so weights are in memory once, beside the float model's.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgemma.core import prompts
from dgemma.core.accelerators import CPU, QNN
from dgemma.core.errors import UsageError
from dgemma.core.prompts import TaskPrompt
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose, open_engine
from dgemma.runtime.session import Session
from dgemma.verify import free_running, gate, golden, outcome, source_checkpoint, teacher_forced
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.static_graphs import StaticBackend

SEED = 0
COUNT = 612  # 36 of each of the 17 tasks
COUNT_OF_IDS = 16  # prompts for bundles that hold no text


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What to compare.

    Args:
        target: whose graphs: `cpu`, or `qnn` for those of a Snapdragon NPU, in its emulator or on one.
        checkpoint: folder, or preset of a bundle of random weights.
        reference: what runs the checkpoint: `torch`, or `tpu` for the JAX reference in bfloat16.
        prompts: JSONL file; None is the committed one, or ids for bundles without a chat template.
        count: number of prompts; None is `COUNT`, or `COUNT_OF_IDS`.
    """

    bundle: Path
    checkpoint: str
    reference: str = "torch"
    engine: str | None = None
    target: str = CPU
    prompts: Path | None = None
    count: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None:
            prompts.read(self.prompts)
        if self.count is not None and self.count < 1:
            raise UsageError(f"--count {self.count}: must be at least 1")
        if self.target not in (CPU, QNN):
            raise UsageError(f"--target {self.target[:40]!r} is unknown; choose cpu or qnn")
        if self.target == QNN:
            open_engine(Bundle.open(self.bundle), self.engine, self.threads, QNN).close()


def compare(request: ComparisonRequest, progress: free_running.Progress) -> tuple[str, dict[str, dict[str, Any]]]:
    """Run the comparison.

    Returns:
        the manifest's digest, and engine, or NPU, → figures in JSON types: facts, `checks`, `passed`, `free_running`,
        `teacher_forced`.
    Raises:
        DgemmaError: whatever is wrong with bundle, checkpoint, engine or prompts.
    """
    started = time.monotonic()
    bundle = Bundle.open(request.bundle)
    engine, version = choose(bundle, request.engine)
    artifact = (
        StaticBackend(bundle, request.threads) if request.target == QNN else EngineBackend(bundle, engine, request.threads)
    )
    items, source = choose_items(artifact.session, request)
    float_model, checkpoint = source_checkpoint.load(bundle.manifest, request.checkpoint, request.reference)
    if request.reference == "torch":
        _use_threads(request.threads)
    runs, left_out = free_running.answer_all(artifact.session, float_model, items, SEED, progress)
    artifact.release()
    pair = (float_model.name, artifact.name)
    trajectories = [(SEED, r.reference) for r in runs]
    forced = teacher_forced.force([float_model, artifact], [pair], float_model, trajectories, progress)[pair]
    artifact.close()
    ran = free_running.figures(runs, left_out)
    fed = forced.figures(artifact.without_logits)
    recipe = str(bundle.manifest.quantization.get("recipe", "unknown"))
    circumstances = outcome.circumstances(engine, version)
    if request.target == QNN:
        circumstances["tools"] |= artifact.facts
    checks = gate.judge(recipe, ran, fed)
    return bundle.digest, {
        artifact.name: {
            **circumstances,
            "recipe": recipe,
            "reference": request.reference,
            "checkpoint": checkpoint,
            "other_checkpoint": not checkpoint["same"],
            "prompts": source,
            "seed": SEED,
            "max_steps": bundle.manifest.steps,
            "limits": asdict(gate.limits_of(recipe)),
            "checks": [c.to_dict() for c in checks],
            "passed": all(c.passed for c in checks),
            "free_running": ran,
            "teacher_forced": fed,
            "seconds": round(time.monotonic() - started, 1),
        }
    }


def choose_items(session: Session, request: ComparisonRequest) -> tuple[list[TaskPrompt], dict[str, Any]]:
    """The prompts, and what is to be remembered of them; raises UsageError."""
    manifest = session.manifest
    if session.tokenizer is None or manifest.chat is None:
        if request.prompts is not None:
            raise UsageError(f"--prompts {request.prompts}: {request.bundle} has no chat template; leave --prompts out")
        room = max(1, manifest.context - manifest.canvas_length)
        ids = golden.prompts(manifest.model.vocab_size, request.count or COUNT_OF_IDS)
        return [TaskPrompt(task="ids", prompt=tuple(p[:room])) for p in ids], {"file": None, "count": len(ids)}
    path = request.prompts or prompts.held_out()
    items = prompts.evenly(prompts.read(path), request.count or COUNT)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return items, {"file": path.name, "sha256": sha256, "count": len(items)}


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
