"""Tables of answers of a language: valid and right ones on tiny, and costs."""

from __future__ import annotations

from statistics import median

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, provenance, read

FILE = "tiny-structure.json"
STEP = "bench-2b-w8-onnx.json"  # a plain step at full size


def tasks() -> str:
    """Without and with the language of each task."""
    values = read(FILE)
    columns = ("free: valid, exact", "structured: valid, exact", "difference of exact, points (95 %)", "steps")
    rows = header("task", "language", "n", *columns)
    for task, ways in values["tasks"].items():
        free, own = ways["free"], ways["structured"]
        gap = own["difference"]
        rows.append(
            f"| {task} | {ways['language']} | {own['n']} | {free['valid']:.0%}, {free['exact']:.0%} | "
            f"{own['valid']:.0%}, {own['exact']:.0%} | {100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} … "
            f"{100 * gap['high']:+.1f}) | {free['mean_steps']:.2f} → {own['mean_steps']:.2f} |"
        )
    return "\n".join([*rows, "", f"`{values['bundle']['recipe']}`, adaptive. {provenance(values)}"])


def schemas() -> str:
    """Answers to all schemas."""
    found = read(FILE)["schemas"]
    rows = header("answers", "valid", "path, ms a step", "whole step, ms")
    rows.append(f"| {found['answers']} | {found['valid']} | {found['path_ms']:.1f} | {found['step_ms']:.1f} |")
    return "\n".join(rows)


def costs() -> str:
    """With a vocabulary of the released model's size."""
    values = read(FILE)["costs"]
    rows = header("schema", "states", "edges", "library, s", "lift, s", "MB", "path, ms a step")
    found = sorted(values["schemas"].items(), key=lambda pair: pair[1]["path_ms"])
    for name, one in found:
        rows.append(
            f"| {name} | {one['states']} | {one['edges']} | {one['library_s']:.2f} | {one['lift_s']:.2f} | {one['mb']:.1f} | "
            f"{one['path_ms']:.0f} |"
        )
    paths = [one["path_ms"] for _, one in found]
    step_ms = read(STEP)["growth"][0]["step_ms"]["median"]
    middle, most = median(paths), max(paths)
    said = (
        f"V = {values['vocab']:,}, N = {values['canvas']}, {values['candidates']} candidates. Median {middle:.0f} ms, at most "
        f"{most:.0f} ms: {middle / step_ms:.1%} and {most / step_ms:.1%} of a plain step of 2b, which takes {step_ms:.0f} ms. "
        f"The vocabulary's tree takes {values['tree_s']:.1f} s and {values['tree_mb']:.0f} MB, once a session."
    )
    return "\n".join([*rows, "", said])


PAGE = Page(
    title="Answers of a language",
    intro="""
What [structure](../guides/control.md#structure) does on tiny: held-out prompts whose answers all are of one language, without
it and with it, on the same noise. Python's `re` and `jsonschema` judge what is valid. Seconds are of the processor.""",
    sections=(
        Section(
            heading="Tasks",
            table=tasks,
            after="""
tiny has learned these forms, so all that can be seen is whether structure does harm. Whether it helps a model that breaks the
form, tiny cannot say.""",
        ),
        Section(
            heading="Thirty schemas",
            before="""
Answers to prompts that ask for something else, so that the model wants nothing of what the schema says. They show that answers
are valid even then; what stands in their fields means nothing.""",
            table=schemas,
        ),
        Section(
            heading="A large vocabulary",
            before="""
Made-up ids in the number of the released model's, random candidates, no model. "library" is the time of outlines-core in a
process of its own, by the clock; "lift" leads the automaton to ids; both are once a language. "path" is what a step pays.""",
            table=costs,
        ),
    ),
)
