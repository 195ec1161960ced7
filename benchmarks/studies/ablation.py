"""What each recipe and each method costs and buys on the tiny model: answers, steps, and distributions, with intervals.

Bad recipes are in the table too. Weights are fake-quantized (`fake_quant.py`) with the integers and activation rule of engines.

python -m dgemma.benchmarks.studies.ablation --out benchmarks/results/tiny-quantize-ablation.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dgemma.core import machine, prompts
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.model import checkpoint
from dgemma.quantize import calibration
from dgemma.quantize.baseline import FloatBaseline, ScoredPrompt
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.recipes import CLASSES, Method, Recipe, find
from dgemma.quantize.report import bits_per_weight
from dgemma.quantize.rounding import LEVELS_4
from dgemma.train.tiny import calibration as tiny_calibration
from dgemma.train.tiny import tasks

Calibration = str  # "", "clean" or "trajectories"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    recipe: str
    method: Method
    calibration: Calibration = ""
    rotation: int = 0
    group: int = 128
    levels: tuple[int, int] = LEVELS_4  # of the 4-bit matrices
    table: Method | None = None  # method of the embedding, where it differs

    @property
    def name(self) -> str:
        parts = [f"{self.method} on {self.calibration}" if self.calibration else self.method]
        parts += ["rotated"] * bool(self.rotation) + [f"groups of {self.group}"] * (self.group != 128)
        parts += [f"embedding {self.table}"] * (self.table is not None)
        parts += [f"integers {self.levels[0]} … {self.levels[1]}"] * (self.levels != LEVELS_4)
        return ", ".join(parts)

    def made(self) -> Recipe:
        methods = {**dict.fromkeys(CLASSES, self.method), "embedding": self.table or self.method}
        return replace(find(self.recipe), methods=methods, rotation=self.rotation, group=self.group)


def variants() -> Iterator[Variant]:
    """All rows, good recipes first; integers of −4 … 3 stand for 3 bits."""
    yield Variant(recipe="w8", method="nearest")
    yield Variant(recipe="w8", method="searched")
    yield Variant(recipe="w8", method="searched", rotation=128)
    yield Variant(recipe="w8", method="gptq", calibration="trajectories")
    for recipe in ("w4-mixed", "w4", "w4-all"):
        for rotation in (0, 128):
            yield Variant(recipe=recipe, method="nearest", rotation=rotation)
            yield Variant(recipe=recipe, method="searched", rotation=rotation)
            yield Variant(recipe=recipe, method="gptq", calibration="clean", rotation=rotation)
            yield Variant(recipe=recipe, method="gptq", calibration="trajectories", rotation=rotation)
    for rotation in (0, 128):
        yield Variant(recipe="w4-all", method="gptq", calibration="trajectories", rotation=rotation, table="searched")
    yield Variant(recipe="w4", method="nearest", group=32)
    yield Variant(recipe="w4", method="searched", group=32)
    three: dict[str, Any] = {"recipe": "w4", "levels": (-4, 3)}
    yield Variant(**three, method="nearest")
    for rotation in (0, 128):
        yield Variant(**three, method="searched", rotation=rotation)
        yield Variant(**three, method="gptq", calibration="clean", rotation=rotation)
        yield Variant(**three, method="gptq", calibration="trajectories", rotation=rotation)
    yield Variant(recipe="w4-all", method="nearest", levels=(-4, 3))


def held_out_items(folder: Path, path: Path, per_task: int) -> list[ScoredPrompt]:
    """The first prompts of every task of the evaluation set, with exact match on text."""
    import sentencepiece

    from dgemma.train.tiny.vocabulary import prompt_ids

    sp: Any = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def scored(prompt: prompts.TaskPrompt) -> ScoredPrompt:
        ids = prompt_ids(sp, str(prompt.prompt))
        return ScoredPrompt(prompt_ids=ids, is_right=lambda tokens: sp.decode(list(tokens)) == prompt.answer)

    by_task = prompts.by_task(prompts.read(path))
    return [scored(prompt) for task in tasks.TASKS for prompt in by_task.get(task, ())[:per_task]]


def held_out_baseline(
    loaded: checkpoint.Checkpoint, folder: Path, path: Path, per_task: int, forced_every: int
) -> FloatBaseline:
    """The float model's answers to `held_out_items`, which quantized ones are compared with."""
    items = held_out_items(folder, path, per_task)
    return FloatBaseline(loaded.model, loaded.sampler, items, seed=0, max_new_tokens=MAX_NEW_TOKENS, forced_every=forced_every)


def run(folder: Path, held_out: Path, per_task: int, forced_every: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole table as JSON types."""
    loaded = checkpoint.load(folder)
    examples = tiny_calibration.examples(folder, tiny_calibration.PER_TASK, tiny_calibration.SEED)
    start = time.perf_counter()
    hessians = {"trajectories": calibration.hessians(loaded.model, loaded.sampler, [prompt for prompt, _ in examples])}
    seconds = time.perf_counter() - start
    hessians["clean"] = calibration.clean_hessians(loaded.model, examples)
    baseline = held_out_baseline(loaded, folder, held_out, per_task, forced_every)
    say(f"float: {baseline.float_figures()}")
    rows = []
    for variant in variants():
        start = time.perf_counter()
        matrices = quantize(loaded.model, variant.made(), hessians.get(variant.calibration), levels=variant.levels)
        took = time.perf_counter() - start
        figures = baseline.figures(fake_quantize(loaded.model, matrices))
        rows.append(
            {
                "recipe": variant.recipe,
                "method": variant.name,
                "bits_per_weight": bits_per_weight(loaded.model, matrices),
                "quantize_seconds": round(took, 2),
                **figures,
            }
        )
        say(line(rows[-1]))
    return {
        "benchmark": "quantize-ablation",
        "machine": machine.facts(),
        "checkpoint": {"files": loaded.files()},
        "settings": {
            "held_out": held_out.name,
            "per_task": per_task,
            "seed": 0,
            "max_new_tokens": MAX_NEW_TOKENS,
            "sampler": loaded.sampler.to_dict(),
            "calibration_prompts": len(examples),
            "calibration_seconds": round(seconds, 1),
        },
        "float": baseline.float_figures(),
        "rows": rows,
    }


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table."""

    def percent(value: dict[str, float], digits: int = 1) -> str:
        return f"{100 * value['value']:.{digits}f}"

    points, steps, kl = row["exact_match_difference"], row["step_inflation"], row["kl_mean"]
    return (
        f"| {row['recipe']} | {row['method']} | {row['bits_per_weight']:.2f} | {percent(row['exact_match'])} | "
        f"{100 * points['value']:+.1f} ({100 * points['low']:+.1f} … {100 * points['high']:+.1f}) | "
        f"{steps['value']:.3f} ({steps['low']:.3f} … {steps['high']:.3f}) | {percent(row['same_argmax'], 2)} | "
        f"{1000 * kl['value']:.2f} ({1000 * kl['low']:.2f} … {1000 * kl['high']:.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.ablation", description="Compare recipes and methods."
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny"))
    parser.add_argument("--held-out", type=Path, default=prompts.held_out())
    parser.add_argument("--per-task", type=int, default=36)
    parser.add_argument("--forced-every", type=int, default=6, help="teacher-force the canvases of every n-th prompt")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    found = run(options.checkpoint, options.held_out, options.per_task, options.forced_every, say)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
