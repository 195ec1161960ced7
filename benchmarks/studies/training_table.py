"""Tables of training: what an option of the objective changes."""

from __future__ import annotations

from statistics import mean

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, read

LEVELS = "tiny-levels.json"


def machine_line(values: Json) -> str:
    facts = values["machine"]
    return f"{facts['cpu']}; torch {facts['versions'].get('torch', '?')}; {facts['date'][:10]}."


def levels() -> str:
    """Held-out losses of uniform and of learned levels, by seed."""
    values = read(LEVELS)
    runs, steps = values["runs"], sorted(map(int, values["runs"]["uniform"][0]["held_out"]))
    rows = header("levels", "seed", *(f"held out, step {step}" for step in steps[1:]), "scatter of a step's loss")
    for kind, found in runs.items():
        for seed, one in enumerate(found):
            losses = " | ".join(f"{one['held_out'][str(step)]:.3f}" for step in steps[1:])
            rows.append(f"| {kind} | {seed} | {losses} | {one['step_loss_deviation']:.3f} |")
    last = str(steps[-1])
    gaps = [b["held_out"][last] - a["held_out"][last] for a, b in zip(runs["uniform"], runs["learned"], strict=True)]
    said = (
        f"Learned less uniform at the end, by seed: {', '.join(f'{gap:+.3f}' for gap in gaps)} nats; mean {mean(gaps):+.3f}. "
        f"{values['steps']} steps, {runs['uniform'][0]['tokens']:,} tokens a run. {machine_line(values)}"
    )
    return "\n".join([*rows, "", said])


PAGE = Page(
    title="Training",
    intro="What options of `dgemma train` change; the [objective](../how-it-works/training.md) says what they are.",
    sections=(
        Section(
            heading="Learned noise levels",
            before="""
A model of half tiny's width and half its layers, trained on tiny's exercises from scratch, with `levels = "uniform"` and with
"learned"; `pure_noise_share = 0` in both, so that every row draws its level. Both are measured with uniform levels. The scatter
is the standard deviation of the denoiser's loss over the last third of the steps.""",
            table=levels,
            after="The two differ by no more than seeds do. Runs are short and the model is small.",
        ),
    ),
)
