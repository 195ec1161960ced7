"""Prompts of tiny's training distribution, which `quantize` calibrates by.

python -m dgemma.train.tiny.calibration checkpoints/tiny --out quantize/calibration_tiny.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece

from dgemma.train.tiny import tasks
from dgemma.train.tiny.vocabulary import END_OF_TURN, prompt_ids

PER_TASK, SEED = 12, 0  # of the committed prompts


def examples(folder: Path, per_task: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers as ids; no operand is one of the held-out ones."""
    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    rng = random.Random(seed)
    made = [tasks.make(task, rng, "train") for task in tasks.TASKS for _ in range(per_task)]
    end = int(sp.piece_to_id(END_OF_TURN))
    return [(prompt_ids(sp, example.prompt), [*sp.encode(example.answer), end]) for example in made]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.calibration", description="Write prompts.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=PER_TASK)
    options = parser.parse_args()
    lines = [json.dumps({"prompt_ids": ids}) for ids, _ in examples(options.checkpoint, options.per_task, SEED)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
