"""Writes trajectories.json: whole generations of the tiny checkpoint in float32, from eager PyTorch.

    python tests/vectors/make_trajectories.py

Unlike the other vectors these need the package and torch; what they hold any language can read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dgemma.core.compute_policy import DRAFT_EARLY_COMMIT, EARLY_COMMIT, NARROWEST, ComputePolicy
from dgemma.model import checkpoint
from dgemma.model.generate import Generation, generate
from dgemma.train.tiny.vocabulary import prompt_ids

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    ("Reverse the word extraordinary.", 5),
    ("Write 4271 in words.", 2),
    ("Make a sentence: name Anna, item lamp, colour red, city Oslo.", 3),
    ("Invite each of Anna Ben Carla to the party in the garden on Monday at 5.", 2**63 + 4),
]
WORK_PROMPTS = [PROMPTS[0], ("Write 98765 in words.", 6), PROMPTS[3]]
POLICIES = [
    ComputePolicy(early_commit=0.003),
    ComputePolicy(early_commit=EARLY_COMMIT, start_width="auto"),
    ComputePolicy(early_commit=EARLY_COMMIT, start_width="auto", recheck=True),
    ComputePolicy(early_commit=DRAFT_EARLY_COMMIT, start_width="auto", speculate=True),
]
MAX_NEW_TOKENS = 192


def work(compute: ComputePolicy) -> dict[str, Any]:
    """A policy under the names that readers in other languages know."""
    return {
        "settle": compute.early_commit,
        "canvas": compute.start_width,
        "repair": compute.recheck,
        "speculate": compute.speculate,
    }


def entry(done: Generation, compute: ComputePolicy | None) -> dict[str, Any]:
    """JSON values of one generation; float32 in as few digits as tell it apart."""
    t = done.trajectory
    return {
        "work": compute and work(compute),
        "stop_reason": done.stop_reason,
        "canvases": done.canvases,
        "passes": done.position_forwards,
        "tokens": t.tokens.tolist(),
        "canvas_index": t.canvas_index.tolist(),
        "step": t.step.tolist(),
        "temperature": [float(x) for x in t.temperature],
        "canvas_in": t.canvas_in.tolist(),
        "argmax": t.argmax.tolist(),
        "entropy": [[float(f"{x:.9g}") for x in row] for row in t.entropy],
        "accepted": t.accepted.astype(int).tolist(),
        "canvas_out": t.canvas_out.tolist(),
    }


def main() -> None:
    import sentencepiece

    torch.set_num_threads(1)
    loaded = checkpoint.load(ROOT / "checkpoints" / "tiny")
    sp = sentencepiece.SentencePieceProcessor(model_file=str(ROOT / "checkpoints" / "tiny" / "tokenizer.model"))

    def run(text: str, seed: int, compute: ComputePolicy | None) -> dict[str, Any]:
        ids = prompt_ids(sp, text)
        done = generate(loaded.model, loaded.sampler, ids, seed=seed, max_new_tokens=MAX_NEW_TOKENS, compute=compute)
        asked = {"prompt": text, "prompt_ids": ids, "seed": str(seed), "text": sp.decode(list(done.tokens))}
        return asked | entry(done, compute)

    head = {
        "checkpoint": "checkpoints/tiny",
        "command": "python tests/vectors/make_trajectories.py",
        "torch": torch.__version__,
        "max_new_tokens": MAX_NEW_TOKENS,
        "vocab_size": loaded.config.vocab_size,
        "canvas_length": loaded.config.canvas_length,
        "eos_token_ids": list(loaded.config.eos_token_ids),
        "sampler": loaded.sampler.to_dict(),
        "work_defaults": {"settle": EARLY_COMMIT, "draft_settle": DRAFT_EARLY_COMMIT, "narrowest": NARROWEST},
    }
    lists = {
        "runs": [run(text, seed, None) for text, seed in PROMPTS],
        "work_runs": [run(text, seed, compute) for text, seed in WORK_PROMPTS for compute in POLICIES],
    }
    lines = {name: ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs) for name, runs in lists.items()}
    text = json.dumps(head, indent=1)[:-2] + "".join(f',\n "{name}": [\n{runs}\n]' for name, runs in lines.items()) + "}\n"
    (Path(__file__).parent / "trajectories.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
