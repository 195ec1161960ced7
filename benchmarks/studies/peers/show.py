"""A result as rows: of the table that a run prints, and of the page of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = (
    "program, weights",
    "bits per weight",
    "step, ms [quartiles]",
    "step / dgemma's step",
    "autoregressive, tokens/s [quartiles]",
    "causal pass over a canvas, ms",
    "causal pass / dgemma's step",
)
Json = dict[str, Any]


def rows(values: Json) -> list[list[str]]:
    """Cells in the order of `HEADER`; what a peer has not is a dash."""
    return [
        [
            f"{run['peer']}, {run['weights']}",
            _one(run["bits"], 2),
            _spread(run["step_ms"], 1),
            _median(run["step_over_ours"], 2),
            _spread(run["tokens_per_s"], 1),
            _median(run["prefill_ms"], 1),
            _median(run["prefill_over_ours"], 2),
        ]
        for run in values["runs"]
    ]


def notes(values: Json) -> list[str]:
    """Lines below the table: what the rows are, what was left out and why, and reasons to doubt."""
    options, bundle = values["options"], values["bundle"]
    shape = f"canvas {bundle['canvas']}, prefix {options['prefix']}"
    found = [f"{shape}, {options['threads']} threads, {options['rounds']} rounds; the programs take turns"]
    for key in ("note", "version"):
        same: dict[str, list[str]] = {}
        for run in values["runs"]:
            same.setdefault(run[key], []).append(run["peer"])
        found += [f"{', '.join(names)}: {text}" for text, names in same.items()]
    found += [f"{run['peer']}: compiled in {run['compile_s']:.0f} s" for run in values["runs"] if run["compile_s"] is not None]
    found += [f"left out: {one['peer']}: {one['why']}" for one in values["left_out"]]
    return found + [f"noise: {warning}" for warning in values["noise"]["warnings"]]


def _one(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _median(values: Mapping[str, float] | None, digits: int) -> str:
    return _one(values["median"] if values else None, digits)


def _spread(values: Mapping[str, float] | None, digits: int) -> str:
    if not values:
        return "–"
    return f"{values['median']:.{digits}f} [{values['q1']:.{digits}f} … {values['q3']:.{digits}f}]"
