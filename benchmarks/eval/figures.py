"""Counts over answered questions: score with its interval and what answers cost, by task, pooled, and decoders in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.stats import paired_difference, wilson

ALL = "all tasks"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question answered by one decoder.

    Args:
        file, index: which question: number of the file and of its item, both from 0.
        line: line of the file, from 1.
        found: the answer that was found in the text; None when there is none.
        choices: how many choices there were; 0 where the answer was free.
        tokens, steps, canvases, position_forwards, prefill_position_forwards, stop_reason: as in `runtime.Result`.
        seconds: the call, without loading of graphs.
    """

    file: int
    index: int
    line: int
    task: str
    decoder: str
    choices: int
    text: str
    found: str | None
    right: bool
    strict: bool
    tokens: int
    steps: int
    canvases: int
    position_forwards: int
    prefill_position_forwards: int
    stop_reason: str
    seconds: float


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of one decoder over some questions, JSON types.

    `exact` with its Wilson interval is the share right; `strict` the same by the strict rule; `chance` what blind guessing
    gives (null where answers are free); `steps_per_canvas` is null for autoregressive decoding. `position_forwards_per_token`
    are position-forwards over tokens, sums of all rows, prefill aside (`mean_prefill_position_forwards`, a question); null
    without tokens. `tokens_per_s` counts whole calls, prefill included.
    """
    n, seconds = len(rows), sum(row.seconds for row in rows)
    tokens, steps, canvases = (sum(getattr(row, name) for row in rows) for name in ("tokens", "steps", "canvases"))
    position_forwards = sum(row.position_forwards for row in rows)
    chances = [1 / row.choices for row in rows if row.choices]
    return {
        **_share([row.right for row in rows]),
        "strict": _share([row.strict for row in rows]),
        "unparsed": sum(row.found is None for row in rows),
        "chance": sum(chances) / n if chances and len(chances) == n else None,
        "mean_tokens": _over(tokens, n),
        "mean_steps": _over(steps, n),
        "steps_per_canvas": steps / canvases if canvases else None,
        "tokens_per_forward": _over(tokens, steps),
        "position_forwards": position_forwards,
        "position_forwards_per_token": position_forwards / tokens if tokens else None,
        "mean_prefill_position_forwards": _over(sum(row.prefill_position_forwards for row in rows), n),
        "tokens_per_s": _over(tokens, seconds),
        "seconds": seconds,
        "stop_reasons": dict(sorted(Counter(row.stop_reason for row in rows).items())),
    }


def _share(right: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(right), len(right))
    return {"n": len(right), "right": sum(right), "exact": _over(sum(right), len(right)), "low": low, "high": high}


def _over(a: float, b: float) -> float:
    return a / b if b else 0.0


Split = dict[str, dict[str, list[Row]]]  # task → decoder → rows


def by_task(rows: Iterable[Row]) -> Split:
    """Rows by task and decoder, in the order of the files, whatever order they were answered in."""
    split: Split = {}
    for row in sorted(rows, key=lambda row: (row.file, row.index)):
        split.setdefault(row.task, {}).setdefault(row.decoder, []).append(row)
    return split


def summarize(split: Split, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Figures by task, pooled over groups of tasks, and per group diffusion minus autoregressive over the same questions."""
    summary: dict[str, Any] = {"tasks": {}, "pooled": {}, "difference": {}}
    for task, rows in split.items():
        summary["tasks"][task] = {decoder: figures(some) for decoder, some in rows.items()}
    for group, tasks in groups.items():
        if not tasks:
            continue
        pooled = {decoder: [row for task in tasks for row in split[task][decoder]] for decoder in split[tasks[0]]}
        summary["pooled"][group] = {"tasks": list(tasks), **{decoder: figures(rows) for decoder, rows in pooled.items()}}
        if len(pooled) == 2:
            right = {decoder: [row.right for row in rows] for decoder, rows in pooled.items()}
            values = paired_difference(right["diffusion"], right["autoregressive"])
            summary["difference"][group] = dict(zip(("exact", "low", "high"), values, strict=True))
    return summary


def groups_by_prefix(tasks: Iterable[str]) -> dict[str, list[str]]:
    """All tasks, and where there are several kinds, those of each: what stands before the slash in mmlu/astronomy."""
    tasks = list(tasks)
    groups: dict[str, list[str]] = {}
    for task in tasks:
        if "/" in task:
            groups.setdefault(task.partition("/")[0], []).append(task)
    return {**{name: some for name, some in groups.items() if len(some) < len(tasks)}, ALL: tasks}


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def show(title: str, summary: Mapping[str, Any]) -> None:
    """Print tables of score and of cost, a row for each task, group and decoder, and the paired differences."""
    parts = {**summary["tasks"], **{f"{group} ({len(v['tasks'])})": v for group, v in summary["pooled"].items()}}
    lines = [(label, decoder, f) for label, v in parts.items() for decoder, f in v.items() if decoder != "tasks"]
    score = [
        [
            label,
            decoder,
            str(f["n"]),
            f"{f['exact']:.1%}",
            f"{f['low']:.1%} … {f['high']:.1%}",
            f"{f['strict']['exact']:.1%}",
            str(f["unparsed"]),
            _or_dash(f["chance"], ".1%"),
            str(f["stop_reasons"].get("length", 0)),
        ]
        for label, decoder, f in lines
    ]
    report.table(title, ["task", "decoder", "n", "exact", "95 %", "strict", "unparsed", "chance", "cut at limit"], score)
    cost = [
        [
            label,
            decoder,
            f"{f['mean_tokens']:.1f}",
            _or_dash(f["steps_per_canvas"], ".2f"),
            f"{f['tokens_per_forward']:.1f}",
            _or_dash(f["position_forwards_per_token"], ".2f"),
            f"{f['mean_prefill_position_forwards']:.0f}",
            f"{f['tokens_per_s']:.0f}",
        ]
        for label, decoder, f in lines
    ]
    header = ["task", "decoder", "tokens", "steps/canvas", "tokens/forward", "position-forwards/token", "prefill", "tokens/s"]
    report.table("What the answers cost", header, cost)
    for group, d in summary["difference"].items():
        print(
            f"{group}: diffusion minus autoregressive {100 * d['exact']:+.1f} points "
            f"(95 %: {100 * d['low']:+.1f} … {100 * d['high']:+.1f})"
        )
