"""What an approximate soft embedding costs: exact match, steps and trajectories of the float model under `--soft` policies.

    python -m dgemma.benchmarks.studies.soft CHECKPOINT BUNDLE [--per-task K] [--policies exact,topk:1,…] [--out FILE]

The float model runs in PyTorch; the bundle, of any recipe, gives tokenizer and chat template alone. All policies get the same
prompts and noise. Nothing here measures time: what a policy costs in a graph is measured on graphs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.core import machine
from dgemma.core.metrics import paired_difference, ratio_of_sums, wilson
from dgemma.core.progress import progress
from dgemma.core.sampler import EXACT, SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import Generation, generate
from dgemma.runtime.session import Session
from dgemma.runtime.tokenizer import chat_ids

POLICIES = (EXACT, "topk:1", "topk:4", "topk:16", "topk:64", "topk:256")
MAX_NEW_TOKENS = 128
SEED = 0


def answers(model: Denoiser, sampler: SamplerConfig, prompts: Sequence[Sequence[int]], label: str) -> list[Generation]:
    """One generation a prompt, adaptive stop on."""
    return [generate(model, sampler, ids, seed=SEED, max_new_tokens=MAX_NEW_TOKENS) for ids in progress(prompts, label)]


def equal(a: Generation, b: Generation) -> bool:
    """Whether argmax, acceptance and canvases of all steps are the same."""
    names = ("argmax", "accepted", "canvas_out", "tokens")
    return all(np.array_equal(getattr(a.trajectory, name), getattr(b.trajectory, name)) for name in names)


def figures(
    own: Sequence[Generation], exact: Sequence[Generation], right: list[bool], right_exact: list[bool]
) -> dict[str, Any]:
    """JSON types; intervals are 95 %."""
    n = len(own)
    low, high = wilson(sum(right), n)
    steps = [[g.steps for g in generations] for generations in (own, exact)]
    return {
        "exact_match": {"n": n, "right": sum(right), "value": sum(right) / n, "low": low, "high": high},
        "exact_match_loss": dict(zip(("value", "low", "high"), paired_difference(right_exact, right), strict=True)),
        "steps": sum(steps[0]),
        "step_ratio": dict(zip(("value", "low", "high"), ratio_of_sums(*steps), strict=True)),
        "equal_trajectories": sum(map(equal, own, exact)),
        "equal_tokens": sum(a.tokens == b.tokens for a, b in zip(own, exact, strict=True)),
    }


def measure(folder: Path, bundle: Path, items: Sequence[EvalItem], policies: Sequence[str]) -> dict[str, Any]:
    """Policy → figures, against `exact` on the same items."""
    loaded = checkpoint.load(folder)
    with Session.load(bundle) as session:
        tokenizer, manifest = session.tokenizer, session.manifest
        assert tokenizer is not None
        prompts = [chat_ids(manifest, tokenizer, item.prompt, []) for item in items]
        model = loaded.model
        model.config = replace(model.config, canvas_length=manifest.canvas_length)
        runs = {name: answers(model, replace(manifest.sampler, soft=name), prompts, name) for name in policies}
        right = {
            name: [
                tokenizer.decode(list(run.tokens)).strip() == item.answer.strip()
                for run, item in zip(found, items, strict=True)
            ]
            for name, found in runs.items()
        }
    return {name: figures(found, runs[EXACT], right[name], right[EXACT]) for name, found in runs.items()}


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="soft", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=Path, default=TASKS)
    parser.add_argument("--per-task", type=int, default=20)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    policies = list(dict.fromkeys([EXACT, *options.policies.split(",")]))
    items = read_items(options.tasks, options.per_task)
    found = measure(options.checkpoint, options.bundle, items, policies)
    result = {"benchmark": "soft", "seed": SEED, "prompts": len(items), "policies": found, "machine": machine.facts()}
    rows = [
        (
            name,
            f"{f['exact_match']['value']:.3f}",
            f"{f['exact_match_loss']['value']:+.3f}",
            str(f["steps"]),
            f"{f['step_ratio']['value']:.3f}",
            str(f["equal_trajectories"]),
            str(f["equal_tokens"]),
        )
        for name, f in found.items()
    ]
    header = ("policy", "exact match", "loss", "steps", "ratio", "equal trajectories", "equal tokens")
    report.table(f"soft embeddings, {len(items)} prompts", header, rows)
    if options.out:
        report.write_json(options.out, result)
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    report.main(run)
