"""A projection, not a measurement: tokens/s of a bundle whose weights say nothing, from what its steps cost by their width
(`widths`) and from the schedules that a trained, smaller model ran (`schedules`).

    python -m dgemma.benchmarks.studies.projection TINY --widths WIDTHS.json [--peers PEERS.json] [--per-task K] [--out FILE]

Of the canvases that an option filled on TINY, the positions that ran in each step are taken as shares of the canvas and
stretched to the steps that others report for the released model. Each step is priced between the measured widths, a share
below the narrowest as the narrowest; a canvas is its steps and its encoding, and commits N tokens. The stock loop's steps are
priced as `denoise`.

Each row has two rates. In the first the option itself takes K steps. In the second the stock loop does, and the option as many
times more as it took on TINY, which keeps the position-forwards that it saved there: that is the one to hold against the
stock loop, and the first flatters a narrow start (see `schedules.stretch`). What is not known is whether the released model
becomes certain as TINY does, and what early commits or a narrow start would do to its answers. N canvas, K steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dgemma.benchmarks import report
from dgemma.benchmarks.bench import reliability
from dgemma.benchmarks.held_out import read_items
from dgemma.benchmarks.studies import widths as by_width
from dgemma.benchmarks.studies.arguments import add_asking, write_out
from dgemma.benchmarks.studies.peers.catalogue import OURS
from dgemma.benchmarks.studies.position_forwards import LONG, STOCK, check_chat
from dgemma.benchmarks.studies.schedules import FILLED, Schedule, record, stretch
from dgemma.core.errors import UsageError
from dgemma.core.manifest import read_manifest
from dgemma.core.metrics import ratio_of_sums
from dgemma.runtime.session import Session

Json = dict[str, Any]
OPTIONS: dict[str, dict[str, Any]] = {
    STOCK: {},
    "early commit 0.01": {"early_commit": 0.01},
    "start width auto": {"start_width": "auto"},
}
STEPS = (12, 16, 20)  # per canvas, as others report of the released model
GOAL, YARDSTICK = 1.5, "llama.cpp/q4_0"  # times the autoregressive tokens/s of this peer
OWN = "own"  # the bundle's own autoregressive decoding
HEADER = (
    "canvases (their number), option", "steps", "active share", "ms per step", "tokens/s [quartiles]",
    "tokens/s at stock's steps", "× own autoregressive, break-even steps", "× llama.cpp Q4_0, break-even steps",
    f"limits for {GOAL} ×: steps, ms per step, share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Milliseconds of a bundle's calls.

    Args:
        canvas: N.
        widths: positions, ascending, the last one N.
        active: of `denoise_active` at each width.
        denoise: of a whole step of the stock loop.
        encode: of a canvas that is committed.
    Raises:
        ValueError.
    """

    canvas: int
    widths: tuple[int, ...]
    active: tuple[float, ...]
    denoise: float
    encode: float

    def __post_init__(self) -> None:
        if list(self.widths) != sorted(set(self.widths)) or self.widths[-1:] != (self.canvas,):
            raise ValueError(f"{self.widths=} must ascend to {self.canvas=}")
        if len(self.active) != len(self.widths) or min(*self.active, self.denoise, self.encode) <= 0:
            raise ValueError(f"{self.active=}, {self.denoise=}, {self.encode=} must be positive, one a width")

    @classmethod
    def of(cls, values: Json, which: str = "median") -> Costs:
        """From a result of `widths`; `which` is median, q1 or q3."""
        rows = sorted(values["widths"], key=lambda row: int(row["width"]))
        return cls(
            canvas=values["bundle"]["canvas"],
            widths=tuple(row["width"] for row in rows),
            active=tuple(row["ms"][which] for row in rows),
            denoise=values["denoise_ms"][which],
            encode=values["encode_ms"][which],
        )

    def step(self, shares: npt.NDArray[np.float64], whole: bool) -> npt.NDArray[np.float64]:
        """Of steps in which these shares run, [K]; all as `denoise` where `whole`."""
        if whole:
            return np.full(len(shares), self.denoise)
        return np.interp(shares * self.canvas, self.widths, self.active)

    def share(self, ms: float) -> float | None:
        """The largest share whose step takes at most `ms`; None where not even the narrowest does."""
        if ms < self.active[0]:
            return None
        return float(np.interp(ms, np.maximum.accumulate(self.active), self.widths)) / self.canvas


