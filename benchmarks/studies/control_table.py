"""Tables of the sampler's options and of templates, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
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


PAGE = Page(
    title="Options of the sampler",
    intro="""
Exact match and steps of tiny with [options of the sampler](../guides/control.md), and templates beside prompting alone. "Stock"
is the bundle's own sampler; all options ran on the same prompts and noise.""",
    sections=(
        Section(
            heading="Sampling and stop rule",
            table=options,
            after="""
On tiny, no option beats the bundle's own sampler by more than the prompts can show: most canvases are decided in their first
step, and later ones confirm it. Ending after that step (`--steps 1`, `--stability 0`) halves the steps and costs accuracy.
A lower `--confidence` only adds steps. What they do to a model that needs more steps, tiny cannot say.""",
        ),
        Section(
            heading="Templates",
            before="""
Templates are made from the right answers: they say what is pinned, and how many tokens each hole has. Prompting alone is told
none of that, so the difference is what the template gives away and the model uses; it is not a gain in ability.""",
            table=templates,
            after="""
tiny answers nearly all of these prompts without a template, so all that can be seen is that pinned text does no harm: the same
answers are right, in about as many steps. Whether templates help a model that cannot do without is not known.""",
        ),
    ),
)
