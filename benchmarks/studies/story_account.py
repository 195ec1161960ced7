"""What the steps that `story` takes would mean at full size: `dgemma plan` for them, on every shipped device.

    python -m dgemma.benchmarks.studies.story_account --out FILE.json

Nothing is measured here. Steps a canvas are those of story.json: of the teacher at its best T, and of the distilled checkpoint
at its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.plan import npu, profile
from dgemma.benchmarks.plan.predict import Prediction, Work, choose, predict
from dgemma.benchmarks.studies import story_table
from dgemma.benchmarks.studies.npu_forecast import CANVAS, MODELS, OUTPUT, PROMPT, RECIPE, SOFT, weights
from dgemma.benchmarks.studies.tables import read
from dgemma.core.config import PRESETS
from dgemma.core.engines import ENGINES


def steps() -> tuple[float, float]:
    """Steps a canvas of the distilled checkpoint at its own T, and of its teacher at its best."""
    teacher, student = read(story_table.NAME)["checkpoints"].values()
    own = student["by_steps"][str(student["sampler"]["steps"])]
    return own["steps_per_canvas"], teacher["by_steps"][story_table.best_steps(teacher)]["steps_per_canvas"]


def rows(model: str, few_many: tuple[float, float]) -> list[dict[str, Any]]:
    """A record for each processor on which the model fits: a device's own with its better engine, and its NPU."""
    config = PRESETS[model]
    weighed = weights(config)
    work = Work(config=config, canvas=CANVAS, prompt=PROMPT, output=OUTPUT, soft="gathered", steps=few_many)
    found: list[tuple[str, Prediction]] = []
    for name in profile.names():
        device = profile.shipped(name)
        if best := choose([predict(device, engine, weighed, work) for engine in ENGINES]):
            found.append((f"{device.name}: CPU, {best.engine}", best))
        if (forecast := npu.forecast(device, [weighed], [work])) and forecast.chosen:
            found.append((forecast.npu.name, forecast.chosen))
    return [{"processor": name, **one.to_dict()} for name, one in sorted(found, key=lambda pair: pair[1].step)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.story_account", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    out = parser.parse_args(argv).out
    report.check_out(out)
    few_many = steps()
    asked = {"recipe": RECIPE, "prompt": PROMPT, "output": OUTPUT, "canvas": CANVAS, "soft": SOFT, "steps": list(few_many)}
    models = {model: rows(model, few_many) for model in MODELS}
    report.write_json(out, {"benchmark": "story-account", **asked, "models": models})
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    report.main(main)
