"""The page of the forecast for NPUs: its tables, from the committed JSON, and its pictures."""

from __future__ import annotations

from dgemma.benchmarks.plan.predict import digits
from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import Json, header, read

NAME = "npu-forecast"


def table(model: str) -> str:
    """A row for each processor of each device, and the model's picture."""
    values = read(f"{NAME}.json")
    few, many = values["steps"]
    diffusion = f"diffusion, tokens/s at {many:g} … {few:g} steps"
    rows = header(
        "processor", "fits", "step, ms", "token, ms", diffusion, "autoregressive, tokens/s", "break-even steps",
        "J per token: diffusion, autoregressive",
    )  # fmt: skip
    for device in values["models"][model]:
        rows.append(_row(f"{device['device']}: CPU, {device['cpu']['engine']}", device["cpu"]))
        rows.append(_row(device["npu"]["name"], device["npu"]))
    return "\n".join([*rows, "", f"![Tokens per second against steps per canvas](../../benchmarks/results/{NAME}-{model}.png)"])


def _row(name: str, p: Json) -> str:
    slow, fast = p["diffusion_tokens_per_s"]
    power = p.get("joules_per_token")
    cells = [
        name,
        "yes" if p["fits"] else "**no**",
        digits(p["step_ms"]),
        digits(p["token_ms"]),
        f"{digits(slow)} … {digits(fast)}",
        digits(p["autoregressive_tokens_per_s"]),
        digits(p["break_even_steps"]),
        f"{power[1]:.2g} … {power[0]:.2g}, {power[2]:.2g}" if power else "",
    ]
    return f"| {' | '.join(cells)} |"


PAGE = Page(
    title="What an NPU could give: a forecast",
    intro="""
**Nothing was measured on an NPU.** These are predictions of `dgemma plan` from figures that others have published;
`dgemma plan MODEL --device NAME --verbose` lists these figures with their sources, and says which are estimated and which are
assumed. All rows have recipe `w4-mixed`, soft embeddings of the 16 likeliest ids, a prompt of 128 tokens, an answer of 512, and
canvases of 256. The NPU computes layers and head; the CPU computes the cap of the logits, the sampler and the soft embedding.
Of these rows, `dgemma export --target` supports only `2b` on the SM8550, SM8650 and SM8750, as recipe `w4a16-mixed`. Only
[parts of `2b`](npu.md#compiling-2b) were compiled, so no row has been tried.

*Token* is the time of an autoregressive token. *Break-even steps* is the number of steps per canvas at which diffusion and
autoregressive decoding are equally fast; in the pictures, a dot marks it, solid lines are diffusion, and dashed lines are
autoregressive decoding. Energy is that of the whole phone (Snapdragon 8 Elite) or only of the Neural Engine (Apple).""",
    sections=(
        Section(heading="2b", table=lambda: table("2b")),
        Section(
            heading="26b-a4b",
            before="""
None of these NPUs is known to run a model as large as this one. The forecast also assumes that an NPU computes only the experts
that the router chooses.""",
            table=lambda: table("26b-a4b"),
            after="""
## How far to trust it

- The share of its peak rate that an NPU reaches was mostly taken from whole prefills with Qualcomm's runtime. Other runtimes
  reach less: with llama.cpp's, a study found prefill up to 1.6 times faster on the CPU than on the NPU
  ([arXiv 2605.27435](https://arxiv.org/abs/2605.27435)).
- [llada.cpp](https://arxiv.org/abs/2606.13740) reports answers of LLaDA-8B that are 17 to 42 times faster than a baseline on
  the CPU. It also changes the decoder, so this is not a ratio of step times.
- Two costs are left out: a warm phone lowers its clocks, and prefixes are copied into arrays of the compiled length.""",
        ),
    ),
)
