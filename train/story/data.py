"""Writes conversations of the grammar as JSON lines with messages.

python -m dgemma.train.story.data OUT.jsonl --count 20000 --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from dgemma.train.story.dialogue import MOST_TURNS, Messages, draw_dialogue, draw_story

HELD_OUT_SEED = 1_000_000  # and above; training takes smaller ones
STORIES, QUESTIONED = 0.7, 0.1  # shares of conversations: a story alone, a story with questions; the rest are dialogues


def conversation(rng: random.Random) -> Messages:
    """One of the mixture that the checkpoint is trained on; long dialogues are rarer, for each of their turns counts."""
    kind = rng.random()
    if kind < STORIES + QUESTIONED:
        return draw_story(rng, questions=0 if kind < STORIES else rng.randint(1, 2))
    return draw_dialogue(rng, min(rng.randint(1, MOST_TURNS), rng.randint(2, MOST_TURNS)))


def lines(count: int, seed: int) -> str:
    """One JSON object a line; the same for the same seed."""
    rng = random.Random(seed)
    return "".join(json.dumps({"messages": conversation(rng)}) + "\n" for _ in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.train.story.data", description="Write conversations of the grammar."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help=f"{HELD_OUT_SEED} and above are held out")
    options = parser.parse_args()
    options.out.write_text(lines(options.count, options.seed), encoding="utf-8")


if __name__ == "__main__":
    main()
