"""The table of the study of experts, from its committed JSON."""

from __future__ import annotations

from dgemma.benchmarks.studies.page import Page, Section
from dgemma.benchmarks.studies.tables import header, read


def experts() -> str:
    """A row a kernel, width of the integers and number of rows: milliseconds by number of experts, and their ratio."""
    values = read("experts.json")
    settings, cases = values["settings"], values["cases"]
    numbers = sorted({c["experts"] for c in cases})
    rows = header("kernel", "bits", "rows", *(f"{n} experts, ms" for n in numbers), "ratio", "weights, MB")
    found = {(c["kernel"], c["bits"], c["rows"], c["experts"]): c for c in cases}
    for kernel, bits, count in dict.fromkeys(key[:3] for key in found):
        few, many = (found[kernel, bits, count, n] for n in numbers)
        times = [c["ms"]["median"] for c in (few, many)]
        shown = " | ".join(f"{t:.1f}" for t in times)
        rows.append(f"| {kernel} | {bits} | {count} | {shown} | {times[1] / times[0]:.2f} | {many['bytes'] / 1e6:.0f} |")
    shape = f"{settings['hidden']} × {settings['width']}, {settings['chosen']} experts per row"
    return "\n".join([*rows, "", f"{shape}; medians of processor time on one core of {values['machine']['cpu']}."])


PAGE = Page(
    title="A layer of experts",
    intro="""
The time of one layer's experts in the released shape (`26b-a4b`) with random weights, in the kernel that both engines run. A
denoising step has 256 rows (positions), an autoregressive token one. Each row uses the same number of experts, so the time
should depend little on how many there are. The goal for 256 rows was that 128 experts take at most 1.8 times as long as 16.""",
    sections=(Section(table=experts),),
)
