"""A task that tiny was not trained on, made of two that it was: a word backwards, in capital letters.

    python -m dgemma.benchmarks.studies.finetune_task OUT.jsonl [--count K]

writes conversations for `dgemma finetune`. Words of the test part are tiny's held-out ones, which occur in no data of training.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.train.tiny.tasks import Source, Split

NAME = "capitals from the end"
EXAMPLES, SEEDS = 500, {"train": 0, "test": 1}


def examples(split: Split, count: int) -> list[EvalItem]:
    """So many different exercises of one part, always the same."""
    source = Source(random.Random(f"{NAME} {SEEDS[split]}"), split)
    found: dict[str, EvalItem] = {}
    while len(found) < count:
        word = source.word()
        prompt = source.say(
            f"Write {word} backwards in capital letters.",
            f"Reverse the word {word} and put it in upper case.",
            f"Capitals, please, from the end: {word}",
        )
        found.setdefault(prompt, EvalItem(task=NAME, prompt=prompt, answer=word[::-1].upper()))
    return list(found.values())


def write(path: Path, count: int = EXAMPLES) -> None:
    """Conversations of the training part."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}]})
        for one in examples("train", count)
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.finetune_task", description="Write exercises.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=EXAMPLES)
    options = parser.parse_args()
    write(options.out, options.count)


if __name__ == "__main__":
    main()
