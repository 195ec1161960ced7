"""The result of `dgemma tune` as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma.benchmarks import report


def show(result: Mapping[str, Any]) -> None:
    """Print the options, and what they do on both halves of the questions."""
    if (options := result["options"]) is None:
        return
    said = [(name, ":".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in options.items()]
    report.table("Options", ("option", "value"), said)
    rows = []
    for half in ("tuning", "held_out"):
        f = result[half]
        change, ratio = f["difference"], f["ratio"]
        rows.append(
            (
                half.replace("_", " "),
                str(f["n"]),
                f"{f['stock_exact']:.1%}",
                f"{f['exact']:.1%}",
                f"{100 * change['value']:+.1f} (≥ {100 * change['low']:+.1f})",
                f"{ratio['value']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f})",
                f"{f['stock_tokens_per_s']:.0f}",
                f"{f['tokens_per_s']:.0f}",
            )
        )
    header = ("questions", "n", "exact before", "exact", "points", "position-forwards, ratio", "tokens/s before", "tokens/s")
    report.table("Effect", header, rows)
