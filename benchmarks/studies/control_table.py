"""Tables of the sampler's options and of templates, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.tables import header, provenance, read


def options() -> str:
    """Options of the sampler."""
    values = read("tiny-control.json")
    rows = header("option", "n", "exact match (95 %)", "against stock, points (95 %)", "steps")
    for name, one in values["sampled"].items():
        gap = one["difference"]
        rows.append(
            f"| {name} | {one['n']} | {one['exact']:.1%} ({100 * one['low']:.1f} … {100 * one['high']:.1f}) | "
            f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} … {100 * gap['high']:+.1f}) | {one['mean_steps']:.2f} |"
        )
    return "\n".join([*rows, "", f"`{values['bundle']['recipe']}`, adaptive. {provenance(values)}"])


def templates() -> str:
    """Templates made from the right answers, beside prompting alone."""
    found = read("tiny-control.json")["templates"]
    rows = header("task", "pinned", "n", "template: exact, steps", "prompt alone: exact, steps", "difference, points (95 %)")
    for task, ways in found.items():
        own, alone = ways["template"], ways["prompt alone"]
        gap = own["difference"]
        rows.append(
            f"| {task} | {ways['pinned']} | {own['n']} | {own['exact']:.0%}, {own['mean_steps']:.2f} | "
            f"{alone['exact']:.0%}, {alone['mean_steps']:.2f} | "
            f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} … {100 * gap['high']:+.1f}) |"
        )
    return "\n".join(rows)
