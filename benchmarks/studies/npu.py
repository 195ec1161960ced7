"""A bundle's graphs for an NPU, in the emulator, against the float model on held-out prompts: answers, steps, trajectories.

    python -m dgemma.benchmarks.studies.npu CHECKPOINT BUNDLE [--count K] [--minutes M] [--sources | --read-back] [--out FILE]

Both answer the same prompts with the same noise, adaptive stop on. The emulator takes seconds a step, so the prompts are taken
in an order that is spread over the tasks, and the study ends after so many minutes with as many as it came to; the file says
how many, and a further run goes on from there. Nothing here says how fast an NPU is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.core import machine, prompts
from dgemma.core.errors import UsageError
from dgemma.core.metrics import paired_difference, ratio_of_sums, wilson
from dgemma.core.progress import progress
from dgemma.core.prompts import TaskPrompt
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose
from dgemma.runtime.session import Session
from dgemma.verify import free_running, gate, source_checkpoint
from dgemma.verify.backend import Backend
from dgemma.verify.divergence import first_divergence
from dgemma.verify.static_graphs import TappedEngine

SEED, MAX_NEW_TOKENS = 0, 128
TARGET = "qnn"


def spread(items: Sequence[TaskPrompt]) -> list[TaskPrompt]:
    """One of each task, then another of each, and so on: any beginning of the list is spread over the tasks."""
    seen = dict[str, int]()
    ranks = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + 1
        ranks.append(seen[item.task])
    return [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0])]


def ask(session: Session, float_model: Backend, item: TaskPrompt) -> dict[str, Any]:
    """One prompt on both: whether answers are right, steps, and the rule by which trajectories part first."""
    ids = free_running.prompt_ids(session, item)
    reference = float_model.trajectory(ids, SEED, MAX_NEW_TOKENS)
    result = session.generate(ids, max_new_tokens=MAX_NEW_TOKENS, seed=SEED, trace=True)
    assert result.trajectory is not None and session.tokenizer is not None
    parted = first_divergence(reference, result.trajectory, float_model.sampler, seed=SEED, logits=float_model.logits)
    texts = {"float": session.tokenizer.decode(reference.tokens.tolist()), "npu": result.text}
    return {
        "task": item.task,
        "steps": {"float": len(reference.step), "npu": result.steps},
        "right": {name: text.strip() == (item.answer or "").strip() for name, text in texts.items()},
        "same_tokens": reference.tokens.tolist() == result.trajectory.tokens.tolist(),
        "parted_by": None if parted is None else parted.rule,
    }


def figures(asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """JSON types; intervals are 95 %."""
    steps = [[a["steps"][name] for a in asked] for name in ("npu", "float")]
    right = {name: [a["right"][name] for a in asked] for name in ("npu", "float")}
    names = ("value", "low", "high")
    return {
        "exact_match": {
            name: {"right": sum(r), "value": sum(r) / len(r), **dict(zip(names[1:], wilson(sum(r), len(r)), strict=True))}
            for name, r in right.items()
        },
        "exact_match_loss": dict(zip(names, paired_difference(right["float"], right["npu"]), strict=True)),
        "steps": {"npu": sum(steps[0]), "float": sum(steps[1])},
        "step_inflation": dict(zip(names, ratio_of_sums(*steps), strict=True)),
        "equal_trajectories": sum(a["parted_by"] is None for a in asked),
        "same_tokens": sum(a["same_tokens"] for a in asked),
        "parted_by": dict(Counter(a["parted_by"] for a in asked if a["parted_by"])),
    }


def answers(out: Path | None, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """What an earlier run with the same settings has found, and its seconds; nothing where there is none."""
    if out is None or not out.exists():
        return [], 0.0
    try:
        before = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"--out {out}: cannot be read as the figures of an earlier run; choose another") from None
    if any(before.get(key) != value for key, value in settings.items()):
        raise UsageError(f"--out {out}: holds figures of another bundle, checkpoint or seed; remove it, or choose another")
    return before["asked"], before["seconds"]


def session_of(bundle: Path, *, sources: bool, read_back: bool = False) -> Session:
    """On the NPU or in its emulator; with `sources`, the same graphs on the processor, see `verify/static_graphs.py`; with
    `read_back`, Core ML's methods, see `read_back.py`."""
    if read_back:
        from dgemma.benchmarks.studies.read_back import ReadBackEngine

        opened = Bundle.open(bundle)
        return Session(opened, ReadBackEngine(opened, 1))
    if not sources:
        return Session.load(bundle, engine="onnx", target=TARGET, threads=1)
    opened = Bundle.open(bundle)
    return Session(opened, TappedEngine(opened, version=choose(opened, "onnx")[1], threads=1, sources=True))


def measure(
    checkpoint: str,
    bundle: Path,
    count: int,
    minutes: float,
    out: Path | None,
    *,
    sources: bool = False,
    read_back: bool = False,
) -> dict[str, Any]:
    """Figures in JSON types; written to `out` after every prompt, from which a study that was ended goes on."""
    began, result = time.monotonic(), dict[str, Any]()
    items = spread(prompts.evenly(prompts.read(prompts.held_out()), count))
    with session_of(bundle, sources=sources, read_back=read_back) as session:
        manifest, label = session.manifest, session.label
        float_model, source = source_checkpoint.load(manifest, checkpoint, "torch")
        spec = next(iter(manifest.targets.values()))
        recipe = str(manifest.quantization["recipe"])
        settings = {
            "benchmark": "npu",
            "target": label,
            "precision": spec.precision,
            "versions": spec.versions,
            "recipe": recipe,
            "bundle": session.bundle.digest,
            "checkpoint": source,
            "seed": SEED,
            "wanted": len(items),
        }
        asked, before = answers(out, settings)
        for item in progress(items[len(asked) :], label):
            if asked and time.monotonic() - began > 60 * minutes:
                break
            asked.append(ask(session, float_model, item))
            found = figures(asked)
            checks = gate.judge(recipe, found, {"not_finite": 0})[:-1]  # the last is of forced steps, which there are none of
            result = {
                **settings,
                "prompts": len(asked),
                "seconds": round(before + time.monotonic() - began, 1),
                "checks": [c.to_dict() for c in checks],
                **found,
                "asked": asked,
                "machine": machine.facts(),
            }
            if out:
                report.write_json(out, result)
    return result or json.loads((out or Path()).read_text(encoding="utf-8"))


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="npu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=102)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--out", type=Path, help="JSON to write; goes on from what an earlier run wrote there")
    parser.add_argument("--sources", action="store_true", help="run the NPU's graphs on the processor in float32, in no time")
    parser.add_argument("--read-back", action="store_true", help="compute Core ML's methods with numpy, as the files have them")
    options = parser.parse_args(argv)
    result = measure(
        options.checkpoint, options.bundle, options.count, options.minutes, options.out,
        sources=options.sources, read_back=options.read_back,
    )  # fmt: skip
    report.table(f"{result['target']}, {result['prompts']} prompts", ("check", "value", "limit"), [
        (c["name"], f"{c['value']:.4g}", f"{c['limit']:g}") for c in result["checks"]
    ])  # fmt: skip
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    report.main(run)
