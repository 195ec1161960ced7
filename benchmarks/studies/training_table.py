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
    rows = header("levels", "seed", *(f"held-out loss, step {step}" for step in steps[1:]), "scatter of the loss per step")
    for kind, found in runs.items():
        for seed, one in enumerate(found):
            losses = " | ".join(f"{one['held_out'][str(step)]:.3f}" for step in steps[1:])
            rows.append(f"| {kind} | {seed} | {losses} | {one['step_loss_deviation']:.3f} |")
    last = str(steps[-1])
    gaps = [b["held_out"][last] - a["held_out"][last] for a, b in zip(runs["uniform"], runs["learned"], strict=True)]
    said = (
        f"Held-out loss with learned minus uniform levels, by seed: {', '.join(f'{gap:+.3f}' for gap in gaps)} nats; mean "
        f"{mean(gaps):+.3f}. {values['steps']} steps, {runs['uniform'][0]['tokens']:,} tokens per run. {machine_line(values)}"
    )
    return "\n".join([*rows, "", said])


PAGE = Page(
    title="Training",
    intro="The effect of options of `dgemma train`. The page on the [objective](../how-it-works/training.md) explains them.",
    sections=(
        Section(
            heading="Learned noise levels",
            before="""
A model of half tiny's width and half its layers was trained on tiny's exercises from scratch, with `levels = "uniform"` and
with `levels = "learned"`. `pure_noise_share` was 0 in both, so every row of a batch draws its level. Held-out losses use
uniform levels. The scatter is the standard deviation of the denoiser's loss over the last third of the steps.""",
            table=levels,
            after="The two differ by no more than two seeds do. These runs are short, and the model is small.",
        ),
    ),
)
