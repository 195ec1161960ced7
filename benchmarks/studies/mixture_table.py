"""Tables on tiny-moe in Markdown: the gate by recipe and engine, and what quantized routers cost."""

from __future__ import annotations

from dgemma.benchmarks.studies import tables
from dgemma.benchmarks.studies.page import Page, Section
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
        "recipe, engine", "bits per weight", "exact match (95 %)", "difference from float, points (95 %)",
        "step inflation (95 %)", "same argmax", "KL, nats", "other experts, largest margin (nats)", "gate",
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
            f"tiny-moe, {free['prompts']} held-out prompts, T = 16, adaptive. Float model in PyTorch: "
            f"{100 * of_float['value']:.1f} %, {of_float['mean_steps']:.2f} steps. {found['date']}.",
        ]
    )


def routers() -> str:
    """One row for the bits of everything else and of the routers."""
    values = tables.read("tiny-moe-routers.json")
    rows = tables.header(
        "recipe", "router bits", "exact match", "difference from float, points (95 %)", "step inflation (95 %)",
        "KL, 10⁻³ nats (95 %)", "other experts, largest margin (nats)",
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


PAGE = Page(
    title="A trained mixture",
    intro="""
The gate for `checkpoints/tiny-moe`, a trained mixture of experts: eight per layer, of which each position uses two. Routers
stay in float. *Other experts* is the share of positions, over all layers, that use a different set of experts than in the
float model when both get the same canvases. The margin is how close to a tie the float model's choice was; the table gives the
largest one. ExecuTorch's graphs do not return the routers' scores or logits, so these figures are missing there. The page on
[quantization](quantization.md) explains the other columns.""",
    sections=(
        Section(heading="The gate", table=gate),
        Section(
            heading="Quantized routers",
            before="""
In the first two rows, the routers are rounded and everything else stays in float. The last row is `w4-mixed`, which rounds
everything but the routers. Recipes do not allow 4-bit routers.""",
            table=routers,
            after="""
By themselves, 4-bit routers change the distributions as much as 4-bit MLPs and experts together, and send more positions to
other experts. 8-bit routers change few choices, but routers are so small that rounding them saves nothing.""",
        ),
    ),
)
