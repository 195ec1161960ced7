"""A plan for people: a table of configurations and the sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgemma.benchmarks import report
from dgemma.benchmarks.plan.predict import Prediction, Work, gb
from dgemma.benchmarks.plan.profile import Profile


def plan(profile: Profile, work: Work, found: Sequence[Prediction], sentence: str, left_out: Sequence[str]) -> None:
    """Print the device, its sources, all predictions and the recommendation."""
    print(f"{profile.name}: {profile.about}; {profile.threads} threads, {gb(profile.memory_bytes)} of memory, CPU only")
    for engine, k in profile.engines.items():
        rates = ", ".join(f"{name} {getattr(k.products, name) / 1e9:.0f}" for name in ("int8", "int4", "float32"))
        print(f"  {engine}: {rates} GFLOP/s, memory read {profile.bytes_per_s / 1e9:.1f} GB/s")
    for figure, source in profile.sources.items():
        print(f"  {figure}: {source}")
    few, many = work.steps
    rows = [[*_cells(p)] for p in found]
    header = ["recipe, engine, canvas", "disk", "memory", "ms a step", "ms to encode N", "ms a token"]
    header += ["diffusion, tokens/s", "autoregressive", "even at steps", "position-forwards/token"]
    report.table(
        f"Prompt {work.prompt}, output {work.output} tokens, {few:g} to {many:g} steps a canvas (predicted, not measured)",
        header,
        rows,
    )
    if not all(p.fits for p in found):
        print("(!) does not fit beside the system and other programs")
    if left_out:
        print(f"{', '.join(left_out)} left out: their groups do not divide the model's widths; give a --recipe FILE.json")
    print("Quality is not predicted: `dgemma verify` measures what a recipe costs.")
    print(f"\n{sentence}")


def _cells(p: Prediction) -> Iterator[str]:
    yield f"{p.recipe}, {p.engine}, {p.canvas}"
    yield gb(p.disk)
    yield gb(p.resident) + ("" if p.fits else " (!)")
    yield from (f"{1e3 * seconds:.4g}" for seconds in (p.step, p.encode, p.token))
    yield f"{p.diffusion[0]:.3g} … {p.diffusion[1]:.3g}"
    yield f"{p.autoregressive:.3g}"
    yield f"{p.break_even:.1f}"
    yield f"{p.position_forwards_per_token[0]:.1f} … {p.position_forwards_per_token[1]:.1f}"
