"""A plan for people: the recommendation, then a table in 80 columns; with `verbose`, all figures and where they come from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from dgemma.benchmarks import report
from dgemma.benchmarks.plan.npu import Forecast
from dgemma.benchmarks.plan.predict import Prediction, Work, digits, gb
from dgemma.benchmarks.plan.profile import Profile

WIDTH = 80


def plan(
    profile: Profile,
    work: Work,
    found: Sequence[Prediction],
    sentence: str,
    left_out: Sequence[str],
    *,
    npu: Forecast | None = None,
    verbose: bool = False,
) -> None:
    """Print the recommendation and the predictions; with `verbose`, the device's sources, too."""
    print(textwrap.fill(sentence, WIDTH))
    if npu:
        print(textwrap.fill(npu.sentence(work), WIDTH))
    few, many = work.steps
    steps = f"{few:.3g}" if few == many else f"{few:.3g} to {many:.3g}"
    sized = len({p.canvas for p in found}) > 1
    named = "recipe, engine, canvas" if sized else "recipe, engine"
    header = [named, "memory", "step ms", "token ms", "diffusion/s", "AR/s", "even"]
    rows = [[*_brief(p, sized)] for p in found]
    if verbose:
        header = ["recipe, engine, canvas", "disk", "memory", "step, ms", "encode canvas, ms", "token, ms"]
        header += ["diffusion, tokens/s", "autoregressive, tokens/s", "even at steps", "position-forwards/token"]
        rows = [[*_cells(p)] for p in found]
    about = (
        f"Predicted for {profile.name}, CPU only: prompt {work.prompt}, output {work.output} tokens, {steps} steps per canvas"
    )
    report.table(textwrap.fill(about, WIDTH), header, rows)
    if npu:
        about = f"Forecast for {npu.npu.name} from published figures; nothing was measured there. `dgemma export --target` "
        about += (
            "supports Snapdragons, recipes fp32, w8a16 (here w8) and w4a16-mixed (here w4-mixed), and no models with experts"
        )
        report.table(textwrap.fill(about, WIDTH), header, [[*(_cells(p) if verbose else _brief(p, sized))] for p in npu.found])
    if not all(p.fits for p in (*found, *(npu.found if npu else ()))):
        print(f"{'(!)' if verbose else '!'} does not fit in memory next to the system and other programs")
    if _unpacks(found):
        about = "onnx unpacks 4 bits to 8 when it loads a model, so its recipes differ on disk, not in memory or time."
        print(textwrap.fill(about, WIDTH))
    if left_out:
        why = "the model's widths are not multiples of their group sizes"
        print(f"{', '.join(left_out)} left out: {why}; give a --recipe FILE.json")
    if not verbose:
        print("step ms, token ms: time of a denoising step and of an autoregressive token")
        print("diffusion/s, AR/s: tokens per second of diffusion and of autoregressive decoding")
        print("even: steps per canvas at which both are equally fast")
        print("--verbose adds sizes on disk, more figures, and where they come from")
        return
    print("even at steps: steps per canvas at which diffusion and autoregressive decoding are equally fast")
    print("Quality is not predicted: `dgemma verify` measures what a recipe costs.")
    print(f"\n{profile.name}: {profile.about}; {profile.threads} threads, {gb(profile.memory_bytes)} of memory")
    for engine, k in profile.engines.items():
        rates = ", ".join(f"{name} {getattr(k.products, name) / 1e9:.0f}" for name in ("int8", "int4", "float32"))
        print(f"  {engine}: {rates} GFLOP/s, memory read {profile.bytes_per_s / 1e9:.1f} GB/s")
    for figure, source in profile.sources.items():
        print(f"  {figure}: {source}")
    if unit := profile.npu:
        rates = ", ".join(f"{name} {getattr(unit.peak, name) / 1e12:.3g}" for name in ("int8", "int4", "float16"))
        print(f"\n{unit.name}: {rates} T operations/s, of which {unit.share_products:.0%} are reached, ", end="")
        print(f"memory read {unit.bytes_per_s / 1e9:.1f} GB/s")
        for figure, source in unit.sources.items():
            print(f"  {figure}: {source}")


def _unpacks(found: Sequence[Prediction]) -> bool:
    """Whether there are recipes of one engine that differ on disk alone."""
    onnx = {p.recipe: p for p in found if p.engine == "onnx"}.values()
    return len({(p.resident, p.step) for p in onnx}) < len({p.disk for p in onnx})


def _brief(p: Prediction, sized: bool) -> Iterator[str]:
    """A row of three digits a figure."""
    yield f"{p.recipe}, {p.engine}" + (f", {p.canvas}" if sized else "")
    size = f"{digits(p.resident / 1e9)} GB" if p.resident >= 1e8 else f"{digits(p.resident / 1e6)} MB"
    yield size + ("" if p.fits else "!")
    yield from (digits(1e3 * seconds) for seconds in (p.step, p.token))
    slow, fast = p.diffusion
    yield digits(slow) if slow == fast else f"{digits(slow)}-{digits(fast)}"
    yield digits(p.autoregressive)
    yield digits(p.break_even)


def _cells(p: Prediction) -> Iterator[str]:
    yield f"{p.recipe}, {p.engine}, {p.canvas}"
    yield gb(p.disk)
    yield gb(p.resident) + ("" if p.fits else " (!)")
    yield from (f"{1e3 * seconds:.4g}" for seconds in (p.step, p.encode, p.token))
    yield f"{p.diffusion[0]:.3g} … {p.diffusion[1]:.3g}"
    yield f"{p.autoregressive:.3g}"
    yield f"{p.break_even:.1f}"
    yield f"{p.position_forwards_per_token[0]:.1f} … {p.position_forwards_per_token[1]:.1f}"
