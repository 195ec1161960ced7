"""Tables of the released shape, from committed JSON: a step, a token and memory; trials of less memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgemma.benchmarks.studies import full_size
from dgemma.benchmarks.studies.tables import header, read
from dgemma.core.config import PRESETS
from dgemma.core.cost import CostModel
from dgemma.quantize.recipes import file_bytes, find

Json = dict[str, Any]
RUNS = ("executorch", "onnx")
RESIDENT = (16.0, 17.0)  # GB, in their order


def percent_of(part: Json) -> str:
    """A share that is called `value`, with its interval."""
    return f"{100 * part['value']:.1f} % ({100 * part['low']:.1f}–{100 * part['high']:.1f})"


def costs() -> str:
    """A column for each engine."""
    runs = [read(f"bench-26b-a4b-w4-mixed-{engine}.json") for engine in RUNS]
    token = ["autoregressive token / kernel floor", *(f"{run['growth'][0]['token_over_kernel_floor']:.2f}" for run in runs)]
    rows = [f"| {' | '.join(cells)} |" for cells in (*full_size.costs(runs), token)]
    title = "`26b-a4b`, canvas 256, prefix 512, `topk:16`"
    return "\n".join([*header(title, *map(full_size.title, runs)), *rows, "", full_size.notes(runs[0]), "", *_goals(runs)])


def _goals(runs: Sequence[Json]) -> list[str]:
    """What the figures had to be on a machine of 24 GB, and are."""
    rows = header("goal", *(full_size.title(run) for run in runs))
    resident, one_step = [run["memory"]["running"] for run in runs], [run["growth"][0] for run in runs]
    for goal, most, found, unit in (
        ("resident memory: at most 16 GB (ExecuTorch), 17 GB (ONNX Runtime)", RESIDENT,
         [(one["anonymous"] + one["file"]) / 1e9 for one in resident], " GB"),
        ("step: at most 1.4 times its kernel floor", (1.4, 1.4), [one["step_over_kernel_floor"] for one in one_step], ""),
        ("token: at most 1.5 times its kernel floor", (1.5, 1.5), [one["token_over_kernel_floor"] for one in one_step], ""),
    ):  # fmt: skip
        cells = [f"{'met' if one <= limit else '**missed**'}: {one:.{1 if unit else 2}f}{unit}"
                 for one, limit in zip(found, most, strict=True)]  # fmt: skip
        rows.append(f"| {' | '.join((goal, *cells))} |")
    return rows


def bits() -> str:
    """Answers of the trained mixture by the bits of its experts."""
    part = read("small-memory.json")["parts"]["quality"]
    rows = header(
        "experts", "weights of `26b-a4b`", "exact match (95 %)", "difference from float, points (95 %)", "steps / float's",
        "same argmax",
        "KL, 10⁻³ nats",
    )  # fmt: skip
    rows.append(f"| float | – | {percent_of(part['float']['exact_match'])} | – | – | – | – |")
    for row in part["rows"]:
        points, steps = row["exact_match_difference"], row["step_inflation"]
        cells = [
            f"{row['experts_bits']} bits",
            f"{_size(row['experts_bits']) / 1e9:.1f} GB",
            percent_of(row["exact_match"]),
            f"{100 * points['value']:+.1f} ({100 * points['low']:+.1f} … {100 * points['high']:+.1f})",
            f"{steps['value']:.3f}",
            f"{100 * row['same_argmax']['value']:.1f} %",
            f"{1000 * row['kl_mean']['value']:.1f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*rows, "", f"`{part['checkpoint']}`, {part['prompts']} held-out prompts; all other matrices have 8 bits."]
    )


def _size(bits: int) -> float:
    """Bytes of the released shape's weights as `w4-mixed` stores them, but for the bits of experts."""
    config = PRESETS["26b-a4b"]
    experts = CostModel(config=config, bits={}).stack(config.num_experts or 1)["experts"][1]
    return file_bytes(find("w4-mixed"), "executorch", config) + experts * (bits - 4) / 8


def cached() -> str:
    """How often a token finds its experts among those used last, and how many a step touches."""
    part = read("small-memory.json")["parts"]["routing"]
    found = part["found_by_a_token"]
    rows = header("experts in memory", *(f"{size} of {part['experts']}" for size in found))
    measured = " | ".join(f"{100 * share:.0f} %" for share in found.values())
    rows.append(f"| share of the next token's experts that are among them | {measured} |")
    shares = " | ".join(f"{100 * int(size) / part['experts']:.0f} %" for size in found)
    even = f"| the same, if experts were chosen evenly | {shares} |"
    touched = (
        f"A denoising step of {part['canvas']} positions uses {100 * part['touched_by_a_step']:.0f} % of a layer's experts"
    )
    return "\n".join([*rows, even, "", f"`{part['checkpoint']}`, {part['chosen']} experts per position. {touched}."])


def limited() -> str:
    """Steps and tokens of the whole model, with less memory than its weights take."""
    parts = {name: part for name, part in read("small-memory.json")["parts"].items() if "steps" in part and "bundle" in part}
    rows = header(
        "memory limit", "resident memory", "step, s", "read from disk per step", "first token, s", "read from disk for it",
        "the same token again, s",
    )  # fmt: skip
    for part in sorted(parts.values(), key=lambda one: -(one["limit_bytes"] or 1 << 60)):
        limit = part["limit_bytes"]
        none = limit is None or limit > 1 << 50
        (_, *steps), (first, *again) = part["steps"], part["tokens"]
        cells = [
            "none" if none else f"{limit / 1e9:.1f} GB",
            f"{part['resident_bytes'] / 1e9:.1f} GB",
            f"{_median(steps, 'seconds'):.1f}",
            f"{_median(steps, 'read_bytes') / 1e9:.1f} GB",
            f"{first['seconds']:.2f}",
            f"{first['read_bytes'] / 1e9:.2f} GB",
            f"{_median(again, 'seconds'):.2f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    one = next(iter(parts.values()))
    return "\n".join(
        [*rows, "", f"`{one['recipe']}`, {one['engine']}, prefix {one['prefix']}, {one['threads']} threads; medians."]
    )


def _median(calls: list[Json], key: str) -> float:
    values = sorted(float(call[key] or 0) for call in calls)
    return values[len(values) // 2]
