"""The figures drawn: the ladder, errors by denoising step, accuracy against steps. Needs matplotlib; draws PNG bytes only."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

FLOAT, ARTIFACT, PALE = "#3b3b3b", "#1f6fb4", "#9dc3e6"
OTHERS = ("#d1662a", "#3a8f5c", "#8757a8", "#b0812a", "#b8456b", "#4f8a8b")
_FLOOR = 1e-12  # what a log axis shows for an error of zero

_STYLE = {"spines": ("top", "right"), "grid": "#e4e4e4", "text": "#222222"}


@dataclass(frozen=True, kw_only=True)
class RecipePoint:
    """One recipe in the picture of accuracy: `exact` is decoder → figures, as in `free_running.figures`."""

    label: str
    exact: Mapping[str, Mapping[str, float]]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _dress(axes: Axes, ylabel: str) -> None:
    for side in _STYLE["spines"]:
        axes.spines[side].set_visible(False)
    axes.grid(True, axis="y", color=_STYLE["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylabel(ylabel, color=_STYLE["text"])
    axes.tick_params(colors=_STYLE["text"])


def _legend(axes: Axes) -> None:
    """Above the panel, where it hides nothing."""
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)


def _values(rows: Sequence[Mapping[str, Any]], name: str, key: str) -> list[float]:
    """NaN for what is not known, which leaves a gap in the line."""
    found = [(row[name] or {}).get(key) for row in rows]
    return [float("nan") if v is None else max(float(v), _FLOOR) for v in found]


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, ylabel: str) -> None:
    """Mean as a line, and a band up to the 99 % quantile, on a log axis."""
    x = [row["step"] for row in rows]
    mean, p99 = _values(rows, name, "mean"), _values(rows, name, "p99")
    low = [min(a, b) for a, b in zip(mean, p99, strict=True)]  # a mean above the quantile: errors are that rare
    axes.fill_between(x, low, p99, color=PALE, alpha=0.6, linewidth=0, label="up to 99 % of positions")
    axes.plot(x, mean, color=ARTIFACT, marker="o", markersize=4, label="mean")
    axes.set_yscale("log")
    _dress(axes, ylabel)
    _legend(axes)


def _canvases(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """How many canvases got as far as each step: late steps are means over few."""
    x, n = [row["step"] for row in rows], [row["canvases"] for row in rows]
    axes.bar(x, n, color="#c9ced6", width=0.7)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 4 * max(n))
    for a, b in zip(x, n, strict=True):
        axes.text(a, b * 1.15, str(b), ha="center", va="bottom", fontsize=7, color=_STYLE["text"])
    _dress(axes, "canvases")
    axes.grid(False)
    axes.set_yticks([])
    axes.minorticks_off()


def _steps_axis(axes: Axes, rows: Sequence[Mapping[str, Any]], most: int) -> None:
    axes.set_xlim(0.4, max(most, *(row["step"] for row in rows)) + 0.6)
    axes.set_xticks(range(1, most + 1, -(-most // 20)))
    axes.set_xlabel("denoising step of the canvas", color=_STYLE["text"])


def agreement(title: str, forced: Mapping[str, Any], most: int) -> bytes:
    """KL, agreement of argmax and accepted sets, and the number of canvases, by step; `most` is T."""
    rows = forced["by_step"]
    figure = _figure(8, 7.4)
    figure.suptitle(title, fontsize=12, color=_STYLE["text"])
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    if forced["kl"] is None:
        _dress(top, "KL(float ‖ artifact), nats")
        top.set_yticks([])
        top.text(0.5, 0.5, f"not known\n{forced['kl_missing']}", transform=top.transAxes, ha="center", va="center", wrap=True)
    else:
        _errors(top, rows, "kl", "KL(float ‖ artifact), nats")
    x = [row["step"] for row in rows]
    same, worst = [row["same_argmax"] for row in rows], [row["same_argmax_p01"] for row in rows]
    middle.fill_between(x, worst, same, color=PALE, alpha=0.6, linewidth=0, label="same argmax, 99 % of canvases")
    middle.plot(x, same, color=ARTIFACT, marker="o", markersize=4, label="same argmax, mean")
    jaccard = [row["jaccard"] for row in rows]
    middle.plot(x, jaccard, color=OTHERS[0], marker="s", markersize=4, linestyle="--", label="accepted positions, Jaccard")
    lowest = min(*worst, *jaccard)
    least = min(lowest - 0.08 * (1 - lowest), 0.99)
    middle.set_ylim(least, 1 + 0.06 * (1 - least))
    middle.set_yticks([tick for tick in middle.get_yticks() if least <= tick <= 1 + 1e-9])  # nothing agrees by more
    middle.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _dress(middle, "agreement with float")
    _legend(middle)
    _canvases(bottom, rows)
    _steps_axis(bottom, rows, most)
    return _png(figure)


def entropy(title: str, forced: Mapping[str, Any], most: int) -> bytes:
    """Error of the entropy, which decides what is accepted and when a canvas is done, by step."""
    rows = forced["by_step"]
    figure = _figure(8, 4.6)
    figure.suptitle(title, fontsize=12, color=_STYLE["text"])
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _errors(top, rows, "entropy_error", "entropy error, nats")
    _canvases(bottom, rows)
    _steps_axis(bottom, rows, most)
    return _png(figure)


def accuracy(title: str, reference: Mapping[str, float], points: Sequence[RecipePoint]) -> bytes:
    """Exact match against steps: the float model, and each recipe denoising and decoding autoregressively.

    Args:
        reference: the float model's figures: value, low, high, mean_steps.
    """
    figure = _figure(8.6, 5)
    figure.suptitle(title, fontsize=12, color=_STYLE["text"])
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    left.axhline(reference["value"], color=FLOAT, linewidth=0.8, linestyle=":")
    colors = [ARTIFACT, *(OTHERS[i % len(OTHERS)] for i in range(len(points) - 1))]
    drawn = [reference, *(p.exact["artifact"] for p in points)]
    labels = [f"{name} {f['mean_steps']:.2f}" for name, f in zip(["float", *(p.label for p in points)], drawn, strict=True)]
    _points(left, drawn, [FLOAT, *colors], labels, "o", 0.02)
    _points(right, [p.exact["autoregressive"] for p in points], colors, labels[1:], "s", 0.045)
    left.set_xlabel("denoising steps per answer, mean (moved apart where points overlap; see below)", color=_STYLE["text"])
    right.set_xlabel("tokens decoded, mean", color=_STYLE["text"])
    left.set_title("diffusion", fontsize=10, color=_STYLE["text"])
    right.set_title("autoregressive, same bundle", fontsize=10, color=_STYLE["text"])
    for axes, ylabel in ((left, "exact match, 95 % interval"), (right, "")):
        _dress(axes, ylabel)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return _png(figure)


def _points(
    axes: Axes, figures: Sequence[Mapping[str, float]], colors: Sequence[str], labels: Sequence[str], marker: str, apart: float
) -> None:
    """Points with their intervals, at least a share `apart` of the axis apart, so that none hides another."""
    exact = [f["mean_steps"] for f in figures]
    low, high = min(exact), max(exact)
    room = max(0.25 * (high - low), 0.15 * high)  # never so little that noise looks like a difference
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(6 if apart < 0.03 else 4))
    for x, at, color, label in zip(_spread(exact, apart * (high - low + 2 * room)), figures, colors, labels, strict=True):
        below, above = max(at["value"] - at["low"], 0.0), max(at["high"] - at["value"], 0.0)
        axes.errorbar(
            [x],
            [at["value"]],
            yerr=[[below], [above]],
            color=color,
            marker="D" if color == FLOAT else marker,
            markersize=7,
            capsize=4,
            linewidth=1.4,
            linestyle="none",
            label=label,
        )


def _spread(values: Sequence[float], apart: float) -> list[float]:
    """The values moved so that neighbours are `apart`, each group of them around its own middle."""
    placed: list[list[int]] = []  # groups of indices, in order, that touch each other
    middle: list[float] = []
    for index in sorted(range(len(values)), key=lambda i: values[i]):
        placed.append([index])
        middle.append(values[index])
        while len(placed) > 1 and middle[-1] - middle[-2] < apart * (len(placed[-1]) + len(placed[-2])) / 2:
            last, _ = placed.pop(), middle.pop()
            placed[-1] += last
            middle[-1] = sum(values[i] for i in placed[-1]) / len(placed[-1])
    result = [0.0] * len(values)
    for group, centre in zip(placed, middle, strict=True):
        for rank, index in enumerate(group):
            result[index] = centre + apart * (rank - (len(group) - 1) / 2)
    return result


_LADDER_FIGURES = (("logits, error of range", "logits", "o"), ("tensors, relative error", "tensors", "s"))


def ladder(title: str, found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Worst errors of every backend against the one above with their limits, and the entropy error by denoising step.

    Args:
        found: backend → figures, as in the section `ladder` of verify.json.
    """
    backends = [(backend, values) for backend, values in found.items() if "nearest" in values]
    figure = _figure(10, 2.2 + 0.62 * len(backends))
    figure.suptitle(title, fontsize=12, color=_STYLE["text"])
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for y, (_, values) in enumerate(backends):
        checks = {c["name"]: c for c in values["nearest"]["checks"]}
        for at, (name, label, marker) in enumerate(_LADDER_FIGURES):
            if name in checks:
                check, height = checks[name], y + 0.14 * (2 * at - 1)
                error = max(check["value"] or _FLOOR, _FLOOR)
                color = ARTIFACT if check["passed"] else OTHERS[0]
                left.plot([error], [height], marker, color=color, markersize=7, label=label if y == 0 else None)
                left.plot([check["limit"]], [height], "|", color=FLOAT, markersize=13, markeredgewidth=2)
    left.plot([], [], "|", color=FLOAT, markersize=10, markeredgewidth=2, linestyle="none", label="limit")
    left.set_xscale("log")
    left.set_yticks(range(len(backends)), [f"{backend}\nagainst {v['nearest']['name']}" for backend, v in backends], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("worst error of any step", color=_STYLE["text"])
    _dress(left, "")
    left.grid(True, axis="x", color=_STYLE["grid"], linewidth=0.8)
    _legend(left)
    for i, (backend, values) in enumerate(backends):
        rows = values["nearest"]["teacher_forced"]["by_step"]
        color = (ARTIFACT, *OTHERS)[i % (1 + len(OTHERS))]
        right.plot([r["step"] for r in rows], _values(rows, "entropy_error", "max"), color=color, marker=".", label=backend)
    right.set_yscale("log")
    right.set_xlabel("denoising step of the canvas", color=_STYLE["text"])
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _dress(right, "entropy error, nats, worst")
    right.legend(frameon=False, fontsize=7, loc="best")
    return _png(figure)
