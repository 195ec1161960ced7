"""Writes options.json: generations of the tiny checkpoint under options, by the JAX reference in float32.

    python tests/vectors/make_option_vectors.py [FOLDER]

It needs the package with the extra `reference`; what the file holds any language can read. README.md describes the format.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax

from dgemma.core.manifest import read_manifest
from dgemma.core.shipped import bundle_path
from dgemma.core.trajectory import Trajectory
from dgemma.verify.jax_backend import JaxBackend
from dgemma.verify.steer import OF_CANDIDATES, PLAIN, drawn

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parents[1] / "checkpoints" / "tiny"
COUNT = len((*PLAIN, *OF_CANDIDATES)) + 9  # each option alone, then several at once


def prompts() -> list[list[int]]:
    """Those of trajectories.json."""
    return [run["prompt_ids"] for run in json.loads((HERE / "trajectories.json").read_text(encoding="utf-8"))["runs"]]


def entry(t: Trajectory) -> dict[str, Any]:
    """JSON values; each step's input is the canvas before it."""
    return {
        "tokens": t.tokens.tolist(),
        "step": t.step.tolist(),
        "temperature": [float(x) for x in t.temperature],
        "entropy_bound": None if t.entropy_bound is None else t.entropy_bound.tolist(),
        "argmax": t.argmax.tolist(),
        "entropy": [[float(f"{x:.6g}") for x in row] for row in t.entropy],
        "accepted": ["".join(str(int(x)) for x in row) for row in t.accepted],
        "canvas_out": t.canvas_out.tolist(),
    }


def main(folder: Path) -> None:
    manifest, _ = read_manifest(bundle_path("tiny"), check_files=False)
    backend, n = JaxBackend(CHECKPOINT, "float32", manifest), manifest.canvas_length
    asked = prompts()
    likely = [sorted(set(backend.trajectory(ids, 0, n).argmax.ravel().tolist())) for ids in asked]
    runs = []
    for number in range(COUNT):
        ids = asked[number % len(asked)]
        steer = drawn(number, manifest, likely[number % len(asked)])
        t = backend.steered(ids, number, n, steer)
        runs.append({"prompt_ids": ids, "seed": str(number), "options": steer.to_dict(), **entry(t)})
        print(f"{number + 1} of {COUNT}: {steer}", file=sys.stderr)
    model = manifest.model
    head = {
        "format": 1,
        "command": "python tests/vectors/make_option_vectors.py",
        "checkpoint": "checkpoints/tiny",
        "jax": jax.__version__,
        "max_new_tokens": n,
        "canvas_length": n,
        "vocab_size": model.vocab_size,
        "candidates": manifest.sampler.candidates(model.vocab_size),
        "pad_token_id": model.pad_token_id,
        "eos_token_ids": list(model.eos_token_ids),
        "sampler": manifest.sampler.to_dict(),
    }
    lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
    text = f'{json.dumps(head, indent=1)[:-2]},\n "runs": [\n{lines}\n]}}\n'
    (folder / "options.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
