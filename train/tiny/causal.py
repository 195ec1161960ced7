"""Writes the causal part of a checkpoint, as transformers' `Gemma4ForCausalLM` would: what `dgemma adapt` is tried on.

python -m dgemma.train.tiny.causal CHECKPOINT --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dgemma.model import causal, checkpoint
from dgemma.train.runs import copy_texts


def write(source: Path, out: Path) -> None:
    """Encoder and head, and what lies beside the weights; raises CheckpointError."""
    causal.save_causal(out, checkpoint.load(source).model)
    copy_texts(source, out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.train.tiny.causal", description="Write a causal checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write(options.checkpoint, options.out)


if __name__ == "__main__":
    main()
