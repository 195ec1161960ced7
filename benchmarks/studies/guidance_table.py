"""The table of guidance, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, interval, provenance, read


def table() -> str:
    """Ways of guidance compared with none."""
    values = read("tiny-guidance.json")
    columns = ("guidance", "n", "exact match (95 %)", "difference from none, points (95 %)", "steps", "same answer as none")
    rows = header(*columns, "prompts with different answers by seed")
    for name, one in values["ways"].items():
        gap = one["difference"]
        rows.append(
            f"| {name} | {one['n']} | {one['exact']:.1%} ({interval(one, 100, '.1f')}) | "
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) | {one['mean_steps']:.2f} | "
            f"{one['same_answer']:.0%} | {one['distinct']:.0%} |"
        )
    ways = values["ways"].values()
    plain, guided = (one["ms_a_step"] for one in (next(iter(ways)), values["ways"]["s = 3, negative prompt"]))
    cost = f"With a negative prompt, generation time per step was {guided / plain:.2f} × that without."
    return "\n".join([*rows, "", f"{cost} `{values['bundle']['recipe']}`, {values['seeds']} seeds. {provenance(values)}"])


PAGE = Page(
    title="Guidance",
    intro="""
Exact match, steps and diversity of tiny with [guidance](../guides/control.md#guidance) of strength s, on the same prompts and
noise. The negative prompt is "Write something."; guidance by less self-conditioning needs no prompt: it compares with a pass
that leaves out the self-conditioning of unsure positions.""",
    sections=(
        Section(
            heading="On tiny",
            table=table,
            after="""
Each of tiny's tasks has one right answer, which the prompt decides, so guidance cannot add anything; the table shows only where
it does harm. Its effect on open answers of a large model has not been measured.""",
        ),
    ),
)
