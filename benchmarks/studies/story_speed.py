"""How fast bundles of `story` tell long stories: diffusion beside greedy decoding of the same bundle, in turns.

python -m dgemma.benchmarks.studies.story_speed BUNDLE [BUNDLE …] --out FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.stats import quartiles
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.benchmarks.studies.story import Verdict
from dgemma.core import machine
from dgemma.core.progress import progress
from dgemma.runtime.session import Session
from dgemma.train.story.grammar import MOST_LEGS, Request

LONG = Request(legs=MOST_LEGS)  # 103 words: three canvases and a part of a fourth
MOST_TOKENS = 128


def measured(path: Path, count: int, engine: str, threads: int) -> dict[str, Any]:
    """Tokens a second of both ways, each over the same prompt; every pair of runs is one after the other."""
    rates: dict[str, list[float]] = {"diffusion": [], "autoregressive": []}
    steps = canvases = valid = tokens = 0
    with Session.load(path, engine=engine, threads=threads) as session:
        for seed in progress(range(-2, count), path.name):  # the first two warm up
            begun = perf_counter()
            told = session.generate(LONG.prompt, seed=abs(seed), max_new_tokens=MOST_TOKENS)
            between = perf_counter()
            greedy = session.decode_greedy(LONG.prompt, max_new_tokens=MOST_TOKENS)
            ended = perf_counter()
            session.reset()
            if seed < 0:
                continue
            rates["diffusion"].append(len(told.tokens) / (between - begun))
            rates["autoregressive"].append(len(greedy.tokens) / (ended - between))
            steps, canvases, tokens = steps + told.steps, canvases + told.canvases, tokens + len(told.tokens)
            valid += Verdict.of(told.text, LONG).rule is None
        facts = bundle_facts(session.bundle)
    ratios = [a / b for a, b in zip(rates["diffusion"], rates["autoregressive"], strict=True)]
    return {
        "bundle": facts,
        "n": count,
        "valid": valid / count,
        "steps_per_canvas": steps / canvases,
        "filled": tokens / (canvases * facts["canvas"]),
        **{name: vars(quartiles(values)) for name, values in {**rates, "ratio": ratios}.items()},
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.studies.story_speed", description="Speed of stories.")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    result = {
        "benchmark": "story-speed",
        "machine": machine.facts(),
        "options": {name: getattr(options, name) for name in ("count", "engine", "threads")},
        "bundles": {one.name: measured(one, options.count, options.engine, options.threads) for one in options.bundles},
    }
    if options.out:
        report.write_json(options.out, result)
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    report.main(run)
