"""Tables and the picture of the page on stories: quality by steps, teacher and distilled, and autoregressive samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.plan.predict import digits
from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, provenance, read

NAME, SPEED, ACCOUNT, QUANTIZED = "story.json", "story-speed.json", "story-account.json", "story-quantized.json"
PICTURE = "story-steps.png"
POINTS, STEPS = 3, 8  # the goal: points lost at most against autoregressive samples, steps per canvas at least
LOST, SPREAD = 2, 0.95  # of a distilled one: points lost at most against its teacher, share of its spread at least


def share(part: Json) -> str:
    return f"{100 * part['value']:.1f} ({100 * part['low']:.1f} … {100 * part['high']:.1f})"


def spread(row: Json) -> str:
    return "–" if row["spread"] is None else f"{row['spread']:.3f}"


def broken(row: Json) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in list(row["broken"].items())[:3]) or "–"


def _row(name: str, row: Json) -> str:
    steps = "–" if row["steps_per_canvas"] is None else f"{row['steps_per_canvas']:.2f}"
    return (
        f"| {name} | {row['n']} | {steps} | {share(row['valid'])} | {share(row['coherent'])} | {100 * row['distinct']:.1f} | "
        f"{spread(row)} | {broken(row)} |"
    )


_COLUMNS = (
    "decoding", "stories", "steps per canvas", "valid, % (95 %)", "coherent, % (95 %)", "distinct, %", "spread",
    "rules broken most often",
)  # fmt: skip


def by_steps() -> str:
    """Every checkpoint, by T; and its autoregressive samples."""
    values, parts = read(NAME), list[str]()
    teacher = next(iter(values["checkpoints"].values()))
    for name, one in values["checkpoints"].items():
        parts += [f"`{name}`, {one['parameters']:,} parameters, canvas of {one['canvas']}:", ""]
        parts += header(*_COLUMNS)
        parts += [_row(f"T = {steps}", row) for steps, row in one["by_steps"].items()]
        parts += [_row(f"autoregressive, temperature {t}", row) for t, row in one["autoregressive"].items()]
        parts.append("")
        parts += [_distilled(one, teacher) if one["sampler"]["steps"] < STEPS else _verdict(one), ""]
    return "\n".join([*parts, provenance(values)])


def best_steps(one: Json) -> str:
    """The T at which most stories are valid."""
    by_steps: dict[str, Json] = one["by_steps"]
    return max(by_steps, key=lambda steps: by_steps[steps]["valid"]["value"])


def _distilled(one: Json, teacher: Json) -> str:
    """A distilled checkpoint at its own number of steps beside its teacher's best, and its teacher at as many steps."""
    own = str(one["sampler"]["steps"])
    row, same = one["by_steps"][own], teacher["by_steps"][own]
    best = teacher["by_steps"][best_steps(teacher)]
    valid, before, most = (100 * one["valid"]["value"] for one in (row, same, best))
    kept = row["spread"] / best["spread"]
    met = most - valid <= LOST and kept >= SPREAD
    return (
        f"At its own T = {own}, it takes {row['steps_per_canvas']:.1f} steps per canvas, and {valid:.1f} % of its stories are "
        f"valid; its teacher reaches {before:.1f} % with that T, and {most:.1f} % at its best. "
        f"Its spread is {100 * kept:.1f} % of the teacher's. The goal is {'met' if met else '**missed**'}."
    )


def _verdict(one: Json) -> str:
    """The best number of steps beside autoregressive samples."""
    best = best_steps(one)
    row, samples = one["by_steps"][best], {t: 100 * r["valid"]["value"] for t, r in one["autoregressive"].items()}
    valid, steps = 100 * row["valid"]["value"], row["steps_per_canvas"]
    gaps = ", ".join(f"{valid - value:+.1f} against temperature {t}" for t, value in samples.items())
    met = all(valid >= value - POINTS for value in samples.values()) and steps >= STEPS
    return (
        f"At its best, T = {best}, diffusion takes {steps:.1f} steps per canvas. Points of valid stories: {gaps}. "
        f"The goal is {'met' if met else '**missed**'}."
    )


