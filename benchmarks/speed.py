"""Tokens per second: diffusion against autoregressive decoding of the same bundle, engine and threads, in one run.

    python -m dgemma.benchmarks.speed BUNDLE [--engine E] [--threads N] [--prompts K] [--repeats R] [--out FILE]

Answers that fill a canvas and short ones are two groups. Tokens are those up to, without, the stop token: no pads.
Each prompt is decoded by both in turn, in alternating order, each from an empty prefix. A rate is tokens over wall-clock
time of the whole call, prefill and tokenizing included; the decoding rate leaves prefill out. Host overhead is told from
runs of all T steps, where prefill weighs little: the share of a call outside the engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgemma.benchmarks import costs, machine, report, startup
from dgemma.benchmarks.evaluate import TASKS, Item, read_items
from dgemma.benchmarks.stats import Quartiles, quartiles
from dgemma.core.config import ModelConfig
from dgemma.core.manifest import read_manifest
from dgemma.core.progress import progress
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

GROUPS = {
    "fills it to the end": ("letter",),  # 62 of 64 tokens
    "fills a canvas": ("letter", "spell_list", "numbers_list", "upper_list"),  # 43 to 62
    "several canvases": ("invitations",),
    "short": ("reverse", "number_words", "upper", "template"),
}
DECODERS = ("diffusion", "autoregressive")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One decoded answer; seconds of the call (graphs were loaded by the warm-up) and its parts."""

    tokens: int
    steps: int
    right: bool
    seconds: float
    prefill_s: float
    denoise_s: float
    engine_s: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def decoding_rate(self) -> float:
        return self.tokens / (self.seconds - self.prefill_s)

    @property
    def step_ms(self) -> float:
        return 1e3 * self.denoise_s / self.steps

    @property
    def host_share(self) -> float:
        """Share of the call that is not spent inside the engine: loop, noise, caches, tokenizer."""
        return 1 - self.engine_s / self.seconds


def sample(item: Item, result: Result) -> Sample:
    t = result.timings
    return Sample(
        tokens=len(result.tokens), steps=result.steps, right=result.text.strip() == item.answer.strip(),
        seconds=t.total_s, prefill_s=t.prefill_s, denoise_s=t.denoise_s, engine_s=t.engine_s,
    )  # fmt: skip


Pair = dict[str, Sample]


def paired_runs(
    items: Sequence[Item], decoders: Mapping[str, Callable[[Item], Sample]], repeats: int, label: str
) -> list[Pair]:
    """Every item by every decoder, next to each other in time; the order alternates. One warm-up of each is dropped."""
    for decode in decoders.values():
        decode(items[0])
    pairs: list[Pair] = []
    for i, item in enumerate(progress([item for _ in range(repeats) for item in items], label)):
        order = list(decoders) if i % 2 == 0 else list(decoders)[::-1]
        done = {name: decoders[name](item) for name in order}
        if all(s.tokens and s.steps for s in done.values()):  # an empty answer has no rate
            pairs.append(done)
    return pairs


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Medians and quartiles by decoder; ratios pair by pair, and the ratio of all tokens over all time."""

    def spread(values: Iterable[float]) -> dict[str, Any]:
        return asdict(quartiles(list(values)))

    def total_rate(samples: Sequence[Sample]) -> float:
        return sum(s.tokens for s in samples) / sum(s.seconds for s in samples)

    sides = {name: [pair[name] for pair in pairs] for name in DECODERS}
    result: dict[str, Any] = {"pairs": len(pairs)}
    for name, samples in sides.items():
        result[name] = {
            "tokens_per_s": spread(s.rate for s in samples),
            "decoding_tokens_per_s": spread(s.decoding_rate for s in samples),
            "step_ms": spread(s.step_ms for s in samples),
            "host_share": spread(s.host_share for s in samples),
            "engine_share": sum(s.engine_s for s in samples) / sum(s.seconds for s in samples),
            "tokens": spread(s.tokens for s in samples),
            "tokens_per_forward": sum(s.tokens for s in samples) / sum(s.steps for s in samples),
            "exact": sum(s.right for s in samples) / len(samples),
        }
    both = list(zip(sides["diffusion"], sides["autoregressive"], strict=True))
    result["ratio"] = spread(d.rate / a.rate for d, a in both)
    result["decoding_ratio"] = spread(d.decoding_rate / a.decoding_rate for d, a in both)
    result["total_ratio"] = total_rate(sides["diffusion"]) / total_rate(sides["autoregressive"])
    return result


def cost_model(config: ModelConfig, canvas: int, prefix: int = 64) -> dict[str, Any]:
    """Print and return what a denoising step and an autoregressive token cost, and this machine's ceilings."""
    top = costs.ceilings(canvas, config.hidden_size, config.intermediate_size)
    calls = {"denoising step": costs.denoise(config, canvas, prefix), "autoregressive token": costs.decode(config, prefix)}
    print(f"Cost model, canvas {canvas}, prefix {prefix}, float32 weights; ceilings of this machine (numpy): ", end="")
    print(f"{top.operations_per_s / 1e9:.0f} GFLOP/s at {canvas} rows, {top.bytes_per_s / 1e9:.1f} GB/s copied")
    for name, cost in calls.items():
        ms = 1e3 * top.seconds(cost)
        print(f"  {name}: {cost.operations / 1e6:.1f} MFLOP, {cost.weight_bytes / 1e6:.1f} MB of weights, at least {ms:.3f} ms")
    step, token = (top.seconds(cost) for cost in calls.values())
    print(f"  so a step has to commit {step / token:.1f} tokens to be as fast as autoregressive decoding")
    return {"prefix": prefix, **asdict(top), "calls": {name: asdict(cost) for name, cost in calls.items()}}


