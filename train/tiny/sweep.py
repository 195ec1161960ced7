"""Which sampler policy wins on held-out prompts: exact match, steps and position-forwards per token over T, entropy bound, stop
rule, cooling, and what a canvas may leave out.

The prompts are held out with another seed than those of the published evaluation, so that choosing does not flatter it.

python -m dgemma.train.tiny.sweep CHECKPOINT --out FILE.json [--per-task 8]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.progress import progress
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.train.tiny import tasks
from dgemma.train.tiny.vocabulary import prompt_ids

SEED = 1
BASE = SamplerConfig(steps=16)


@dataclass(frozen=True, kw_only=True)
class Cooling(SamplerConfig):
    """The temperature falls over the first `cooling` steps and then stays, so that the last step actually run is at t_min."""

    cooling: int

    def temperature(self, remaining: int) -> float:
        run = self.steps - remaining
        return self.t_min + (self.t_max - self.t_min) * max(0.0, 1 - run / self.cooling)


SHIPPED = replace(BASE, confidence_threshold=0.1)
POLICIES: dict[str, tuple[SamplerConfig, ComputePolicy | None]] = {
    **{f"T={t}": (replace(BASE, steps=t), None) for t in (4, 8, 16)},
    **{f"T=16 bound={b}": (replace(BASE, entropy_bound=b), None) for b in (0.03, 0.3, 1.0)},
    **{f"T=16 confidence={c}": (replace(BASE, confidence_threshold=c), None) for c in (0.02, 0.05, 0.1, 0.2, 0.5)},
    **{f"T={t} confidence=0.1": (replace(SHIPPED, steps=t), None) for t in (4, 8)},
    **{
        f"T=16 stability=0 confidence={c}": (replace(BASE, stability_threshold=0, confidence_threshold=c), None)
        for c in (0.005, 0.02, 0.1)
    },
    **{
        f"T=16 confidence=0.1 cooling={k}": (Cooling(steps=16, confidence_threshold=0.1, cooling=k), None) for k in (1, 2, 4, 8)
    },
    **{
        f"T={t} early_commit={s}": (replace(SHIPPED, steps=t), ComputePolicy(early_commit=s))
        for t in (4, 8, 16)
        for s in (0.003, 0.01, 0.03)
    },
    **{
        f"T=16 early_commit=0.01 cooling={k}": (
            Cooling(steps=16, confidence_threshold=0.1, cooling=k),
            ComputePolicy(early_commit=0.01),
        )
        for k in (1, 2, 4)
    },
    **{
        f"T=16 early_commit={s} start={n}": (SHIPPED, ComputePolicy(early_commit=s, start_width=n))
        for s in (0.003, 0.01, 0.03)
        for n in (4, 8, 16, 32)
    },
    **{
        f"T=16 draft early_commit={s} start={n}": (SHIPPED, ComputePolicy(early_commit=s, start_width=n, speculate=True))
        for s in (0.03, 0.1, 0.3, 1.0)
        for n in (8, 64)
    },
}


def measure(model: Denoiser, sp: Any, policy: SamplerConfig, compute: ComputePolicy | None, per_task: int) -> dict[str, Any]:
    """Pooled and per-task exact match, mean steps, and position-forwards per token: of denoising, and of checking drafts."""
    right: dict[str, int] = dict.fromkeys(tasks.TASKS, 0)
    steps = canvases = position_forwards = tokens = 0
    examples = tasks.held_out(per_task, SEED)
    for i, example in enumerate(examples):
        done = generate(model, policy, prompt_ids(sp, example.prompt), seed=i, max_new_tokens=256, compute=compute)
        right[example.task] += sp.decode(list(done.tokens)) == example.answer
        steps, canvases = steps + done.steps, canvases + done.canvases
        position_forwards, tokens = position_forwards + done.position_forwards, tokens + len(done.tokens)
    return {
        "policy": asdict(policy),
        "compute": None if compute is None else asdict(compute),
        "prompts": len(examples),
        "exact": round(sum(right.values()) / len(examples), 4),
        "steps_per_canvas": round(steps / canvases, 3),
        "position_forwards_per_token": round(position_forwards / tokens, 3),
        "exact_by_task": {t: round(n / per_task, 3) for t, n in right.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.sweep", description="Compare sampler policies.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = checkpoint.load(options.checkpoint).model
    sp: Any = spm.SentencePieceProcessor(model_file=str(options.checkpoint / "tokenizer.model"))
    results = {}
    for name, (policy, compute) in progress(list(POLICIES.items()), "policies"):
        one = results[name] = measure(model, sp, policy, compute, options.per_task)
        found = f"steps {one['steps_per_canvas']:.2f}  position-forwards/token {one['position_forwards_per_token']:.2f}"
        print(f"{name:36} exact {one['exact']:.3f}  {found}", file=sys.stderr)
    options.out.write_text(json.dumps({"seed": SEED, "per_task": options.per_task, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
