"""Writes trajectories.json: whole generations of the tiny checkpoint in float32, from eager PyTorch.

    python tests/vectors/make_trajectories.py

Unlike the other vectors these need the package and torch; what they hold any language can read.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from dgemma.model import checkpoint
from dgemma.model.generate import generate
from dgemma.model.tiny.sweep import prompt_ids

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [
    ("Reverse the word lamp.", 1),
    ("Write 4271 in words.", 2),
    ("Make a sentence: name Anna, item lamp, colour red, city Oslo.", 3),
    ("Invite each of Anna Ben Carla to the party in the garden on Monday at 5.", 2**63 + 4),
]
MAX_NEW_TOKENS = 192


def main() -> None:
    import sentencepiece

    torch.set_num_threads(1)
    loaded = checkpoint.load(ROOT / "checkpoints" / "tiny")
    sp = sentencepiece.SentencePieceProcessor(model_file=str(ROOT / "checkpoints" / "tiny" / "tokenizer.model"))
    runs = []
    for text, seed in PROMPTS:
        done = generate(loaded.model, loaded.sampler, prompt_ids(sp, text), seed=seed, max_new_tokens=MAX_NEW_TOKENS)
        t = done.trajectory
        runs.append(
            {
                "prompt": text, "prompt_ids": t.prompt_ids.tolist(), "seed": str(seed), "stop_reason": done.stop_reason,
                "tokens": t.tokens.tolist(), "text": sp.decode(t.tokens.tolist()), "canvas_index": t.canvas_index.tolist(),
                "step": t.step.tolist(), "temperature": [float(x) for x in t.temperature], "canvas_in": t.canvas_in.tolist(),
                "argmax": t.argmax.tolist(), "entropy": [[float(f"{x:.9g}") for x in row] for row in t.entropy],
                "accepted": t.accepted.astype(int).tolist(), "canvas_out": t.canvas_out.tolist(),
            }
        )  # fmt: skip
    head = {
        "checkpoint": "checkpoints/tiny", "command": "python tests/vectors/make_trajectories.py", "torch": torch.__version__,
        "max_new_tokens": MAX_NEW_TOKENS, "vocab_size": loaded.config.vocab_size, "canvas_length": loaded.config.canvas_length,
        "eos_token_ids": list(loaded.config.eos_token_ids), "sampler": loaded.sampler.to_dict(),
    }  # fmt: skip
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
    text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + lines + "\n]}\n"
    (Path(__file__).parent / "trajectories.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
