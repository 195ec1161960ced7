"""Tables of the sampler's options and of templates, on tiny."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, interval, provenance, read


def options() -> str:
    """Options of the sampler."""
    values = read("tiny-control.json")
    rows = header("option", "n", "exact match (95 %)", "against stock, points (95 %)", "steps")
    for name, one in values["sampled"].items():
        gap = one["difference"]
        rows.append(
            f"| {name} | {one['n']} | {one['exact']:.1%} ({interval(one, 100, '.1f')}) | "
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) | {one['mean_steps']:.2f} |"
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
            f"{100 * gap['value']:+.1f} ({interval(gap, 100, '+.1f')}) |"
        )
    return "\n".join(rows)


def choices() -> str:
    """How often the most probable choice is right, by how probable it is."""
    values = read("tiny-choices.json")
    rows = header("largest probability", "n", "mean", "right (95 %)")
    for one in values["bins"]:
        low, high = one["interval"]
        span = f"{one['low']:g} to {one['high']:g}"
        rows.append(f"| {span} | {one['n']} | {one['mean']:.3f} | {one['right']:.1%} ({100 * low:.1f} … {100 * high:.1f}) |")
    facts = (
        f"All {values['n']} questions: mean of the largest probability {values['mean_probability']:.3f}, most probable choice "
        f"right {values['right']:.1%}, answer right {values['answer_right']:.1%}; calibration error "
        f"{values['calibration_error']:.3f}; {values['position_forwards']:.0f} position-forwards, "
        f"{values['plain_position_forwards']:.0f} without probabilities."
    )
    return "\n".join([*rows, "", facts, "", f"`{values['bundle']['recipe']}`. {provenance(values)}"])


def tuned() -> str:
    """What tuning found, on the questions that it chose by and on the others."""
    values = read("tiny-tune.json")
    rows = header(
        "questions",
        "n",
        "exact: bundle's own, tuned",
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


PAGE = Page(
    title="Options of the sampler",
    intro="""
Exact match and steps of tiny with [options of the sampler](../guides/control.md), probabilities of choices, and templates
beside prompting alone. "Stock" is the bundle's own sampler; all options ran on the same prompts and noise.""",
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
            heading="Probabilities of choices",
            before="""
Held-out questions with answers of at most 12 tokens. Each has four choices: its answer, and three near misses, in which one
letter or digit is another one. "Right" is the share of questions whose most probable choice is the answer.""",
            table=choices,
            after="""
Where tiny is sure, it is right; where it is not, it is right less often, in questions that are too few to say how much less.
The price is a step for every beginning of a choice, about twelve times the work of the answer. The answers themselves are right
as often.""",
        ),
        Section(
            heading="Tuned options",
            before="""
What [`dgemma tune`](../guides/tune.md) found on half of the held-out prompts, and what that does on the other half. Lower
bounds are at one-sided 95 %.""",
            table=tuned,
            after="""
What is saved comes from canvases that start with four positions and commit early, as on the page about
[less work](less-work.md); schedule, bound and stop rule matter little on tiny. These are more steps, but smaller: fewer
position-forwards, which on a model as small as tiny need not be more tokens/s. For those, ask by
`--objective tokens-per-second`.""",
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
