"""Tables of the page on fine-tuning: against the goal, what runs learned and kept and cost, by task, and the gate."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, percent, read

NAME = "tiny-finetune.json"
LEARNED, LOST, SECONDS = 0.9, 0.01, 600.0  # the goal
_TITLES = {"full": "all weights", "lora": "LoRA, rank 8", "alone": "all weights, no `--replay`"}
_OF_GOAL = ("full", "lora")


def _points(change: Json) -> str:
    return f"{100 * change['value']:+.1f} ({100 * change['low']:+.1f} … {100 * change['high']:+.1f})"


def _said(good: bool) -> str:
    return "met" if good else "**missed**"


def goal() -> str:
    """The goal's parts, each with what was measured and whether that meets it."""
    values = read(NAME)
    rows = header("goal", *(_TITLES[kind] for kind in _OF_GOAL))

    def row(title: str, shown: dict[str, str], good: dict[str, bool]) -> str:
        return f"| {title} | {' | '.join(f'{shown[kind]}: {_said(good[kind])}' for kind in _OF_GOAL)} |"

    runs = {kind: values["runs"][kind] for kind in _OF_GOAL}
    exact = {kind: one["new"]["exact"] for kind, one in runs.items()}
    lost = {kind: -one["change"]["value"] for kind, one in runs.items()}
    used = {
        kind: one["two_threads"]["wall_s"] if one.get("two_threads") else one["cost"]["processor_s"]
        for kind, one in runs.items()
    }
    by = {kind: "two threads" if one.get("two_threads") else "one core" for kind, one in runs.items()}
    rows += [
        row("exact match on the new task: at least 90 %", {kind: f"{100 * x:.1f} %" for kind, x in exact.items()},
            {kind: x >= LEARNED for kind, x in exact.items()}),
        row("lost on the other tasks: at most 1 point", {kind: f"{100 * x:.1f} points" for kind, x in lost.items()},
            {kind: x <= LOST for kind, x in lost.items()}),
        row("at most 10 minutes on 2 cores", {kind: f"{x / 60:.1f} min of {by[kind]}" for kind, x in used.items()},
            {kind: x <= SECONDS for kind, x in used.items()}),
        f"| merged, exported with `w8`: passes the gate | – | {_said(values['gate']['passed'])} |",
    ]  # fmt: skip
    return "\n".join(rows)


def runs() -> str:
    values = read(NAME)
    rows = header(
        "tiny", "new task, exact (95 %)", "other tasks, exact (95 %)", "change there, points (95 %)", "steps, of them kept",
        "processor time, min", "wall time, min",
    )  # fmt: skip
    base = values["base"]
    rows.append(f"| as it ships | {percent(base['new'])} | {percent(base['own'])} | – | – | – | – |")
    for kind, one in values["runs"].items():
        cost = one["cost"]
        rows.append(
            f"| {_TITLES[kind]} | {percent(one['new'])} | {percent(one['own'])} | {_points(one['change'])} | "
            f"{one['steps']}, {one['best_step']} | {cost['processor_s'] / 60:.1f} | {cost['wall_s'] / 60:.1f} |"
        )
    facts, example = values["machine"], values["example"]
    return "\n".join(
        [
            *rows,
            "",
            f"New task, {values['conversations']} examples: “{example['prompt']}” is to give “{example['answer']}”; "
            f"{base['new']['n']} held-out prompts. Other tasks: {base['own']['n']}, {values['per_task']} a task; "
            f"{values['replayed']:,} conversations replayed. {facts['cpu']}, {facts['cores']} cores, "
            f"{values['options']['threads']} threads, load average {facts['load_average']}; "
            f"torch {facts['versions']['torch']}; {facts['date'][:10]}.",
        ]
    )


def tasks() -> str:
    values = read(NAME)
    rows = header("task", "as it ships", *(_TITLES[kind] for kind in values["runs"]))
    for task, right in values["base"]["tasks"].items():
        after = " | ".join(str(one["tasks"][task]) for one in values["runs"].values())
        rows.append(f"| `{task}` | {right} | {after} |")
    return "\n".join([*rows, "", f"Right answers, of {values['per_task']}."])


def gate() -> str:
    found = read(NAME)["gate"]
    rows = header("check", "figure", "limit")
    rows += [f"| {check['name']} | {check['value']:.4g} | {check['limit']:g} |" for check in found["checks"]]
    match, ladder = found["exact_match"], found["ladder"]
    return "\n".join(
        [
            *rows,
            "",
            f"{found['prompts']} prompts; exact match of the float model {100 * match['float']['value']:.1f} %, of the bundle "
            f"{100 * match['artifact']['value']:.1f} %. Rungs of the ladder passed: {sum(ladder.values())} of {len(ladder)}. "
            f"Export took {found['export']['processor_s'] / 60:.1f} minutes of processor time, "
            f"verify {found['verify']['processor_s'] / 60:.1f}.",
        ]
    )


PAGE = Page(
    title="Fine-tuning",
    intro="""
`tiny` learns a task that it does not know from 500 examples, by `dgemma finetune` with its defaults; see the
[guide](../guides/finetune.md). The task is made of two that it knows: a word backwards, and in capital letters. No word of the
held-out prompts occurs in any data of training.""",
    sections=(
        Section(
            heading="Against the goal",
            before="The goals were set before anything was measured.",
            table=goal,
            after="""
The machine was shared. "One core" is processor time, of all threads and with the start of Python; with one thread, it is what
an idle core of this machine needs at most. "Two threads" is wall time on a nearly idle machine. A machine with AVX2 alone
takes longer, which was not measured.""",
        ),
        Section(
            heading="Learned, kept, and what it took",
            before="""
The change is that of exact match on the same prompts with the same noise. The task was chosen after one trial run of two
candidates. LoRA's rate and the number of steps were compared on prompts that are also among these; the rate of all weights and
how much replayed rows count, on others.""",
            table=runs,
        ),
        Section(heading="By task", table=tasks),
        Section(
            heading="The gate",
            before="""
The merged adapter as a bundle, `w8` on ONNX Runtime, by `dgemma verify --checkpoint`: prompts of the other tasks and of the new
one.""",
            table=gate,
        ),
    ),
)
