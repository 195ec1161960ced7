"""The checkpoint's vocabulary: that of tiny with the grammar's words, each one token, in the place of tiny's.

python -m dgemma.train.story.vocabulary OUT/tokenizer.model
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

from dgemma.train.story.data import conversation
from dgemma.train.tiny import vocabulary

_SAMPLES = 5000  # conversations; the rarest word is in every fiftieth


def grammar_words() -> list[str]:
    """Every word with the space before it, or without one where it begins a text; and what the template says."""
    rng, found = random.Random(0), {"user", "model"}
    for _ in range(_SAMPLES):
        for message in conversation(rng):
            found.update(word.replace(" ", "▁") for word in re.findall(r" [A-Za-z]+|[A-Za-z]{2,}", message["content"]))
    return sorted(found)


def build(path: Path) -> None:
    vocabulary.build(path, grammar_words())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
