"""What quantized routers cost a trained mixture: tiny-moe with its routers alone at 8 and at 4 bits, in eager PyTorch.

Named recipes leave routers in float; this is the control, beside a recipe that rounds everything else. Weights are
fake-quantized (`fake_quant.py`), and the experts that differ from the float model's are counted along the float model's
trajectories.

python -m dgemma.benchmarks.studies.routers --out benchmarks/results/tiny-moe-routers.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.ablation import held_out_baseline
from dgemma.core import machine, prompts
from dgemma.core.generate_options import MAX_NEW_TOKENS
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.quantize.fake_quant import fake_quantize
from dgemma.quantize.integers import quantize
from dgemma.quantize.matrix import QuantizedMatrix
from dgemma.quantize.recipes import class_of, find
from dgemma.quantize.rounding import round_4, round_8
from dgemma.verify import teacher_forced
from dgemma.verify.torch_backend import TorchBackend

CASES = (("fp32", 8), ("fp32", 4), ("w4-mixed", 32))  # recipe of everything else, and bits of routers; recipes refuse 4
_GROUP = 32


def with_routers(model: Denoiser, recipe: str, bits: int) -> dict[str, QuantizedMatrix]:
    """The recipe's integers, and routers of so many bits."""
    chosen = find(recipe)
    found = quantize(model, replace(chosen, bits={**chosen.bits, "router": 32}))
    for name, weight in model.named_parameters():
        if bits < 32 and class_of(name) == "router":
            found[name] = round_8(weight, search=True) if bits == 8 else round_4(weight, _GROUP, search=True)
    return found


def other_experts(above: TorchBackend, below: TorchBackend, runs: Sequence[tuple[int, Any]]) -> dict[str, Any]:
    """Positions whose set of experts differs, all layers together, and their margins."""

    def quietly(items: Sequence[Any], label: str) -> Iterable[Any]:
        return items

    pair = (above.name, below.name)
    layers = teacher_forced.force([above, below], [pair], above, runs, quietly)[pair].routing
    found = {str(layer): routing.figures() for layer, routing in layers.items()}
    return {
        "rows": sum(layer["rows"] for layer in found.values()),
        "other": sum(layer["other"] for layer in found.values()),
        "largest_margin": max((layer["largest_margin"] for layer in found.values() if layer["other"]), default=None),
        "layers": found,
    }


def run(folder: Path, held_out: Path, per_task: int, forced_every: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The whole result as JSON types."""
    loaded = checkpoint.load(folder)
    model, sampler, canvas = loaded.model, loaded.sampler, loaded.model.config.canvas_length
    baseline = held_out_baseline(loaded, folder, held_out, per_task, forced_every)
    say(f"float: {baseline.float_figures()}")
    above = TorchBackend(model, sampler, canvas, "float")
    runs = [(0, above.trajectory(item.prompt_ids, 0, MAX_NEW_TOKENS)) for item in baseline.items[::forced_every]]
    rows = []
    for recipe, bits in CASES:
        made = fake_quantize(model, with_routers(model, recipe, bits))
        experts = other_experts(above, TorchBackend(made, sampler, canvas, "quantized"), runs)
        rows.append({"recipe": recipe, "router_bits": bits, **baseline.figures(made), "experts": experts})
        say(f"{recipe}, routers of {bits} bits: {rows[-1]}")
    return {
        "benchmark": "routers",
        "machine": machine.facts(),
        "checkpoint": {"files": loaded.files()},
        "settings": {
            "held_out": held_out.name,
            "per_task": per_task,
            "seed": 0,
            "max_new_tokens": MAX_NEW_TOKENS,
            "sampler": sampler.to_dict(),
            "forced_every": forced_every,
        },
        "float": baseline.float_figures(),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.routers", description="Quantized routers.")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/tiny-moe"))
    parser.add_argument("--held-out", type=Path, default=prompts.held_out())
    parser.add_argument("--per-task", type=int, default=6)
    parser.add_argument("--forced-every", type=int, default=6, help="teacher-force the canvases of every n-th prompt")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    torch.set_num_threads(1)
    found = run(
        options.checkpoint,
        options.held_out,
        options.per_task,
        options.forced_every,
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    report.write_json(options.out, found)
    return 0


if __name__ == "__main__":
    report.main(main)
