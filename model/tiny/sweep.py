"""Which sampler policy wins on held-out prompts: exact match and steps over T, entropy bound and confidence threshold.

The prompts are held out with another seed than those of the published evaluation, so that choosing does not flatter it.

python -m dgemma.model.tiny.sweep CHECKPOINT --out FILE.json [--per-task 8]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import sentencepiece as spm
import torch

from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.generate import generate
from dgemma.model.tiny import tasks
from dgemma.model.tiny.vocabulary import user_turn

SEED = 1
BASE = SamplerConfig(steps=16)
POLICIES: dict[str, SamplerConfig] = {
    **{f"T={t}": replace(BASE, steps=t) for t in (4, 8, 16)},
    **{f"T=16 bound={b}": replace(BASE, entropy_bound=b) for b in (0.03, 0.3, 1.0)},
    **{f"T=16 confidence={c}": replace(BASE, confidence_threshold=c) for c in (0.02, 0.05, 0.1, 0.2, 0.5)},
    "T=8 confidence=0.2": replace(BASE, steps=8, confidence_threshold=0.2),
    **{f"T=16 stability=0 confidence={c}": replace(BASE, stability_threshold=0, confidence_threshold=c) for c in (0.02, 0.1)},
}


def prompt_ids(sp: Any, prompt: str) -> list[int]:
    """A single user turn as in training; 2 is bos."""
    return [2, *sp.encode(user_turn(prompt))]


def measure(folder: Path, policy: SamplerConfig, per_task: int) -> dict[str, Any]:
    """Pooled and per-task exact match, and mean steps."""
    loaded = checkpoint.load(folder)
    sp: Any = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    right: dict[str, int] = dict.fromkeys(tasks.TASKS, 0)
    steps = canvases = 0
    examples = tasks.held_out(per_task, SEED)
    for i, example in enumerate(examples):
        done = generate(loaded.model, policy, prompt_ids(sp, example.prompt), seed=i, max_new_tokens=256)
        right[example.task] += sp.decode(list(done.tokens)) == example.answer
        steps, canvases = steps + done.steps, canvases + done.canvases
    return {
        "policy": policy.to_dict(), "prompts": len(examples), "exact": round(sum(right.values()) / len(examples), 4),
        "steps_per_canvas": round(steps / canvases, 3), "exact_by_task": {t: round(n / per_task, 3) for t, n in right.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.model.tiny.sweep", description="Compare sampler policies.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, policy in POLICIES.items():
        results[name] = measure(options.checkpoint, policy, options.per_task)
        print(f"{name:36} exact {results[name]['exact']:.3f}  steps {results[name]['steps_per_canvas']:.2f}", file=sys.stderr)
    options.out.write_text(json.dumps({"seed": SEED, "per_task": options.per_task, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
