"""What options of the sampler cost a denoising step: one canvas with each in turn, in every round, relative to one without.

    python -m dgemma.benchmarks.studies.option_cost BUNDLE [--rounds R] [--steps S] [--threads N] [--out FILE]

Random weights do: nothing here depends on what the model says.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.studies.arguments import write_out
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.core import machine
from dgemma.core.progress import progress
from dgemma.runtime.session import Session

PLAIN, PROMPT = "no option", 256  # tokens; as many of the negative prompt
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "again without": {},
    "top-k 8": {"top_k": 8},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
    "top-k, top-p, min-p, a ban, a bias": {"top_k": 8, "top_p": 0.9, "min_p": 0.05, "ban": [40], "logit_bias": {41: 1.0}},
    "temperature, entropy bound, cosine": {"temperature": (0.9, 0.3), "entropy_bound": 0.05, "schedule": "cosine"},
    "log-probabilities": {"logprobs": 5},
    "guidance": {"guidance": 2.0},
}


def prompts(vocab: int) -> tuple[list[int], list[int]]:
    """A prompt and a negative one, of random ids."""
    ids = np.random.default_rng(0).integers(50, vocab, (2, PROMPT)).tolist()
    return ids[0], ids[1]


def seconds_a_step(session: Session, steps: int, options: dict[str, Any]) -> float:
    """Of one canvas that runs all its steps."""
    prompt, negative = prompts(session.manifest.model.vocab_size)
    more = {**options, "negative": negative} if "guidance" in options else options
    n = session.manifest.canvas_length
    result = session.generate(prompt, seed=0, max_new_tokens=n, max_steps=steps, adaptive=False, raw=True, **more)
    return result.timings.denoise_s / result.steps


def measure(session: Session, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Option → median seconds a step, and the median and quartiles of its ratio to none in the same round.

    The first round is left out: it loads graphs. Every round begins with another option.
    """
    names = list(OPTIONS)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in progress(range(rounds + 1), "rounds"):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = seconds_a_step(session, steps, OPTIONS[name])
            if number:
                found[name].append(seconds)
    plain = np.array(found[PLAIN])
    rows = {}
    for name, values in found.items():
        low, middle, high = np.quantile(np.array(values) / plain, (0.25, 0.5, 0.75))
        rows[name] = {"s_a_step": float(np.median(values)), "ratio": float(middle), "low": float(low), "high": float(high)}
    return rows


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="option_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        rows = measure(session, options.rounds, options.steps)
        facts = bundle_facts(session.bundle)
    result = {
        "benchmark": "option cost",
        "machine": machine.facts(),
        "bundle": facts,
        "options": {name: getattr(options, name) for name in ("engine", "threads", "rounds", "steps")},
        "prompt_tokens": PROMPT,
        "costs": rows,
    }
    body = [(name, f"{1e3 * one['s_a_step']:.1f}", f"{one['ratio']:.3f}") for name, one in rows.items()]
    report.table("Cost of options", ("option", "ms a step", "ratio"), body)
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
