"""What diffusion and autoregressive decoding would give on phones' and laptops' NPUs, from published figures.

    python -m dgemma.benchmarks.studies.npu_forecast --out FILE.json

Nothing is measured: it is `dgemma plan` for every shipped device that has an NPU. Beside FILE.json it draws FILE-MODEL.png for
each model: tokens per second over steps a canvas, one line a processor, autoregressive decoding as level lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.plan import npu, plot, profile
from dgemma.benchmarks.plan.predict import Prediction, Weights, Work, choose, predict
from dgemma.core.config import PRESETS, ModelConfig
from dgemma.core.engines import ENGINES
from dgemma.quantize.recipes import file_bytes, find

MODELS = ("2b", "26b-a4b")
RECIPE = "w4-mixed"
PROMPT, OUTPUT, CANVAS, SOFT = 128, 512, 256, "topk:16"
Planned = tuple[str, Work, list[Prediction], npu.Forecast]


def devices() -> list[str]:
    """Names of shipped profiles with an NPU: phones first, older ones first."""
    with_npu = [name for name in profile.names() if profile.shipped(name).npu]
    return sorted(with_npu, key=lambda name: (not name.startswith("phone"), profile.shipped(name).bytes_per_s))


def weights(config: ModelConfig) -> Weights:
    """The recipe, applied to a model."""
    recipe = find(RECIPE)
    return Weights(
        recipe=RECIPE,
        bits={str(name): bits for name, bits in recipe.bits.items() if bits < 32},
        disk_bytes={engine: file_bytes(recipe, engine, config) for engine in ENGINES},
    )


def plan(model: str) -> list[Planned]:
    """Device by device: its title, what is planned for, predictions of both engines, the forecast for its NPU."""
    config = PRESETS[model]
    weighed = weights(config)
    work = Work(config=config, canvas=CANVAS, prompt=PROMPT, output=OUTPUT, soft="gathered")
    planned = []
    for name in devices():
        device = profile.shipped(name)
        if forecast := npu.forecast(device, [weighed], [work]):
            found = [predict(device, engine, weighed, work) for engine in ENGINES]
            planned.append((device.name, work, found, forecast))
    return planned


def figures() -> dict[str, Any]:
    """JSON types: model → a record for each device, with the better engine of its processor, and its NPU."""
    models = {}
    for model in MODELS:
        models[model] = [
            {
                "device": name,
                "cpu": (choose(found) or min(found, key=lambda p: p.resident)).to_dict(),
                "npu": {"name": forecast.npu.name, **forecast.to_dict(work)["predictions"][0]},
            }
            for name, work, found, forecast in plan(model)
        ]
    few, many = Work(config=PRESETS["2b"], canvas=CANVAS).steps
    asked = {"recipe": RECIPE, "prompt": PROMPT, "output": OUTPUT, "canvas": CANVAS, "soft": SOFT}
    return {**asked, "steps": [few, many], "models": models}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.npu_forecast", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    out = parser.parse_args(argv).out
    report.check_out(out)
    report.write_json(out, {"benchmark": "npu-forecast", **figures()})
    for model in MODELS:
        title = f"{model}, {RECIPE}: forecast from published figures, nothing measured on an NPU"
        plot.draw_processors(out.with_name(f"{out.stem}-{model}.png"), title, plan(model))
    return 0


if __name__ == "__main__":
    report.main(main)
