"""Writes the pages of docs/results, each whole, from committed benchmark JSON.

    python -m dgemma.benchmarks.studies.pages

Tables come from `tables.py`, commands and files from `registry.py`. Every figure in a page is in a table, so the prose here
stays true when a result is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dgemma.benchmarks.studies import (
    control_table,
    experts_table,
    figures,
    finetune_table,
    guidance_table,
    mixture_table,
    npu_forecast_table,
    npu_table,
    released_tables,
    same_table,
    serve_table,
    story_table,
    structure_table,
    tables,
    training_table,
)
from dgemma.benchmarks.studies.page import NOTICE, Page, Section

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"


TWO_COMMANDS = Page(
    title="From a clone to the first text",
    intro="""
How long a newcomer waits for `make demo` in a fresh clone, with an empty home folder (no package caches) and a minimal PATH.
Installation time depends on the network. The first text comes from the shipped bundle, before the packages for exporting are
installed.""",
    sections=(Section(table=tables.two_commands),),
)

QUALITY = Page(
    title="What tiny can do",
    intro="""
Exact match of the shipped `tiny` checkpoint (`fp32`, ONNX Runtime, T = 16, adaptive) on held-out prompts of every task it
was trained on, failures included. The autoregressive column decodes the same weights token by token. "Solved tasks" are
those at 90 % or more. The words, numbers, grids and template values in these prompts do not occur in training.""",
    sections=(Section(table=tables.quality),),
)

QUANTIZATION = Page(
    title="Quantization",
    intro="""
A diffusion model reads its own output in every step, so errors accumulate: a bad recipe gives worse answers and also takes
more steps. Recipes are judged by both. The gate is the second part of `dgemma verify BUNDLE --checkpoint CKPT`; its limits
are set in `verify/gate.py`. See [how quantization works](../how-it-works/quantization.md).

*Step inflation* is the number of steps divided by the float model's. *Same argmax* is the share of positions whose likeliest
token is the float model's, and *KL* the divergence of token distributions from the float model's; both are measured with the
float model's canvases as input.""",
    sections=(
        Section(
            heading="The gate",
            table=tables.quantization,
            after="![Exact match against steps, by recipe](../../benchmarks/results/tiny-accuracy.png)",
        ),
        Section(
            heading="Every rounding method",
            before="""
Measured with fake quantization (the same integers and rules in eager PyTorch), bad recipes included. Here, `w4-mixed` keeps
the self-conditioning MLP at 8 bits; the shipped recipe uses 4. GPTQ was calibrated on clean text ("on clean") or on canvases
that the model produced ("on trajectories").""",
            table=tables.methods,
            after="""
At 4 bits, GPTQ gains little on tiny. At 3 bits (integers −4 … 3) it gains a lot. Without rotation, exact match is then at
least as good with calibration on trajectories as on clean text.""",
        ),
        Section(heading="Size of `2b`", before="Bundles with random weights, for one engine.", table=tables.sizes),
        Section(
            heading="One matrix product in ONNX Runtime",
            before="How fast ONNX Runtime multiplies by one matrix, depending on how its weights are stored.",
            table=tables.product,
        ),
    ),
)

FULL_SIZE = Page(
    title="The 2b shape",
    intro="""
The `2b` shape with random weights. These figures show what a model of that size costs. They say nothing about quality: no
public 2b checkpoint exists.

A *floor* is the least time that a step or a token can take, computed from its operations and bytes and from rates measured in
the same run. The *machine floor* assumes that all products run at the rate of ONNX Runtime's int8 kernel, on both engines. The
*kernel floor* assumes the rates of the kernels that the engine uses.""",
    sections=(
        Section(
            heading="Time and memory",
            table=tables.full_size,
            after="""
Each column is a separate run. Floors use the best rates of the run. The speed of shared machines varies, so steps are also
divided by a floor at the current pace: the median rates of products measured just before and after them. That row is the most
reliable.

The goals were 1.25 (`w8`) and 1.35 times the floor (`w4-mixed`, on the better engine). The remaining time goes into norms and
rounding, the rotation before each 4-bit MLP's last product (which the floor does not count), sampling, and the fact that a
step is not one large product.""",
        ),
        Section(
            heading="By processor",
            before="""
Each cell gives the median step, then the median and the shortest step divided by the kernel floor. The Intel machine was
noisy: the speed of its products changed by a factor of two from one minute to the next.""",
            table=tables.processors,
        ),
        Section(heading="On one core", before="The other core was busy during this run.", table=tables.one_core),
        Section(
            heading="Export",
            before="""
The cost of an export for both engines, and the peak memory that `--dry-run` predicted. Other work used the cores during the
exports of `9b` and `26b-a4b`. Peak memory is that of the largest process. `mixture-6x5` is a random mixture of 6 layers and 5
small experts, exported while other programs were paused; the goal was less than a minute.""",
            table=tables.exports,
        ),
    ),
)

