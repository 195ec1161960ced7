"""What quantization does to a model that needs many steps: stories of bundles beside those of the float checkpoint.

    python -m dgemma.benchmarks.studies.story_quantized CKPT BUNDLE [BUNDLE …] --out FILE

The same prompts with the same noise. The float model runs in eager PyTorch, a bundle in the runtime's host loop. Where answers
are open, a valid story stands for a right answer, and the gate's limits for a recipe are applied to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.studies import story
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.core import machine
from dgemma.core.metrics import paired_difference, ratio_of_sums
from dgemma.core.progress import progress
from dgemma.model import checkpoint
from dgemma.runtime.session import Session
from dgemma.train.story.grammar import Request
from dgemma.verify.gate import Check, limits_of

_AT_ONCE = 50


@dataclass(frozen=True)
class Told:
    """A story and the denoising steps that it took."""

    text: str
    steps: int


def by_float(folder: Path, asked: Sequence[Request]) -> list[Told]:
    """The checkpoint's own stories; request i has seed i."""
    loaded, text = checkpoint.load(folder), story.Text(folder)
    ask, prompts = story.diffusion(loaded.model.requires_grad_(False).eval(), loaded.sampler), story.stories(text, asked)
    found = list[Told]()
    for at in progress(range(0, len(asked), _AT_ONCE), folder.name):
        seeds = range(at, min(at + _AT_ONCE, len(asked)))
        answers = ask(prompts[at : at + _AT_ONCE], seeds)
        found += [Told(text.decode(one.tokens), sum(canvas.steps for canvas in one.canvases)) for one in answers]
    return found


def by_bundle(session: Session, asked: Sequence[Request]) -> list[Told]:
    """A bundle's stories for the same requests and seeds."""
    most = story.MOST_CANVASES * session.manifest.canvas_length
    found = list[Told]()
    for seed, request in enumerate(progress(asked, f"{session.bundle.path.name} on {session.engine}")):
        answer = session.generate(request.prompt, seed=seed, max_new_tokens=most)
        session.reset()
        found.append(Told(answer.text, answer.steps))
    return found


def valid(told: Sequence[Told], asked: Sequence[Request]) -> list[bool]:
    return [story.Verdict.of(one.text, request).rule is None for one, request in zip(told, asked, strict=True)]


def compared(recipe: str, there: Sequence[Told], here: Sequence[Told], asked: Sequence[Request]) -> dict[str, Any]:
    """A bundle's stories (`here`) against the float model's, judged by the recipe's limits."""
    limits = limits_of(recipe)
    before, after = valid(there, asked), valid(here, asked)
    lost, low, high = paired_difference(before, after)
    inflation = ratio_of_sums([one.steps for one in here], [one.steps for one in there])
    checks = (
        Check(name="valid stories below float, in points", value=100 * lost, limit=limits.exact_match_loss),
        Check(name="step inflation", value=inflation[0], limit=limits.step_inflation),
    )
    return {
        "n": len(asked),
        "valid": {"float": story.share(sum(before), len(asked)), "bundle": story.share(sum(after), len(asked))},
        "lost": {"value": lost, "low": low, "high": high},
        "step_inflation": dict(zip(("value", "low", "high"), inflation, strict=True)),
        "same_text": sum(a.text == b.text for a, b in zip(there, here, strict=True)) / len(asked),
        "spread": {"float": story.spread([one.text for one in there]), "bundle": story.spread([one.text for one in here])},
        "limits": asdict(limits),
        "passed": all(check.passed for check in checks),
    }  # fmt: skip


def measured(bundle: Path, engine: str, threads: int, there: Sequence[Told], asked: Sequence[Request]) -> dict[str, Any]:
    with Session.load(bundle, engine=engine, threads=threads) as session:
        recipe = str(session.manifest.quantization["recipe"])
        return {
            "bundle": bundle_facts(session.bundle), "engine": engine,
            **compared(recipe, there, by_bundle(session, asked), asked),
        }  # fmt: skip


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.story_quantized", description="Stories of quantized bundles."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    torch.set_num_threads(options.threads)
    asked = story.requests(options.count)
    there = by_float(options.checkpoint, asked)
    bundles = [
        measured(path, engine, options.threads, there, asked)
        for path in options.bundles
        for engine in ("onnx", "executorch")
        if (path / engine).is_dir()
    ]
    result = {
        "benchmark": "story-quantized",
        "machine": machine.facts(),
        "options": {name: getattr(options, name) for name in ("count", "threads")},
        "checkpoint": {"name": options.checkpoint.name, "files": checkpoint.load(options.checkpoint).files()},
        "bundles": bundles,
    }
    if options.out:
        report.write_json(options.out, result)
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    report.main(run)
