"""Tables on tiny-moe in Markdown: the gate by recipe and engine, and what quantized routers cost."""

from __future__ import annotations

from dgemma.benchmarks.studies import tables
from dgemma.benchmarks.studies.tables import Json, interval

RECIPES = ("fp32", "w8", "w4-mixed", "w4")


def _points(difference: Json, sign: float) -> str:
    """A difference of exact match in points, with its interval; `sign` is -1 for a loss."""
    low, high = sorted(sign * difference[key] for key in ("low", "high"))
    return f"{100 * sign * difference['value'] + 0.0:+.1f} ({100 * low + 0.0:+.1f} … {100 * high + 0.0:+.1f})"


def _ratio(values: Json) -> str:
    return f"{values['value']:.3f} ({interval(values)})"


def _others(other: int, rows: int, largest: float | None) -> str:
    return f"{100 * other / rows:.2f} %" + ("" if largest is None else f", {largest:.2g}")


def gate() -> str:
    """One row a recipe and engine, of those that were measured."""
    rows = tables.header(
        "recipe, engine", "bits per weight", "exact match (95 %)", "against float, points", "step inflation (95 %)",
        "same argmax", "KL, nats", "other experts, margins up to (nats)", "gate",
    )  # fmt: skip
    bits = {row["recipe"]: row["bits_per_weight"] for row in tables.read("tiny-moe-sizes.json")["bundles"]}
    for recipe in (name for name in RECIPES if name in bits):
        for engine, found in tables.read(f"tiny-moe-verify-{recipe}.json")["float"].items():
            free, forced = found["free_running"], found["teacher_forced"]
            exact, layers = free["exact_match"]["artifact"], forced["experts"]
            kl, others = "–", "–"
            if forced["kl"]:
                kl = f"{forced['kl']['mean']:.1e}"
            if layers:
                largest = max((x["largest_margin"] for x in layers.values() if x["other"]), default=None)
                others = _others(sum(x["other"] for x in layers.values()), sum(x["rows"] for x in layers.values()), largest)
            rows.append(
                f"| `{recipe}`, {engine} | {bits[recipe]:.2f} | {100 * exact['value']:.1f} % ({interval(exact, 100, '.1f')}) | "
                f"{_points(free['exact_match_loss'], -1)} | {_ratio(free['step_inflation'])} | "
                f"{100 * forced['same_argmax']:.2f} % | {kl} | {others} | {'passed' if found['passed'] else 'missed'} |"
            )
    of_float = free["exact_match"]["float"]
    return "\n".join(
        [
            *rows,
            "",
            f"tiny-moe, {free['prompts']} held-out prompts, T = 16, adaptive. Float in PyTorch: "
            f"{100 * of_float['value']:.1f} %, {of_float['mean_steps']:.2f} steps. {found['date']}.",
        ]
    )


def routers() -> str:
    """One row for the bits of everything else and of the routers."""
    values = tables.read("tiny-moe-routers.json")
    rows = tables.header(
        "recipe", "bits of routers", "exact match", "against float, points (95 %)", "step inflation (95 %)",
        "KL, millinats (95 %)", "other experts, margins up to (nats)",
    )  # fmt: skip
    for row in values["rows"]:
        kl, experts = row["kl_mean"], row["experts"]
        rows.append(
            f"| `{row['recipe']}` | {row['router_bits']} | {100 * row['exact_match']['value']:.1f} % | "
            f"{_points(row['exact_match_difference'], 1)} | {_ratio(row['step_inflation'])} | "
            f"{1e3 * kl['value']:.2f} ({interval(kl, 1e3, '.2f')}) | "
            f"{_others(experts['other'], experts['rows'], experts['largest_margin'])} |"
        )
    made = values["float"]
    return "\n".join(
        [*rows, "", f"{made['prompts']} held-out prompts in PyTorch, fake-quantized; {values['machine']['date'][:10]}."]
    )