RELEASED = Page(
    title="The released shape",
    intro="""
The shape of google/diffusiongemma-26B-A4B-it, a mixture of 128 experts of which each position uses 8, with random weights.
These figures show what a model of that size costs on a laptop's processor. Experts have 4 bits in memory on both engines. The
page on the [2b shape](full-size.md) defines the floors; the kernel floor counts experts at the measured rate of one layer of
them, with as many rows per expert as in a step.""",
    sections=(
        Section(
            heading="Time and memory",
            table=released_tables.costs,
            after="""
The goals are for a machine with 24 GB.""",
        ),
        Section(
            heading="With 16 GB of memory",
            before="""
With 4 bits, the weights and an operating system do not fit into 16 GB together. The next three tables are trials of what would
help.

**Fewer bits for experts.** Nine tenths of the weights are experts. There are no kernels for 3 or 2 bits, so this table gives
only the size that `26b-a4b` would have, and the quality of the trained mixture `tiny-moe`, rounded by the same rule.""",
            table=released_tables.bits,
        ),
        Section(
            before="""
**Experts read from disk when they are chosen.** ExecuTorch maps the weights from the file, so the operating system already
keeps the most recently used experts in memory, as far as there is room. The table shows how often the next token would find
its experts there.""",
            table=released_tables.cached,
        ),
        Section(
            before="""
**A memory limit.** The whole model ran with less memory than its weights take (the last command below, started for example with
`systemd-run --scope -p MemoryMax=13G`):""",
            table=released_tables.limited,
        ),
    ),
)

PEERS = Page(
    title="Compared with other programs",
    intro="""
A bundle compared with transformers (its own DiffusionGemma) and llama.cpp (a `gemma4` GGUF of the same dimensions with random
weights) in one run. Each program has its own process, and the programs take turns. Figures are medians and quartiles.

Stock llama.cpp has no denoising step. Its rows show a causal pass over as many tokens as a canvas has, after the same prefix,
with logits for one position and without sampler or self-conditioning. That is less work than a step. Programs that are
missing, fail, take longer than `--limit` or would not fit in memory are left out; the notes below the table say why.""",
    sections=(
        Section(
            heading="2b",
            table=lambda: tables.peers("2b-w4-mixed"),
            after="""
The goal was a step five times as fast as that of the faster transformers run. It was **missed** on processors that multiply
bfloat16 natively.""",
        ),
        Section(
            heading="26b-a4b",
            before="""
The shape of the released mixture of experts. llama.cpp's file has the same experts; those of transformers run as they do by
default (`grouped_mm`). This processor has AMX: transformers' bfloat16 products use it. llama.cpp was built without it,
because its AMX code ended with an illegal instruction here.""",
            table=lambda: tables.peers("26b-a4b-w4-mixed"),
        ),
    ),
)

SPEED = Page(
    title="Speed of tiny",
    intro="""
Diffusion compared with autoregressive decoding: same bundle, engine and threads, runs interleaved in pairs. Padding is not
counted. Autoregressive decoding is a tight loop over the `decode` graph of the same weights. Tokens per second are for the
whole call, including prefill; "decoding only" excludes the prefill, which is the same for both. A short answer still needs
a whole canvas, so diffusion gains nothing there.

Answers that "fill a canvas" use most of its positions; those that "fill it to the end" use nearly all.""",
    sections=(
        Section(
            table=tables.speed,
            after="""
The goal was 4 × on answers that fill a canvas. ONNX Runtime reaches it on answers that fill the canvas to the end.
ExecuTorch, whose autoregressive loop is faster, does not.""",
        ),
    ),
)

LESS_WORK = Page(
    title="Less work per canvas",
    intro="""
This page shows how much work early commits, narrow starts, rechecks and drafts save, and how much accuracy they cost. The
[guide](../guides/less-work.md) explains the options; "stock" is the default loop. *Position-forwards per token* is the number
of positions computed, including commits and checks but not prefill, divided by the committed tokens. It does not depend on the
machine's speed.""",
    sections=(
        Section(heading="By option", table=tables.position_forwards),
        Section(
            heading="By task",
            table=tables.position_forwards_by_task,
            after="""
`--start-width auto` needs less than half of the default loop's position-forwards, with no difference in exact match that these
prompts can show. It takes many narrow steps, which pays off if time is proportional to positions, as at `2b`. On tiny, where
the overhead of each call dominates, early commits on the whole canvas are faster. Committing too early costs accuracy.
`--recheck` prevents that, but costs most of what was saved. Drafts are cheap if the encoder agrees with them; if it often
disagrees, they are the most expensive option.

By position-forwards and accuracy, `--start-width auto` should be the default. It is not, because the default loop and the
fused graph must give the same tokens, and the fused `generate` runs every position. The released model was trained only on
whole canvases: measure with `dgemma eval --start-width auto` before you rely on it.""",
        ),
    ),
)

