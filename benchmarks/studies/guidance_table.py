"""The table of guidance, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, interval, provenance, read


def table() -> str:
    """Guidance beside none."""
    values = read("tiny-guidance.json")
    columns = ("guidance", "n", "exact match (95 %)", "against none, points (95 %)", "steps", "same answer as none")
    rows = header(*columns, "prompts with two answers")
    for name, one in values["ways"].items():
        gap = one["difference"]
        rows.append(
            f"| {name} | {one['n']} | {one['exact']:.1%} ({interval(one, 100, '.1f')}) | "
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) | {one['mean_steps']:.2f} | "
            f"{one['same_answer']:.0%} | {one['distinct']:.0%} |"
        )
    ways = values["ways"].values()
    plain, guided = (one["ms_a_step"] for one in (next(iter(ways)), values["ways"]["s = 3, negative prompt"]))
    cost = f"With a negative prompt, a generation took {guided / plain:.2f} × as long for each of its steps as without."
    return "\n".join([*rows, "", f"{cost} `{values['bundle']['recipe']}`, {values['seeds']} seeds. {provenance(values)}"])


PAGE = Page(
    title="Guidance",
    intro="""
Exact match, steps and diversity of tiny with [guidance](../guides/control.md#guidance), on the same prompts and noise. The
negative prompt is "Write something."; the other way takes the self-conditioning of unsure positions away.""",
    sections=(
        Section(
            heading="On tiny",
            table=table,
            after="""
tiny's tasks have one right answer each, which the prompt decides, so there is nothing that guidance could add; what can be
seen is where it does harm. What it does to open answers of a large model is not known here.""",
        ),
    ),
)