def canvas_ms(schedules: Sequence[Schedule], costs: Costs, steps: int, whole: bool) -> float:
    """Mean over the schedules, each stretched: its steps and its encoding."""
    return float(np.mean([costs.step(stretch(s.shares, steps), whole).sum() for s in schedules])) + costs.encode


def needed(costs: Costs, steps: int, step_ms: float, rate: float) -> Json:
    """What would give `rate` tokens/s, each alone: fewer steps, cheaper ones, or this share of the canvas in every step."""
    left = max(0.0, 1e3 * costs.canvas / rate - costs.encode)
    return {"steps": left / step_ms, "step_ms": left / steps, "share": costs.share(left / steps)}


def project(
    schedules: Sequence[Schedule],
    costs: Mapping[str, Costs],
    rates: Mapping[str, float],
    steps: int,
    whole: bool,
    ratio: float | None,
) -> Json:
    """One option at K steps.

    Args:
        costs: by median, q1 and q3.
        rates: autoregressive tokens/s to compare with, by name.
        whole: every step is a whole `denoise`.
        ratio: steps of the option over the stock loop's; None where it is not known.
    """
    n = costs["median"].canvas
    ms = {which: canvas_ms(schedules, one, steps, whole) for which, one in costs.items()}
    per_step = (ms["median"] - costs["median"].encode) / steps
    shares = np.mean([stretch(s.shares, steps) for s in schedules], axis=0)
    tokens_per_s = {which: 1e3 * n / one for which, one in ms.items()}
    at_stock = None
    if ratio is not None:
        took = max(1, round(steps * ratio))
        at_stock = {"steps": took, "tokens_per_s": 1e3 * n / canvas_ms(schedules, costs["median"], took, whole)}
    return {
        "steps": steps,
        "share": float(shares.mean()),
        "shares": [round(float(share), 4) for share in shares],
        "step_ms": per_step,
        "canvas_ms": ms["median"],
        "tokens_per_s": {"median": tokens_per_s["median"], "q1": tokens_per_s["q3"], "q3": tokens_per_s["q1"]},
        "at_stock_steps": at_stock,
        "against": {
            name: {
                "ratio": tokens_per_s["median"] / rate,
                "even_steps": needed(costs["median"], steps, per_step, rate)["steps"],
            }
            for name, rate in rates.items()
        },
        "goal": needed(costs["median"], steps, per_step, GOAL * rates[YARDSTICK]) if YARDSTICK in rates else None,
    }


def step_ratio(own: Sequence[Schedule], stock: Sequence[Schedule]) -> Json | None:
    """Steps over the stock loop's on the canvases that both filled, with a 95 % interval; None where there are none."""
    by = {(s.prompt, s.index): len(s.shares) for s in stock}
    pairs = [(len(s.shares), by[s.prompt, s.index]) for s in own if (s.prompt, s.index) in by]
    if not pairs:
        return None
    value, low, high = ratio_of_sums([a for a, _ in pairs], [b for _, b in pairs])
    return {"value": value, "low": low, "high": high, "n": len(pairs)}


def summarize(
    recorded: Mapping[str, Sequence[Schedule]], costs: Mapping[str, Costs], rates: Mapping[str, float], steps: Sequence[int]
) -> Json:
    """Group of canvases → option → what was recorded of it, and its projections."""
    groups: Json = {}
    for group, least in {"filled": 1, f"filled, of {LONG} steps or more": LONG}.items():
        long = {option: [s for s in every if len(s.shares) >= least] for option, every in recorded.items()}
        groups[group] = {}
        for option, kept in long.items():
            ratio = step_ratio(recorded[option], long[STOCK])  # of canvases that were long for the stock loop
            value = None if ratio is None else ratio["value"]
            groups[group][option] = {
                "canvases": len(kept),
                "right": sum(s.right for s in kept),
                "mean_steps": sum(len(s.shares) for s in kept) / len(kept) if kept else None,
                "step_ratio": ratio,
                "projections": [project(kept, costs, rates, k, option == STOCK, value) for k in steps if kept],
            }
    return groups