def options() -> str:
    """Policies of the sampler on the checkpoints that take many steps."""
    values, parts = read(NAME), list[str]()
    for one in values["checkpoints"].values():
        if one["by_option"]:
            parts += header(*_COLUMNS)
            parts += [_row(name, row) for name, row in one["by_option"].items()]
    return "\n".join(parts)


def personas() -> str:
    """How many dialogues have no wrong answer yet."""
    turns = (1, 2, 4, 6, 8, 10)
    values = read(NAME)
    rows = header("checkpoint", "decoding", "dialogues", *(f"turn {t}, %" for t in turns), "all turns, % (95 %)")
    for name, one in values["checkpoints"].items():
        for way, row in one["persona"].items():
            by_turn = " | ".join(f"{100 * row['kept_by_turn'][t - 1]:.0f}" for t in turns)
            rows.append(f"| `{name}` | {way} | {row['n']} | {by_turn} | {share(row['kept'])} |")
    return "\n".join(rows)


def quantized() -> str:
    """Bundles beside the float checkpoint, and whether the gate's limits are kept."""
    values = read(QUANTIZED)
    rows = header(
        "recipe, engine", "valid, %: bundle", "valid, %: float", "lost, points (95 %)", "steps / float's (95 %)",
        "same story, %", "spread: bundle / float", "gate's limits",
    )  # fmt: skip
    for one in values["bundles"]:
        lost, steps, limits = one["lost"], one["step_inflation"], one["limits"]
        verdict = "kept" if one["passed"] else "**exceeded**"
        cells = (
            f"`{one['bundle']['recipe']}`, {one['engine']}",
            share(one["valid"]["bundle"]),
            share(one["valid"]["float"]),
            f"{100 * lost['value']:+.1f} ({100 * lost['low']:+.1f} … {100 * lost['high']:+.1f})",
            f"{steps['value']:.3f} ({steps['low']:.3f} … {steps['high']:.3f})",
            f"{100 * one['same_text']:.0f}",
            f"{one['spread']['bundle']:.3f} / {one['spread']['float']:.3f}",
            f"{verdict} ({limits['exact_match_loss']:g} points, {limits['step_inflation']:g})",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"{values['bundles'][0]['n']} stories. {provenance(values)}"])


def speed() -> str:
    """Tokens a second of bundles, both ways."""
    values = read(SPEED)
    rates = ("diffusion, tokens/s", "autoregressive, tokens/s", "ratio [quartiles]")
    rows = header("bundle", "stories", "steps per canvas", "valid, %", *rates)
    for name, one in values["bundles"].items():
        speeds = " | ".join(f"{one[key]['median']:.0f}" for key in ("diffusion", "autoregressive"))
        ratio = f"{one['ratio']['median']:.2f} [{one['ratio']['q1']:.2f} … {one['ratio']['q3']:.2f}]"
        rows.append(
            f"| `{name}` | {one['n']} | {one['steps_per_canvas']:.2f} | {100 * one['valid']:.0f} | {speeds} | {ratio} |"
        )
    return "\n".join([*rows, "", f"Medians. {provenance(values)}"])


def account() -> str:
    """What the steps of both checkpoints mean for large models, a table for each."""
    values, parts = read(ACCOUNT), list[str]()
    few, many = values["steps"]
    for model, found in values["models"].items():
        parts += [f"`{model}`:", ""]
        parts += header(
            "processor", "step, ms", "autoregressive, tokens/s", f"{many:.1f} steps, tokens/s", f"{few:.1f} steps, tokens/s",
            f"{few:.1f} steps / autoregressive", "break-even steps",
        )  # fmt: skip
        for p in found:
            slow, fast = p["diffusion_tokens_per_s"]
            one = p["autoregressive_tokens_per_s"]
            cells = (digits(p["step_ms"]), digits(one), digits(slow), digits(fast), f"{fast / one:.1f} ×")
            parts.append(f"| {p['processor']} | {' | '.join(cells)} | {p['break_even_steps']:.1f} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def draw(values: Json, path: Path) -> None:
    """Valid stories over T, a line for each checkpoint, and its autoregressive samples as level lines."""
    import io

    import matplotlib as mpl
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    palette = colormaps["tab10"]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.5, 4), layout="constrained")
        axes: Any = figure.subplots()
        for i, (name, one) in enumerate(values["checkpoints"].items()):
            steps = [int(t) for t in one["by_steps"]]
            valid = [row["valid"] for row in one["by_steps"].values()]
            axes.plot(
                steps, [100 * v["value"] for v in valid], "o-", markersize=3, color=palette(i), label=f"{name}, diffusion"
            )
            axes.fill_between(
                steps, [100 * v["low"] for v in valid], [100 * v["high"] for v in valid], color=palette(i), alpha=0.15
            )
            for style, (t, row) in zip((":", "--"), one["autoregressive"].items(), strict=False):
                label = f"{name}, token by token at {t}"
                axes.axhline(100 * row["valid"]["value"], color=palette(i), linestyle=style, linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(t) for t in steps])
        axes.set_xlabel("T, the most denoising steps per canvas")
        axes.set_ylabel("stories that the grammar accepts, %")
        axes.set_ylim(0, 101)
        axes.legend(frameon=False, fontsize=8)
        content = io.BytesIO()
        figure.savefig(content, dpi=150, format="png")
    report.write_whole(path, content.getvalue(), "--out")


