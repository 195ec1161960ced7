"""Plots of a plan: the roofline of the device, tokens per second against steps a canvas by recipe, and, beside an NPU, by
processor."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgemma.benchmarks import report
from dgemma.benchmarks.plan.npu import Forecast
from dgemma.benchmarks.plan.predict import Prediction, Work, choose
from dgemma.benchmarks.plan.profile import Profile
from dgemma.core.errors import UsageError
from dgemma.core.install import pip_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
PANELS = 3  # beside each other
CROSSOVER = "Solid: diffusion; dashed: autoregressive; dot: even"
MARKS = {"denoise": "o", "encode": "s", "decode": "^"}


def check(path: Path) -> None:
    """Raise UsageError without matplotlib, or when no picture could be written there."""
    if find_spec("matplotlib") is None:
        raise UsageError(f"--picture needs matplotlib; {pip_install('bench')}")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--picture {path}: its name must end in {', '.join(SUFFIXES)}")
    report.check_out(path, "--picture")


def draw(
    path: Path, profile: Profile, work: Work, found: Sequence[Prediction], model: str, npu: Forecast | None = None
) -> None:
    """Write a picture of the kind that the name ends in, with `model` in its title; raises UsageError when that cannot be."""
    check(path)
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(18.5 if npu else 12.5, 6), layout="constrained")
        left, right, *third = figure.subplots(1, 3 if npu else 2)
        drawn = _merged(found)
        colours = _colours(drawn)
        _roofline(left, profile, drawn, colours)
        _crossover(right, work, drawn, colours)
        right.set_title("Processor: solid: diffusion; dashed: autoregressive; dot: even" if npu else CROSSOVER)
        if npu:
            of_processors(third[0], work, found, npu)
            third[0].set_title("The best of each processor; forecast for the NPU")
            third[0].legend(frameon=False)
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(f"{model} on {profile.name}: prompt {work.prompt}, output {work.output} tokens, predicted")
        _write(path, figure)


def draw_processors(path: Path, title: str, devices: Sequence[tuple[str, Work, Sequence[Prediction], Forecast]]) -> None:
    """Write one picture for several devices: tokens per second over steps a canvas, a line for each processor."""
    check(path)
    from matplotlib.figure import Figure

    with _style():
        rows = -(-len(devices) // PANELS)
        figure = Figure(figsize=(4.5 * PANELS, 4 * rows), layout="constrained")
        panels = figure.subplots(rows, PANELS, sharey=True, squeeze=False).flat
        for (name, work, found, npu), axes in zip(devices, panels, strict=False):
            of_processors(axes, work, found, npu)
            axes.set_title(name)
            axes.legend(loc="upper right", frameon=False, fontsize=8)
        for axes in panels:  # those that are left
            axes.set_axis_off()
        figure.suptitle(title)
        _write(path, figure)


def of_processors(axes: Axes, work: Work, found: Sequence[Prediction], npu: Forecast) -> None:
    """The best configuration of the CPU and of the NPU that fits, or else the smallest, which the legend says."""
    drawn: dict[str, Prediction] = {}
    for kind, name, predictions in (("CPU", "CPU", found), ("NPU", npu.npu.name, npu.found)):
        p = choose(predictions) or min(predictions, key=lambda q: q.resident)
        engine = f", {p.engine}" if kind == "CPU" else ""
        drawn[f"{name}: {p.recipe}{engine}{'' if p.fits else ', does not fit'}"] = p
    _crossover(axes, work, drawn, _colours(drawn))


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def _write(path: Path, figure: Figure) -> None:
    content, kind = io.BytesIO(), path.suffix[1:].lower()
    figure.savefig(content, dpi=150, format=kind)
    report.write_whole(path, content.getvalue(), "--picture")


def _merged(found: Sequence[Prediction]) -> dict[str, Prediction]:
    """Label → configuration; those that run the same kernels (onnx multiplies 4 bits out to 8) are drawn once."""
    same: dict[tuple[str, int, float, float], list[Prediction]] = {}
    for p in found:
        same.setdefault((p.engine, p.canvas, p.step, p.token), []).append(p)
    return {f"{', '.join(p.recipe for p in ps)}: {engine}, {n}": ps[0] for (engine, n, _, _), ps in same.items()}


def _colours(names: Iterable[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10"]
    return {name: palette(i % 10) for i, name in enumerate(names)}


def _roofline(axes: Axes, profile: Profile, found: dict[str, Prediction], colours: dict[str, Any]) -> None:
    """Operations per byte of weights, keys and values, against operations per second; each call at its predicted rate."""
    widths = [10 ** (x / 20) for x in range(-10, 75)]
    roofs: dict[float, str] = {}
    for engine in dict.fromkeys(p.engine for p in found.values()):
        rates = profile.kernels(engine).products
        roofs.setdefault(rates.float32, "float32")
        roofs[rates.int8] = f"{roofs[rates.int8]}, {engine}" if rates.int8 in roofs else f"int8, {engine}"
    for top, label in roofs.items():
        axes.plot(widths, [min(top, w * profile.bytes_per_s) / 1e9 for w in widths], color="0.5", linewidth=1)
        axes.annotate(label, (widths[-1], top / 1e9), ha="right", va="bottom", fontsize=8, color="0.35")
    for name, p in found.items():
        for call, cost in p.calls.items():
            seconds = {"denoise": p.step, "encode": p.encode, "decode": p.token}[call]
            at = cost.operations / (cost.weight_bytes + cost.cache_bytes)
            face = "none" if call == "encode" else colours[name]
            axes.plot(
                at,
                cost.operations / seconds / 1e9,
                MARKS[call],
                color=colours[name],
                markerfacecolor=face,
                markersize=10 if call == "encode" else 6,
            )
    for call, mark in MARKS.items():
        axes.plot([], [], mark, color="0.3", markerfacecolor="none" if call == "encode" else "0.3", label=call)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of weights, keys and values", ylabel="G operations per s")
    axes.set_title("Roofline: lines are ceilings, marks are whole calls")
    axes.legend(loc="lower right", frameon=False)


def _crossover(axes: Axes, work: Work, found: dict[str, Prediction], colours: dict[str, Any]) -> None:
    """Diffusion's tokens per second fall with steps; autoregressive decoding is a level line; a dot where they cross."""
    few, many = work.steps
    last = max(1.5 * many, *(min(1.3 * p.break_even, 4 * many) for p in found.values()))
    steps = [1 + i * (last - 1) / 200 for i in range(201)]
    for name, p in found.items():
        slow, fast = (work.output / rate for rate in p.diffusion)
        each = (slow - fast) / (many - few) if many > few else work.canvases * p.step
        start = fast - few * each
        colour = colours[name]
        axes.plot(steps, [work.output / (start + s * each) for s in steps], color=colour, label=name)
        axes.axhline(p.autoregressive, color=colour, linestyle="--", linewidth=0.9)
        if 1 <= p.break_even <= last:
            axes.plot(p.break_even, p.autoregressive, "o", color=colour, markersize=5)
    axes.axvspan(few, many, color="0.9", zorder=0)
    axes.set(yscale="log", xlabel="steps a canvas (grey: the range planned for)", ylabel="tokens per s", xlim=(1, last))
    axes.set_title(CROSSOVER)