PROJECTION = Page(
    title="Projection for a full-size model",
    intro="""
**A projection, not a measurement.** The time of a `2b` step was measured for different numbers of positions. These times are
combined with the schedules of canvases that tiny filled, stretched to the 12 to 20 steps that others report for the
released model with the default loop. The goal was 1.5 times llama.cpp's autoregressive rate at 4 bits on the same machine.
The notes under the tables say where it is missed.

In the second table, the option itself takes the given number of steps. *Active share* is the mean share of the canvas that is
computed in a step. In the column *tokens/s at stock's steps*, the default ("stock") loop takes that number of steps, and the
option as many more or fewer as on tiny; compare options by this column. *Break-even steps* is the number of steps at which
diffusion and autoregressive decoding are equally fast. The last column gives three limits, each of which is enough to reach the
goal: a number of steps, a time per step, or an active share.""",
    sections=(Section(table=tables.projection),),
)

SOFT = Page(
    title="Soft embeddings of the K likeliest ids",
    intro="""
`dgemma export --soft exact|topk:K` sets which embeddings self-conditioning averages: those of all ids (the default), or those
of the K likeliest, which saves a product with the whole embedding table. Measured on the float model of tiny.""",
    sections=(
        Section(
            table=tables.soft,
            after="""
Tiny's vocabulary is small. It is not known which K a vocabulary of 262,144 needs, so exact remains the default.""",
        ),
    ),
)

TPU = Page(
    title="TPU v4, compiled without a TPU",
    intro="""
`dgemma reference compile` compiles the JAX reference ahead of time for TPU v4 from shapes alone. **Nothing here was
measured on a TPU.** The floor is the roofline of the compiled program, which runs every expert. The estimate is the
compiler's `estimated_cycles`, weighted by the trip counts of loops; it does not include traffic between chips or waiting for
memory.""",
    sections=(Section(table=tables.tpu),),
)

PLAN = Page(
    title="How well plan predicts",
    intro="""
`dgemma plan` has nine constants per engine, fitted to results of `dgemma bench`. This check fits them to some of the results
and compares predictions with the others. The fit contained no large ExecuTorch bundle, and for those the prediction fails.
The shipped profile is fitted to all results, so its predictions for large ExecuTorch bundles have not been tested
independently.""",
    sections=(Section(table=tables.plan_check),),
)

PAGES: dict[str, Page] = {
    "two-commands": TWO_COMMANDS, "quality": QUALITY, "quantization": QUANTIZATION, "mixture": mixture_table.PAGE,
    "same-tokens": same_table.PAGE, "speed": SPEED, "less-work": LESS_WORK, "control": control_table.PAGE,
    "guidance": guidance_table.PAGE,
    "structure": structure_table.PAGE, "story": story_table.PAGE,
    "full-size": FULL_SIZE, "released-shape": RELEASED, "experts": experts_table.PAGE, "peers": PEERS, "projection": PROJECTION,
    "soft": SOFT, "plan": PLAN, "serve": serve_table.PAGE, "npu": npu_table.PAGE, "npu-forecast": npu_forecast_table.PAGE,
    "tpu": TPU, "training": training_table.PAGE, "finetune": finetune_table.PAGE,
}  # fmt: skip


def index() -> str:
    """The folder's first page: the key figures, and every page."""
    studies = "\n".join(f"- [{page.title}]({name}.md)" for name, page in PAGES.items())
    intro = (
        "All figures on these pages are generated from JSON files in `benchmarks/results`, which also record machine,\n"
        "versions and date. Failures stay in the tables. `python -m dgemma.benchmarks.studies list` names the studies.\n\n"
        "Ranges in parentheses are 95 % confidence intervals, those in brackets quartiles. A point is a percentage point.\n"
        "Terms are explained in the [glossary](../glossary.md)."
    )
    parts = ["# Results", NOTICE, intro, "## Key figures", figures.table(""), "## Studies", studies]
    return "\n\n".join(parts) + "\n"


def render() -> Mapping[str, str]:
    """File name → text of every page."""
    return {"index.md": index(), **{f"{name}.md": page.render(name) for name, page in PAGES.items()}}


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of pages that are missing in `folder` or say something else than the results."""
    held = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    wanted = render()
    return sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))


def write(folder: Path = FOLDER) -> None:
    for name, text in render().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
