"""Tables of training: what an option of the objective changes."""

from __future__ import annotations

from statistics import mean

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, read

LEVELS = "tiny-levels.json"
ADAPT = "tiny-adapt.json"
POINTS, SHARE = 2, 0.25  # the goal of adapting: points lost at most, and tokens as a share of those of training from scratch


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


def adapted() -> str:
    """Exact match of a causal model, what `dgemma adapt` made of it, and tiny; what the goal was."""
    values = read(ADAPT)
    models = values["models"]

    def cell(row: Json, decoder: str) -> str:
        if (found := row.get(decoder)) is None:
            return "–"
        return f"{100 * found['exact']:.1f} ({100 * found['low']:.1f} … {100 * found['high']:.1f})"

    names = {"causal": "trained token by token", "adapted": "the same, adapted", "scratch": "tiny, from scratch"}
    rows = header("model", "tokens trained on", "exact match, diffusion, %", "exact match, token by token, %")
    for name, title in names.items():
        row = models[name]
        rows.append(f"| {title} | {row['tokens']:,} | {cell(row, 'diffusion')} | {cell(row, 'autoregressive')} |")
    gap, share = models["difference"], models["adapted"]["tokens"] / models["scratch"]["tokens"]
    met = 100 * gap["value"] >= -POINTS and share <= SHARE
    said = (
        f"Adapted minus from scratch, paired: {100 * gap['value']:+.1f} points ({100 * gap['low']:+.1f} … "
        f"{100 * gap['high']:+.1f}), with {share:.0%} of the tokens. The goal was at most {POINTS} points lost with "
        f"{SHARE:.0%}: {'met' if met else '**missed**'}. {values['prompts']} held-out prompts; {machine_line(values)}"
    )
    return "\n".join([*rows, "", said, "", *_by_task(models)])


def _by_task(models: Json) -> list[str]:
    """Tasks on which the two denoisers differ by 4 points or more, the largest difference first."""
    ours, theirs = models["adapted"]["diffusion"]["tasks"], models["scratch"]["diffusion"]["tasks"]
    apart = sorted((task for task in theirs if abs(ours[task] - theirs[task]) >= 0.04), key=lambda one: ours[one] - theirs[one])
    if not apart:
        return ["No task differs by 4 points or more."]
    each = [f"`{task}` {100 * theirs[task]:.0f} → {100 * ours[task]:.0f} %" for task in apart]
    return [f"Tasks that differ by 4 points or more, from scratch → adapted: {', '.join(each)}."]


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
        Section(
            heading="A causal model, adapted",
            before="""
A model of tiny's shape was trained on tiny's exercises with only the next-token loss, and saved in the layout that transformers
uses for causal Gemma 4 models. [`dgemma adapt`](../guides/train.md#adapt-a-causal-model) then made it a denoiser, on the same
exercises. tiny itself learned to denoise from random weights. All three run in PyTorch, with tiny's sampler.""",
            table=adapted,
        ),
    ),
)
