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
    columns = (
        "free: valid, exact match",
        "structured: valid, exact match",
        "difference of exact match, points (95 %)",
        "steps",
    )
    rows = header("task", "language", "n", *columns)
    for ways in values["tasks"]:
        free, own = ways["free"], ways["structured"]
        gap = own["difference"]
        rows.append(
            f"| {ways['task']} | {ways['language']} | {own['n']} | {free['valid']:.0%}, {free['exact']:.0%} | "
            f"{own['valid']:.0%}, {own['exact']:.0%} | {100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} … "
            f"{100 * gap['high']:+.1f}) | {free['mean_steps']:.2f} → {own['mean_steps']:.2f} |"
        )
    return "\n".join([*rows, "", f"`{values['bundle']['recipe']}`, adaptive. {provenance(values)}"])


def forced() -> str:
    """Answers of all schemas and grammars."""
    rows = header("", "answers", "valid", "search, ms per step", "whole step, ms")
    for kind, found in read(FILE)["forced"].items():
        rows.append(f"| {kind} | {found['answers']} | {found['valid']} | {found['path_ms']:.1f} | {found['step_ms']:.1f} |")
    return "\n".join(rows)


def costs() -> str:
    """With a vocabulary of the released model's size."""
    values = read(FILE)["costs"]
    rows = header("language", "states", "edges", "library, s", "lift, s", "MB", "search, ms per step")
    found = sorted(values["languages"].items(), key=lambda pair: pair[1]["path_ms"])
    for name, one in found:
        kind = "grammar" if one["kind"] == "grammar" else "schema"
        rows.append(
            f"| {kind} `{name}` | {one['states']} | {one['edges']} | {one['library_s']:.2f} | {one['lift_s']:.2f} | "
            f"{one['mb']:.1f} | {one['path_ms']:.0f} |"
        )
    paths = [one["path_ms"] for _, one in found]
    step_ms = read(STEP)["growth"][0]["step_ms"]["median"]
    middle, most = median(paths), max(paths)
    said = (
        f"{values['vocab']:,} ids, canvas {values['canvas']}, {values['candidates']} candidates per position. The median "
        f"search takes {middle:.0f} ms and the longest {most:.0f} ms: {middle / step_ms:.1%} and {most / step_ms:.1%} of a "
        f"step of 2b without structure, which takes {step_ms:.0f} ms. The vocabulary's tree takes {values['tree_s']:.1f} s and "
        f"{values['tree_mb']:.0f} MB, once per session."
    )
    return "\n".join([*rows, "", said])


PAGE = Page(
    title="Answers of a language",
    intro="""
The effect of [structure](../guides/structure.md) on tiny. Structure restricts answers to a language, given as a regular
expression, a JSON schema or a grammar. Held-out prompts whose answers are all in one language were answered freely and with
structure, on the same noise. Python's `re`, `jsonschema` and lark's parser decide whether an answer is valid. Times are
processor time.""",
    sections=(
        Section(
            heading="Tasks",
            table=tasks,
            after="""
tiny has learned these forms, so the table shows only that structure does no harm. tiny cannot show whether it helps a model
that breaks the form.""",
        ),
        Section(
            heading="Thirty schemas, two grammars",
            before="""
The prompts ask for something else, so structure has to force every answer. The grammars are sums with brackets and any JSON, of
the default depth. Answers are valid even then, but what they say means nothing. *Search* is the time to find the likeliest
canvas in the language.""",
            table=forced,
        ),
        Section(
            heading="A large vocabulary",
            before="""
A made-up vocabulary as large as the released model's, with random candidates and without a model. *Library* is the wall time of
outlines-core, in its own process, or of lark and the unrolling for a grammar; *lift* translates the automaton from bytes to
ids. Both run once per language. *Search* runs in every step.""",
            table=costs,
        ),
    ),
)
