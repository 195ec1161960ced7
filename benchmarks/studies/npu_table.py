"""The tables of the studies of NPUs in the emulator, from their committed JSON."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import RESULTS, Json, header, read

PLACES = {"": "emulator", "-sources": "ONNX Runtime"}


def _runs(place: str) -> list[Json]:
    """Of every recipe that was asked there."""
    names = (f"tiny-npu{place}-{recipe}.json" for recipe in ("fp32", "w8a16", "w4a16-mixed"))
    return [read(name) for name in names if (RESULTS / name).exists()]


def _header(run_by: str) -> list[str]:
    return header(
        "recipe", "run by", "prompts", f"exact match, {run_by} / float", "loss, points (95 %)", f"steps, {run_by} / float",
        "equal trajectories", "same answer", "first difference of the others",
    )  # fmt: skip


def _row(values: Json, where: str) -> str:
    """Answers right, steps, trajectories, and the decisions at which others first differ."""
    match, steps, lost = values["exact_match"], values["steps"], values["exact_match_loss"]
    part, least, most = (100 * lost[end] for end in ("value", "low", "high"))
    cells = (
        f"`{values['recipe']}` as {values['precision']}",
        where,
        f"{values['prompts']} of {values['wanted']}",
        f"{match['npu']['value']:.1%} / {match['float']['value']:.1%}",
        f"{part:+.1f} ({least:+.1f} … {most:+.1f})",
        f"{steps['npu']} / {steps['float']}",
        str(values["equal_trajectories"]),
        str(values["same_tokens"]),
        ", ".join(f"{rule} {count}" for rule, count in values["parted_by"].items()) or "none",
    )
    return f"| {' | '.join(cells)} |"


def npu() -> str:
    """A row a recipe and place."""
    rows, notes = _header("NPU"), []
    for place, where in PLACES.items():
        for values in _runs(place):
            rows.append(_row(values, where))
            if place == "" and values["prompts"] == values["wanted"]:  # others were interrupted
                notes.append(f"`{values['recipe']}` {values['seconds'] / 60:.0f} minutes")
    versions = ", ".join(f"{name} {version}" for name, version in read("tiny-npu-fp32.json")["versions"].items())
    return "\n".join(
        [*rows, "", f"Time for all prompts in the emulator: {', '.join(notes)}, on a machine busy with other work; {versions}."]
    )


def coreml() -> str:
    """A row a recipe."""
    found = [read(path.name) for path in sorted(RESULTS.glob("tiny-coreml-*.json"))]
    versions = ", ".join(f"{name} {version}" for name, version in found[0]["versions"].items())
    return "\n".join([*_header("Core ML's"), *(_row(values, "numpy") for values in found), "", f"{versions}."])


def ablation() -> str:
    """A row a variant: Kullback-Leibler divergence of a step's distributions from the float model's, and other argmax."""
    values = read("tiny-npu-ablation.json")
    rows = header("recipe", "variant", "mean KL, nats", "99th percentile of KL", "worst KL", "other argmax")
    for row in values["rows"]:
        figures = " | ".join(f"{row[key]:.1e}" for key in ("kl_mean", "kl_p99", "kl_max"))
        rows.append(f"| `{row['recipe']}` | {row['name'].replace('alone', 'only')} | {figures} | {row['other_argmax']:.2%} |")
    return "\n".join([*rows, "", f"{values['steps']} steps of the float model on {values['prompts']} held-out prompts."])


def compiling() -> str:
    """A row a context that was compiled; then what they come to, and all of the model by the plan's shares."""
    rows = header("chip", "context", "graphs", "processor seconds, planned", "memory, GB, planned", "MB, of weights")
    notes = []
    for path in sorted(RESULTS.glob("npu-compile*.json")):
        values = read(path.name)
        for c in values["contexts"]:
            planned = c["planned"]
            cells = (
                values["chip"],
                f"`{c['graphs'][0]['name']}` … `{c['graphs'][-1]['name']}`",
                str(len(c["graphs"])),
                f"{c['processor_s']:.0f}, {planned['processor_s']:.0f}",
                f"{c['peak_bytes'] / 1e9:.1f}, {planned['peak_bytes'] / 1e9:.1f}",
                f"{c['bytes'] / 1e6:.0f}, {planned['bytes'] / 1e6:.0f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
        notes.append(_extrapolated(values))
    return "\n".join([*rows, "", *notes])


def _extrapolated(values: Json) -> str:
    """What one file's contexts say of the whole model."""
    found = values["totals"]
    versions = ", ".join(f"{name} {version}" for name, version in values["versions"].items())
    whole = found["contexts"] == found["of"]
    said = "all" if whole else f"{found['contexts']} of {found['of']}, {found['share_of_the_work']:.0%} of the planned work"
    rest = "" if whole else f", so all would take about {found['whole_processor_s'] / 60:.0f} minutes"
    load = max(c["load_average"] for c in values["contexts"])
    return (
        f"{values['chip']}, context {values['context']}: {said}; {found['processor_s'] / 60:.0f} minutes of processor time"
        f"{rest}, on two cores half of that. Measured at a load of up to {load:.0f} on "
        f"{values['machine']['cores']} virtual cores ({values['machine']['cpu']}); {versions}.\n"
    )


PAGE = Page(
    title="A Snapdragon's NPU, emulated",
    intro="""
`dgemma export --target qnn:CHIP` compiles layers and head for an NPU ([guide](../guides/accelerators.md)). **Nothing here was
measured on a phone.** Qualcomm's emulator answered held-out prompts, spread over the tasks, with the same noise as the float
model and with early stopping. In the other rows, ONNX Runtime ran the same graphs on the processor, with the same integers and
ranges but float32 between products. One pass of the emulator differs from it by 1e-3 (relative, hidden states).

The goals are the gate's limits: `w8a16` within 0.5 points of float and 1.02 times its steps, `w4a16-mixed` within 2 points and
1.10 times. *Same answer* counts answers with the float model's tokens, even if the trajectory differs on the way. The last
column counts the decisions at which the other trajectories first differ: positions accepted (accept), a token drawn (sample),
or the likeliest token (argmax).""",
    sections=(
        Section(table=npu),
        Section(
            heading="What each choice costs",
            before="""
Single steps on the float model's own canvases, soft embeddings and prefixes; the graph of the layers ran in float32 on the
processor. *KL* is the divergence from the float model's distribution, and *other argmax* the share of positions with another
likeliest token. Ranges are relative to the largest magnitude that occurs in four prompts; `as exported` uses twice that.""",
            table=ablation,
        ),
        Section(
            heading="Compiling 2b",
            before="""
Contexts of `2b` with random integers, `w4a16-mixed`, grouped as `dgemma export` groups them. A compiler keeps what it made of
every graph's weights until it writes the context: about 4 bytes for each stored byte and graph. All graphs of 26 layers
in one context would need about 50 GB, so a context has two layers. *Planned* is what `dgemma export --dry-run` counts with.
Seconds are processor seconds on a busy machine, where two programs share a core; on an idle one they are fewer.""",
            table=compiling,
        ),
        Section(
            heading="Core ML's files, read back",
            before="""
`dgemma export --target coreml` writes methods that nothing here can run. These are the functions in its files, with the
integers and scales that are there, computed with numpy and rounded to float16 after every operator; a device may round sums
inside an operator otherwise. The same prompts and noise.""",
            table=coreml,
        ),
    ),
)