PAGE = Page(
    title="A model that needs many steps",
    intro="""
tiny settles in two steps, so it cannot show what many steps cost and gain. `checkpoints/story` tells short stories from a
[grammar](../guides/story.md). A canvas has about ten free choices, and most of them bind what comes later. Because the grammar
is known, every story can be judged exactly:

- *valid*: the grammar accepts the story, and it is what the prompt asks for;
- *coherent*: of the stories that are right on their first canvas, those whose later canvases keep the persons, pronouns,
  places, the thing, and who has it;
- *distinct*: the share of different texts, with one seed per text;
- *spread*: the entropy of the free choices; 1 if all choices are as likely as in the grammar.

`dgemma` decodes autoregressively without sampling, so it would tell the same story every time. For the autoregressive rows,
tokens were sampled from the same weights: at temperature 1, the grammar's own distribution, and at 0.6, the middle of the
sampler's schedule.""",
    sections=(
        Section(
            heading="By steps",
            before=f"![Valid stories by steps](../../benchmarks/results/{PICTURE})",
            table=by_steps,
            after="""
The goal of `story` was a share of valid stories within 3 points of autoregressive samples of the same weights, with 8 steps per
canvas or more. `story-4` was [distilled](../guides/story.md#fewer-steps) from it; its goal was to lose at most 2 points against
the teacher's best with 4 steps, and to keep 95 % of its spread.""",
        ),
        Section(
            heading="Policies of the sampler",
            before='With the checkpoint\'s T of 48; "stock" is its own sampler.',
            table=options,
        ),
        Section(
            heading="A persona for ten turns",
            before="""
The model introduces itself and then answers nine questions about what it said, mixed with questions about its day. All answers
in the conversation are its own. The table gives the share of dialogues without a wrong answer up to each turn.""",
            table=personas,
        ),
        Section(
            heading="Quantized",
            before="""
Bundles and the float model tell the same stories with the same noise. A canvas here takes many steps, and each of them draws
tokens, so a small change of the logits soon leads to another story. Such a story can be just as good: what counts is the share
of valid ones. The table applies the limits of the [gate](../how-it-works/quantization.md#the-gate) for exact match to it.""",
            table=quantized,
        ),
        Section(
            heading="Speed",
            before="Long stories, which fill three canvases and part of a fourth.",
            table=speed,
        ),
        Section(
            heading="At full size",
            before="""
**Predicted, not measured:** what the steps above would mean for large models, by `dgemma plan`, on each processor that fits
the model. Recipe `w4-mixed`, soft embeddings of the 16 likeliest ids, a prompt of 128 tokens, an answer of 512, canvases of
256. The first number of steps is that of `story` at its best, the second that of `story-4`. Two things are assumed: that a
canvas of 256 takes as many steps as story's canvas of 32, and that a large model can be distilled as `story` was. Others
report 12 to 20 steps for the released model, and `story-4` lost quality. *Break-even steps* is the number of steps per canvas
at which diffusion and autoregressive decoding are equally fast.""",
            table=account,
        ),
    ),
)