def show(groups: dict[str, Any]) -> None:
    def q(values: dict[str, Any], digits: int = 0, scale: float = 1.0) -> str:
        v = Quartiles(**values)
        return f"{scale * v.median:.{digits}f} [{scale * v.q1:.{digits}f} … {scale * v.q3:.{digits}f}]"

    rows = []
    for group, values in groups.items():
        for name in DECODERS:
            d = values[name]
            rates = [q(d["tokens_per_s"]), q(d["decoding_tokens_per_s"]), q(d["step_ms"], 2)]
            counts = [f"{d['tokens_per_forward']:.1f}", f"{d['tokens']['median']:.0f}"]
            rows.append([f"{group}, {name}", *rates, *counts, f"{d['engine_share']:.1%}", f"{d['exact']:.0%}"])
    header = ["group, decoder", "tokens/s", "without prefill", "ms a step", "tokens/forward", "tokens", "in engine", "exact"]
    report.table("Speed, median [quartiles]", header, rows)
    for group, v in groups.items():
        print(
            f"{group}: diffusion is {q(v['ratio'], 2)} times as fast ({v['total_ratio']:.2f} over all tokens; "
            f"{q(v['decoding_ratio'], 2)} without prefill; {v['pairs']} pairs)"
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.speed", description="Diffusion against autoregressive.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=Path, default=TASKS, help="JSONL lines with task, prompt, answer")
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--prompts", type=int, default=10, help="of each task")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop", choices=("host", "graph"), default="host")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args(argv)


def measure(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """Both groups on one session, `summarize` of each; and the host loop's overhead in runs of all T steps."""

    def diffusion(item: Item) -> Sample:
        limit, seed, loop = options.max_new_tokens, options.seed, options.loop
        return sample(item, session.generate(item.prompt, max_new_tokens=limit, seed=seed, loop=loop))

    def autoregressive(item: Item) -> Sample:
        return sample(item, session.decode_greedy(item.prompt, max_new_tokens=options.max_new_tokens))

    decoders = {"diffusion": diffusion, "autoregressive": autoregressive}
    groups = {}
    for group, tasks in GROUPS.items():
        items = read_items(options.tasks, options.prompts, tasks)
        groups[group] = summarize(paired_runs(items, decoders, options.repeats, group))

    def fixed(item: Item) -> Sample:
        result = session.generate(item.prompt, max_new_tokens=1, seed=options.seed, loop=options.loop, adaptive=False)
        return sample(item, result)

    samples = [fixed(item) for item in read_items(options.tasks, 5, GROUPS["short"])]
    host = {name: asdict(quartiles([getattr(s, name) for s in samples])) for name in ("host_share", "step_ms")}
    return {"groups": groups, "host_loop": host}


def run(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    report.check_out(options.out)
    manifest, digest = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    model = cost_model(manifest.model, manifest.canvas_length)
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        measured = measure(session, options)
    groups = measured["groups"]
    show(groups)
    start = {
        "cold_load": startup.cold_load(options.bundle, options.engine, options.threads, 5),
        "help_s": startup.help_seconds(5),
    }
    load, graphs = (start["cold_load"][k]["median"] for k in ("load_s", "graphs_s"))
    print(f"host overhead with all T steps: {measured['host_loop']['host_share']['median']:.1%} of a call")
    print(f"cold Session.load {load:.2f} s, its graphs {graphs:.2f} s, dgemma --help {start['help_s']['median']:.2f} s")
    result = {
        "benchmark": "speed",
        "machine": machine.facts(),
        "bundle": {"digest": digest, "steps": manifest.steps, "canvas_length": manifest.canvas_length},
        "recipe": manifest.quantization,
        "options": {k: getattr(options, k) for k in ("engine", "threads", "loop", "prompts", "repeats", "seed")},
        "costs": model,
        **measured,
        "startup": start,
    }
    if options.out:
        report.write_json(options.out, result)
        print(f"wrote {options.out}", file=sys.stderr)
    print(json.dumps({group: {"ratio": round(v["ratio"]["median"], 3)} for group, v in groups.items()}))
    return 0


if __name__ == "__main__":
    report.main(run)
