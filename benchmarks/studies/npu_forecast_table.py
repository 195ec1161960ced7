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
        "processor", "fits", "ms a step", "ms a token", diffusion, "autoregressive", "even at steps", "J a token, both"
    )
    for device in values["models"][model]:
        rows.append(_row(f"{device['device']}: CPU, {device['cpu']['engine']}", device["cpu"]))
        rows.append(_row(device["npu"]["name"], device["npu"]))
    return "\n".join([*rows, "", f"![Tokens per second over steps a canvas](../../benchmarks/results/{NAME}-{model}.png)"])


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
`dgemma plan MODEL --device NAME --verbose` lists these with their sources, and says which are estimated and which assumed.
Recipe `w4-mixed`, soft embeddings of the 16 likeliest ids, 128 tokens of prompt, 512 of answer, canvases of 256. An NPU has
layers and head; cap of the logits, sampler and soft embedding are the CPU's. Today only recipe `fp32` and models without
experts can be exported, and for Snapdragons alone, so these rows can't be tried yet.

In the pictures, solid lines are diffusion, dashed ones autoregressive decoding, dots where both are even. J are of the whole
phone (Snapdragon 8 Elite) or of the engine alone (Apple): diffusion at few and at many steps, and autoregressive decoding.""",
    sections=(
        Section(heading="2b", table=lambda: table("2b")),
        Section(
            heading="26b-a4b",
            before="""
No NPU here is known to run a model as large as this one. The forecast also assumes that an NPU computes only the experts that
the router chooses.""",
            table=lambda: table("26b-a4b"),
            after="""
## How far to trust it

- The shares of their peaks that NPUs reach are mostly those of whole prefills with Qualcomm's runtime. Others reach less: with
  llama.cpp's, a study found prefill up to 1.6 times faster on the CPU than on the NPU
  ([arXiv 2605.27435](https://arxiv.org/abs/2605.27435)).
- [llada.cpp](https://arxiv.org/abs/2606.13740) reports answers of LLaDA-8B 17 to 42 times faster than a baseline on the CPU. It
  changes the decoder, too, so this is no ratio of step times.
- Clocks that fall in a warm phone, and prefixes that are copied into arrays of the compiled length, are not counted.""",
        ),
    ),
)
