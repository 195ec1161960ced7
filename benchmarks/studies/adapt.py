"""A causal tiny made a denoiser: tokens that it took, and exact match by task beside tiny, which learned from scratch.

    python -m dgemma.benchmarks.studies.adapt CAUSAL ADAPTED [--scratch checkpoints/tiny] [--per-task K] [--out FILE]

CAUSAL is a checkpoint that was trained on the next-token loss alone, ADAPTED what `dgemma adapt` made of it; both with
their folder `training`. Models run in PyTorch, with tiny's sampler. Nothing here measures time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.core import machine
from dgemma.core.metrics import paired_difference, wilson
from dgemma.core.progress import progress
from dgemma.model import checkpoint
from dgemma.model.checkpoint import Checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.model.generate import generate
from dgemma.train.tiny.vocabulary import prompt_ids

MAX_NEW_TOKENS, SEED = 256, 0


@torch.no_grad()
def decode(model: Denoiser, prompt: Sequence[int], most: int) -> list[int]:
    """Greedy next tokens up to a stop token."""
    stops, tokens = set(model.config.eos_token_ids), list[int]()
    hidden, prefix = model.encode(torch.tensor([list(prompt)]))
    while len(tokens) < most:
        token = int(model.head(hidden[:, -1:]).argmax())
        if token in stops:
            break
        tokens.append(token)
        hidden, new = model.encode(torch.tensor([[token]]), prefix, prefix[0][0].shape[1])
        prefix = [(torch.cat([k, nk], 1), torch.cat([v, nv], 1)) for (k, v), (nk, nv) in zip(prefix, new, strict=True)]
    return tokens


def rights(loaded: Checkpoint, items: Sequence[EvalItem], decoder: str, label: str) -> list[bool]:
    """Whether each answer is the right one, to the letter."""
    import sentencepiece

    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(loaded.folder / "tokenizer.model"))
    found = []
    for item in progress(list(items), label):
        ids = prompt_ids(sp, str(item.prompt))
        if decoder == "diffusion":
            answer = generate(loaded.model, loaded.sampler, ids, seed=SEED, max_new_tokens=MAX_NEW_TOKENS).tokens
        else:
            answer = tuple(decode(loaded.model, ids, MAX_NEW_TOKENS))
        found.append(sp.decode(list(answer)).strip() == item.answer.strip())
    return found


def figures(right: Sequence[bool], items: Sequence[EvalItem]) -> dict[str, Any]:
    """Exact match of all and by task; intervals are 95 %."""
    low, high = wilson(sum(right), len(right))
    tasks: dict[str, list[bool]] = defaultdict(list)
    for one, item in zip(right, items, strict=True):
        tasks[item.task].append(one)
    return {
        "n": len(right), "right": sum(right), "exact": sum(right) / len(right), "low": low, "high": high,
        "tasks": {task: sum(found) / len(found) for task, found in tasks.items()},
    }  # fmt: skip


def tokens(folder: Path) -> int:
    """What a checkpoint's logs say that it was trained on, all stages together."""
    logs = sorted((folder / "training").glob("**/log.jsonl"))
    return sum(json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["tokens"] for log in logs)


def measure(causal: Path, adapted: Path, scratch: Path, items: Sequence[EvalItem]) -> dict[str, Any]:
    """Model → tokens and figures of its decoders."""
    sampler = checkpoint.read_config(scratch)[1]
    rows: dict[str, Any] = {}
    kept: dict[str, list[bool]] = {}
    for name, folder, decoders in (
        ("causal", causal, ("autoregressive",)),
        ("adapted", adapted, ("diffusion", "autoregressive")),
        ("scratch", scratch, ("diffusion", "autoregressive")),
    ):
        loaded = replace(checkpoint.load(folder), sampler=sampler)
        rows[name] = {"tokens": tokens(folder)}
        for decoder in decoders:
            right = rights(loaded, items, decoder, f"{name}, {decoder}")
            rows[name][decoder] = figures(right, items)
            if decoder == "diffusion":
                kept[name] = right
    gap = paired_difference(kept["adapted"], kept["scratch"])
    rows["difference"] = dict(zip(("value", "low", "high"), gap, strict=True))
    return rows


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="adapt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("causal", type=Path)
    parser.add_argument("adapted", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--per-task", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    items = read_items(TASKS, options.per_task)
    found = measure(options.causal, options.adapted, options.scratch, items)
    result = {"benchmark": "adapt", "seed": SEED, "prompts": len(items), "models": found, "machine": machine.facts()}
    if options.out:
        report.write_json(options.out, result)
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    report.main(run)
