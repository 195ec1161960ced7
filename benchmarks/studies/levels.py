"""What learned noise levels change: a small model trained on tiny's exercises with uniform and with learned ones, same seeds.

    python -m dgemma.benchmarks.studies.levels [--steps K] [--seeds S] [--out FILE]

Every row draws its level (no share of pure noise), and both kinds are measured with the same uniform levels on the same
held-out exercises. Nothing here measures time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import sentencepiece
import torch

from dgemma.benchmarks import report
from dgemma.core import machine
from dgemma.core.messages import Message
from dgemma.train import records
from dgemma.train.config import parse
from dgemma.train.data import Exchange, Speak
from dgemma.train.runs import TRAINING
from dgemma.train.tiny.vocabulary import END_OF_TURN, prompt_ids
from dgemma.train.training import training

CHECKPOINT = Path("checkpoints/tiny")
SHAPE = {
    "hidden_size": 64, "intermediate_size": 256, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
    "global_num_kv_heads": 1, "global_head_dim": 32, "sliding_window": 256, "canvas_length": 64,
    "max_position_embeddings": 1024, "eos_token_ids": [1, 5],
}  # fmt: skip
KINDS = ("uniform", "learned")


def speaking(folder: Path) -> Speak:
    """tiny's single turns as ids, without its template."""
    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    end = int(sp.piece_to_id(END_OF_TURN))

    def speak(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Exchange]:
        question, answer = (str(message.content) for message in messages)
        return [(prompt_ids(sp, question), [*sp.encode(answer), end])]

    return speak


def trained(kind: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Held-out losses by step, and how much the loss of the last third's steps scatters."""
    config = parse(
        {
            "model": {"tokenizer": str(CHECKPOINT), **SHAPE},
            "data": {"tasks": "tiny"},
            "objective": {"levels": kind, "pure_noise_share": 0.0},
            "optimizer": {"warmup_steps": 20, "decay_from": 0.4},
            "run": {"steps": steps, "batch": 16, "seed": seed, "evaluate_every": max(1, steps // 2)},
        },
        Path(),
    )
    speak = speaking(CHECKPOINT)
    vocab = sentencepiece.SentencePieceProcessor(model_file=str(CHECKPOINT / "tokenizer.model")).vocab_size()
    training(config, config.model.config(vocab), CHECKPOINT, folder, speak).run()
    lines = records.read(folder / TRAINING)
    last = [line["diffusion"] for line in lines[-(steps // 3) :]]
    return {
        "held_out": {str(line["step"]): line["held_out"] for line in lines if "held_out" in line},
        "tokens": lines[-1]["tokens"],
        "step_loss_deviation": stdev(last) if len(last) > 1 else 0.0,
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="levels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as work:
        for seed in range(options.seeds):
            for kind in KINDS:
                found[kind].append(trained(kind, seed, options.steps, Path(work) / f"{kind}-{seed}"))
                print(f"{kind}, seed {seed}: {found[kind][-1]}", file=sys.stderr)
    result = {
        "benchmark": "levels", "steps": options.steps, "shape": SHAPE, "runs": found,
        "last": {kind: mean(run["held_out"][str(options.steps)] for run in runs) for kind, runs in found.items()},
        "machine": machine.facts(),
    }  # fmt: skip
    if options.out:
        report.write_json(options.out, result)
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    report.main(run)