def read(option: str, path: Path, benchmark: str) -> Json:
    """A result of another benchmark; raises UsageError when it is none."""
    try:
        values: Json = json.loads(path.read_text(encoding="utf-8"))
        if values["benchmark"] == benchmark:
            return values
    except (OSError, ValueError, KeyError, TypeError):
        pass
    study = f"python -m dgemma.benchmarks.studies.{benchmark}"
    raise UsageError(f"{option} {path}: is not a result of `{study}`; write one with its --out")


def peer_rates(widths: Json, peers: Json, path: Path) -> tuple[dict[str, float], list[str]]:
    """Autoregressive tokens/s of the peers, and reasons to doubt them; raises UsageError where they cannot be compared."""
    for what, a, b in (
        ("another model", widths["bundle"]["model"], peers["bundle"]["model"]),
        ("other threads", widths["options"]["threads"], peers["options"]["threads"]),
        ("another prefix", widths["options"]["prefix"], peers["options"]["prefix"]),
    ):
        if a != b:
            raise UsageError(f"--peers {path}: was measured with {what} than --widths; measure both alike")
    doubts, runs = [], {run["peer"]: run for run in peers["runs"] if run["tokens_per_s"]}
    same = all(widths[part][key] == peers[part][key] for part, key in (("bundle", "recipe"), ("options", "engine")))
    if same and OURS in runs:
        there, here = runs[OURS]["token_ms"]["median"], widths["token_ms"]["median"]
        if abs(there / here - 1) > reliability.DRIFT:
            doubts.append(f"the bundle's own token took {there:.0f} ms beside the peers and {here:.0f} ms beside the widths")
    return {name: run["tokens_per_s"]["median"] for name, run in runs.items() if name != OURS}, doubts


def rows(values: Json) -> list[list[str]]:
    """Cells in the order of `HEADER`."""
    return [
        _cells(f"{group} ({one['canvases']}), {option}", row)
        for group, options in values["groups"].items()
        for option, one in options.items()
        for row in one["projections"]
    ]


def _cells(title: str, row: Json) -> list[str]:
    rate, at, goal = row["tokens_per_s"], row["at_stock_steps"], row["goal"]
    limits, against = "–", {name: f"{one['ratio']:.2f}, {one['even_steps']:.1f}" for name, one in row["against"].items()}
    if goal:
        share = "no share" if goal["share"] is None else f"{goal['share']:.0%}"
        limits = f"{goal['steps']:.1f}, {goal['step_ms']:.0f}, {share}"
    return [
        title,
        str(row["steps"]),
        f"{row['share']:.0%}",
        f"{row['step_ms']:.0f}",
        f"{rate['median']:.1f} [{rate['q1']:.1f} … {rate['q3']:.1f}]",
        f"{at['tokens_per_s']:.1f}" if at else "–",
        against[OWN],
        against.get(YARDSTICK, "–"),
        limits,
    ]


