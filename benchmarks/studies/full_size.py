"""What `dgemma bench` found of `2b` with random weights, as rows of two tables: bundles side by side, and processors.

It knows the results' keys, not their files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]


def title(run: Json) -> str:
    return f"`{run['of']['recipe']}`, {run['of']['engine']}"


def costs(runs: Sequence[Json]) -> list[list[str]]:
    """A step of each bundle, its memory and load, one column a run."""

    def step(run: Json) -> str:
        ms = _point(run)["step_ms"]
        return f"{ms['median'] / 1e3:.2f} s [{ms['q1'] / 1e3:.2f} … {ms['q3'] / 1e3:.2f}]"

    def paced(run: Json) -> str:
        over = _point(run)["step_over_pace"]
        return f"{over['median']:.2f} [{over['q1']:.2f} … {over['q3']:.2f}]"

    def grown(run: Json) -> str:
        last = run["growth"][-1]
        return f"{last['step_ms']['median'] / 1e3:.2f} s, {last['token_ms']['median']:.0f} ms ({last['prefix']:,})"

    def resident(run: Json) -> str:
        running = run["memory"]["running"]
        return f"{running['anonymous'] / 1e9:.2f} + {running['file'] / 1e9:.2f} GB"

    def load(run: Json) -> str:
        warm = run["load"]["warm"]
        return f"{warm['graphs_s']['median']:.1f} / {warm['load_s']['median']:.1f} s"

    cells: dict[str, Callable[[Json], str]] = {
        "step, median [quartiles]": step,
        "step / machine floor": lambda run: f"{_point(run)['step_over_floor']:.2f}",
        "step / kernel floor": lambda run: f"{_point(run)['step_over_kernel_floor']:.2f}",
        "shortest step / kernel floor": lambda run: f"{_shortest(run):.2f}",
        "step / kernel floor, at the current pace [quartiles]": paced,
        "autoregressive token, same bundle": lambda run: f"{_point(run)['token_ms']['median']:.0f} ms",
        "step and token after a long prefix (its tokens)": grown,
        "prefill": lambda run: f"{run['prefill']['tokens_per_s']:.0f} tokens/s",
        "weights, as packed for the kernels": lambda run: f"{run['memory']['weight_bytes'] / 1e9:.2f} GB",
        "additional memory during a step": lambda run: f"{run['memory']['transient_bytes'] / 1e6:.0f} MB",
        "resident memory while running: anonymous + mapped": resident,
        "second load: graphs only / with the check of all files": load,
    }
    return [[name, *(cell(run) for run in runs)] for name, cell in cells.items()]


def processors(kinds: Iterable[Sequence[Json | None]]) -> list[list[str]]:
    """Steps by the instructions that multiply bytes; others are hidden from the process by `tests/x86/hide.py`.

    Args:
        kinds: runs on one kind of processor, None where a bundle has none, but not for all.
    """

    def cell(run: Json | None) -> str:
        if run is None:
            return "–"
        point = _point(run)
        return f"{point['step_ms']['median'] / 1e3:.2f} s: {point['step_over_kernel_floor']:.2f}, {_shortest(run):.2f}"

    rows = []
    for runs in kinds:
        known = next(run for run in runs if run)
        rows.append([known["machine"]["cpu"], known["ceilings"]["int8_path"], *map(cell, runs)])
    return rows


def notes(run: Json) -> str:
    """The machine of a run."""
    machine = run["machine"]
    facts = f"{machine['cpu']}, {machine['int8']}; onnxruntime {machine['versions']['onnxruntime']}, executorch "
    return facts + f"{machine['versions']['executorch']}; {machine['date'][:10]}."


def _point(run: Json) -> Json:
    """Figures at the shortest prefix."""
    found: Json = run["growth"][0]
    return found


def _shortest(run: Json) -> float:
    """The best of all steps over the best of all products: what is left where other machines take turns on the processor."""
    return float(_point(run)["step_ms"]["least"] / _point(run)["step_kernel_floor_ms"])
