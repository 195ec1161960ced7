"""Tables of the sampler's options and of templates, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, interval, provenance, read


def options() -> str:
    """Options of the sampler."""
    values = read("tiny-control.json")
    rows = header("option", "n", "exact match (95 %)", "difference from stock, points (95 %)", "steps")
    for name, one in values["sampled"].items():
        gap = one["difference"]
        rows.append(
            f"| {name} | {one['n']} | {one['exact']:.1%} ({interval(one, 100, '.1f')}) | "
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) | {one['mean_steps']:.2f} |"
        )
    return "\n".join([*rows, "", f"`{values['bundle']['recipe']}`, adaptive. {provenance(values)}"])


def templates() -> str:
    """Templates made from the right answers, and prompts without one."""
    found = read("tiny-control.json")["templates"]
    columns = ("template: exact match, steps", "prompt only: exact match, steps", "difference, points (95 %)")
    rows = header("task", "pinned", "n", *columns)
    for task, ways in found.items():
        own, alone = ways["template"], ways["prompt alone"]
        gap = own["difference"]
        rows.append(
            f"| {task} | {ways['pinned']} | {own['n']} | {own['exact']:.0%}, {own['mean_steps']:.2f} | "
            f"{alone['exact']:.0%}, {alone['mean_steps']:.2f} | "
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) |"
        )
    return "\n".join(rows)


def choices() -> str:
    """How often the most probable choice is right, by how probable it is."""
    values = read("tiny-choices.json")
    rows = header("largest probability", "n", "its mean", "right (95 %)")
    for one in values["bins"]:
        low, high = one["interval"]
        span = f"{one['low']:g} to {one['high']:g}"
        rows.append(f"| {span} | {one['n']} | {one['mean']:.3f} | {one['right']:.1%} ({100 * low:.1f} … {100 * high:.1f}) |")
    facts = (
        f"All {values['n']} questions: the mean of the largest probability is {values['mean_probability']:.3f}; the most "
        f"probable choice is right in {values['right']:.1%}, the generated answer in {values['answer_right']:.1%}; the "
        f"calibration error is {values['calibration_error']:.3f}. A question takes {values['position_forwards']:.0f} "
        f"position-forwards, {values['plain_position_forwards']:.0f} without probabilities."
    )
    return "\n".join([*rows, "", facts, "", f"`{values['bundle']['recipe']}`. {provenance(values)}"])


def tuned() -> str:
    """The tuned options, on the questions that chose them and on the others."""
    values = read("tiny-tune.json")
    rows = header(
        "questions",
        "n",
        "exact match: bundle's own options, tuned",
        "difference, points (lower bound)",
        "position-forwards, tuned / own (95 %)",
    )
    for half in ("tuning", "held_out") if values["options"] else ():
        one = values[half]
        gap, ratio = one["difference"], one["ratio"]
        rows.append(
            f"| {half.replace('_', ' ')} | {one['n']} | {one['stock_exact']:.1%}, {one['exact']:.1%} | "
            f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f}) | "
            f"{ratio['value']:.3f} ({ratio['low']:.3f} … {ratio['high']:.3f}) |"
        )
    said = ", ".join(
        f"{name} {':'.join(map(str, value)) if isinstance(value, list) else value}" for name, value in values["options"].items()
    )
    facts, holds = values["machine"], "a profile was written" if values["holds"] else "no profile was written"
    return "\n".join(
        [
            *rows,
            "",
            f"{values['trials']} trials, margin {100 * values['settings']['margin']:g} points: {holds}. Options: {said}.",
            "",
            f"{facts['cpu']}, {facts['cores']} cores; {facts['date'][:10]}.",
        ]
    )


def costs() -> str:
    """Time of a step with options, relative to one without."""
    values = read("2b-option-cost.json")
    rows = header("option", "ms a step", "relative to no option, in the same round (quartiles)")
    for name, one in values["costs"].items():
        rows.append(f"| {name} | {1e3 * one['s_a_step']:.0f} | {one['ratio']:.3f} ({one['low']:.3f} … {one['high']:.3f}) |")
    how = f"{values['options']['rounds']} rounds of {values['options']['steps']} steps behind {values['prompt_tokens']} tokens"
    return "\n".join([*rows, "", f"`2b` shape, `{values['bundle']['recipe']}`, random weights; {how}. {provenance(values)}"])


PAGE = Page(
    title="Options of the sampler",
    intro="""
Exact match and steps of tiny with [options of the sampler](../guides/control.md), probabilities of choices, tuned options and
templates. "Stock" is the bundle's own sampler. All options ran on the same prompts and noise.""",
    sections=(
        Section(
            heading="Sampling and stop rule",
            table=options,
            after="""
On tiny, no option is better than the bundle's own sampler by more than these prompts can show: most canvases are decided in
their first step, and later steps confirm it. Ending after the first step (`--steps 1`, `--stability 0`) halves the steps and
costs accuracy. A lower `--confidence` only adds steps. tiny cannot show the effect on a model that needs more steps.""",
        ),
        Section(
            heading="Time of a step",
            before="""
One canvas with each option in turn, in every round. The goals: at most 1.05 × for options that cut the draw, and 2.05 × for
guidance with a negative prompt of the same length.""",
            table=costs,
            after="""
Options other than guidance work on 16 candidates a position, which takes about a millisecond: the differences between them are
noise of the machine, as between the first two rows. Guidance computes the step twice. One call for both prompts would read the
weights once, but with 256 rows the time goes into arithmetic, not into reading.""",
        ),
        Section(
            heading="Probabilities of choices",
            before="""
Held-out questions with answers of at most 12 tokens. Each has four choices: the right answer, and three near misses with one
wrong letter or digit. "Right" is the share of questions whose most probable choice is the right answer.""",
            table=choices,
            after="""
If tiny is sure, it is right. If it is unsure, it is right less often, but there are too few such questions to say by how much.
Probabilities cost one step for every beginning of a choice, about twelve times the work of the answer. The generated answers
are right about as often as the most probable choices.""",
        ),
        Section(
            heading="Tuned options",
            before="""
[`dgemma tune`](../guides/tune.md) chose options by half of the held-out prompts; the other half checks them. Lower bounds are
one-sided 95 % bounds.""",
            table=tuned,
            after="""
The savings come from canvases that start with four positions and commit early, as on the page about
[less work](less-work.md); schedule, entropy bound and stop rule matter little on tiny. The tuned options take more, but smaller
steps. Fewer position-forwards do not always mean more tokens/s on a model as small as tiny; `--objective tokens-per-second`
tunes for those.""",
        ),
        Section(
            heading="Templates",
            before="""
Templates are made from the right answers: they contain the pinned text and the number of tokens in each hole. A prompt without
a template has none of this information, so a difference would show how much the model uses it, not a gain in ability.""",
            table=templates,
            after="""
tiny answers nearly all of these prompts without a template, so the table shows only that pinned text does no harm: as many
answers are right, in about as many steps. Whether templates help a model that fails without them is not known.""",
        ),
    ),
)