def notes(values: Json) -> list[str]:
    """What this is, what was recorded, whether the goal would be reached, and reasons to doubt."""
    tiny, rates = values["bundle"], values["rates"]
    tiny_is = f"{tiny['name']} (`{tiny['recipe']}`, canvas {tiny['canvas']}, {tiny['items']} prompts)"
    found = [
        f"A projection, not a measurement: step times by number of positions, with stretched schedules of {tiny_is}; only "
        f"canvases filled to {FILLED:.0%} or more",
        *by_width.notes(values["widths"]),
    ]
    for option, one in next(iter(values["groups"].values())).items():
        ratio, took = one["step_ratio"], "none was filled, so it is left out"
        if one["canvases"]:
            took = f"{one['mean_steps']:.1f} steps per canvas, {one['right']} of {one['canvases']} canvases in right answers"
        if ratio and option != STOCK:
            took += f"; {ratio['value']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f}) times the stock loop's steps"
        found.append(f"{option} on {tiny['name']}: {took}")
    found.append("autoregressive tokens/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    return [*found, *verdicts(values), *(f"noise: {doubt}" for doubt in values["doubts"])]


def verdicts(values: Json) -> list[str]:
    """For every number of steps, the best option against the goal; a line that says why not, where there is no yardstick."""
    if YARDSTICK not in values["rates"]:
        return [f"the goal of {GOAL} × {YARDSTICK} is not judged: give --peers with a result that has it"]
    first, rate, found = next(iter(values["groups"].values())), values["rates"][YARDSTICK], []
    for steps in values["options"]["steps"]:
        rows = {name: row for name, one in first.items() for row in one["projections"] if row["steps"] == steps}
        own = {name: row["against"][YARDSTICK]["ratio"] for name, row in rows.items()}
        beside = {name: at["tokens_per_s"] / rate for name, row in rows.items() if (at := row["at_stock_steps"])}
        goal = f"{GOAL} × {YARDSTICK} if the stock loop takes {steps} steps"
        found.append(f"{goal}: {_best(beside)}; if the option itself takes them: {_best(own)}")
    return found


def _best(ratios: Mapping[str, float]) -> str:
    name = max(ratios, key=lambda name: ratios[name])
    verdict = "reached" if ratios[name] >= GOAL else f"missed by {1 - ratios[name] / GOAL:.0%}"
    return f"{verdict} ({name}, {ratios[name]:.2f} ×)"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.projection", description="Costs by width × schedules."
    )
    parser.add_argument("bundle", type=Path, help="of the trained model whose schedules are recorded")
    parser.add_argument("--widths", type=Path, required=True, help="result of dgemma.benchmarks.studies.widths")
    parser.add_argument("--peers", type=Path, help="result of dgemma.benchmarks.studies.peers, of the same shape")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="per canvas")
    add_asking(parser, per_task=40, engine_help="of the trained model")
    options = parser.parse_args(argv)
    if wrong := [k for k in options.steps if not 1 <= k <= 4096]:
        raise UsageError(f"--steps {wrong[0]} must be between 1 and 4096")
    report.check_out(options.out)
    return options


def run(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    widths, rates, doubts = read("--widths", options.widths, "widths"), dict[str, float](), list[str]()
    try:
        costs = {which: Costs.of(widths, which) for which in ("median", "q1", "q3")}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--widths {options.widths}: its figures cannot be used ({error}); measure them again") from None
    if options.peers:
        rates, doubts = peer_rates(widths, read("--peers", options.peers, "peers"), options.peers)
    items = read_items(options.tasks, options.per_task)
    manifest, digest = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    with Session.load(options.bundle, engine=options.engine, threads=options.threads) as session:
        check_chat(session)
        recorded = record(session, items, OPTIONS, options.seed)
    if not recorded[STOCK]:
        raise UsageError(f"{options.bundle}: filled no canvas to {FILLED:.0%}; raise --per-task, or give longer --tasks")
    rates = {OWN: 1e3 / widths["token_ms"]["median"], **rates}
    result = {
        "benchmark": "projection",
        "machine": widths["machine"],
        "bundle": {
            "digest": digest,
            "name": manifest.provenance.get("name"),
            "recipe": manifest.quantization.get("recipe"),
            "canvas": manifest.canvas_length,
            "items": len(items),
            "sampler": manifest.sampler.to_dict(),
        },
        "options": {
            "steps": options.steps,
            "per_task": options.per_task,
            "seed": options.seed,
            "sampler_options": OPTIONS,
            "threads": widths["options"]["threads"],
        },
        "widths": widths,
        "rates": rates,
        "groups": summarize(recorded, costs, rates, options.steps),
        "doubts": doubts,
    }
    report.table("A projection, not a measurement", HEADER, rows(result))
    for line in notes(result):
        print(line)
    write_out(options.out, result)
    return 0


if __name__ == "__main__":
    report.main(run)
