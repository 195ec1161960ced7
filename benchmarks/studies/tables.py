"""Tables in Markdown from committed benchmark JSON; `pages.py` puts them on the pages of docs/results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks.plan.predict import gb
from dgemma.benchmarks.studies import full_size as of_2b
from dgemma.benchmarks.studies import projection as projected
from dgemma.benchmarks.studies import widths
from dgemma.benchmarks.studies.peers import show
from dgemma.benchmarks.studies.plan_check import GOAL
from dgemma.core.plural import counted

RESULTS = Path(__file__).resolve().parents[1] / "results"
Json = dict[str, Any]


def read(name: str) -> Json:
    values: Json = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return values


def header(*titles: str) -> list[str]:
    """A Markdown table's first two lines; the first column is text, the others are numbers."""
    return [f"| {' | '.join(titles)} |", "|---|" + "--:|" * (len(titles) - 1)]


def percent(part: Json) -> str:
    return f"{100 * part['exact']:.1f} % ({100 * part['low']:.1f}–{100 * part['high']:.1f})"


def provenance(values: Json) -> str:
    machine, options = values["machine"], values["options"]
    known = machine["versions"]
    versions = ", ".join(f"{k} {known[k]}" for k in ("python", "java", "onnxruntime", "executorch") if k in known)
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; {versions}; "
        f"{counted(options['threads'], 'thread')}; {machine['date'][:10]}."
    )


def two_commands() -> str:
    """How long a newcomer waits, in seconds and minutes."""
    values = read("two-commands.json")
    demo, test, facts = values["demo"], values.get("test"), values["machine"]
    rows = header("`make demo` in a fresh clone", "seconds")
    rows += [f"| first text | {demo['first_text_s']:.0f} |", f"| total | {demo['total_s']:.0f} |"]
    rows += [
        f"| of which {part.replace('prompts', 'answering prompts')} | {seconds:.0f} |"
        for part, seconds in demo["parts_s"].items()
        if part != "first text"
    ]
    parts = [*rows, ""]
    if test:
        parts += [*header("`make test` after it", "minutes"), f"| {test['counts']} | {test['total_s'] / 60:.0f} |", ""]
    size = f"{facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB"
    return "\n".join([*parts, f"{facts['cpu']}, {size}; python {facts['versions']['python']}; {facts['date'][:10]}."])


def quality() -> str:
    values = read("tiny-evaluate.json")
    exact = ("diffusion, exact match (95 %)", "autoregressive, exact match (95 %)")
    rows = header("task", "n", exact[0], "steps", "tokens/forward", exact[1])
    for task, result in [*values["tasks"].items(), *values["pooled"].items()]:
        diffusion, other = result["diffusion"], result["autoregressive"]
        rows.append(
            f"| {task} | {diffusion['n']} | {percent(diffusion)} | {diffusion['mean_steps']:.1f} | "
            f"{diffusion['tokens_per_forward']:.1f} | {percent(other)} |"
        )
    gaps = "; ".join(
        f"{name}: {100 * gap['exact']:+.1f} points ({100 * gap['low']:+.1f} … {100 * gap['high']:+.1f})"
        for name, gap in values["difference"].items()
    )
    return "\n".join([*rows, "", f"Difference of diffusion from autoregressive (95 %): {gaps}. {provenance(values)}"])


RECIPES = ("fp32", "w8", "w4-mixed", "w4", "w4-all")


def interval(values: Json, scale: float = 1.0, form: str = ".3f") -> str:
    return " … ".join(format(scale * values[key], form) for key in ("low", "high"))


def quantization() -> str:
    """The gate's figures of the artifacts, one row a recipe."""
    rows = header(
        "recipe", "bits per weight", "ONNX, MB", "exact match (95 %)", "difference from float, points (95 %)",
        "step inflation (95 %)", "same argmax", "KL, nats", "gate",
    )  # fmt: skip
    bundles = {row["recipe"]: row for row in read("tiny-sizes.json")["bundles"]}
    for recipe in RECIPES:
        found = read(f"tiny-verify-{recipe}.json")["float"]["onnx"]
        free, forced, size = found["free_running"], found["teacher_forced"], bundles[recipe]
        exact, loss, inflation = free["exact_match"]["artifact"], free["exact_match_loss"], free["step_inflation"]
        change = "{:+.1f} ({:+.1f} … {:+.1f})".format(*(0.0 - 100 * loss[key] for key in ("value", "high", "low")))
        stored = f"{size['bits_per_weight']:.2f} | {size['engines']['onnx'] / 1e6:.1f}"
        rows.append(
            f"| `{recipe}` | {stored} | {100 * exact['value']:.1f} % "
            f"({interval(exact, 100, '.1f')}) | {change} | {inflation['value']:.3f} ({interval(inflation)}) | "
            f"{100 * forced['same_argmax']:.2f} % | {forced['kl']['mean']:.1e} | {'passed' if found['passed'] else 'missed'} |"
        )
    n, exact = free["prompts"], free["exact_match"]
    rates = {name: f"{100 * exact[name]['value']:.1f} %" for name in ("float", "autoregressive")}
    decoders = f"{rates['float']}; {RECIPES[-1]} by autoregressive decoding: {rates['autoregressive']}"
    return "\n".join(
        [
            *rows,
            "",
            f"ONNX bundles, {n} held-out prompts, T = 16, adaptive. Float model in PyTorch: {decoders}. {found['date']}.",
        ]
    )


def methods() -> str:
    values = read("tiny-quantize-ablation.json")
    rows = header(
        "recipe", "method", "bits per weight", "exact match", "difference from float, points (95 %)", "step inflation (95 %)",
        "KL, 10⁻³ nats (95 %)",
    )  # fmt: skip
    for row in values["rows"]:
        change, inflation, kl = row["exact_match_difference"], row["step_inflation"], row["kl_mean"]
        exact, points = 100 * row["exact_match"]["value"], f"{100 * change['value']:+.1f} ({interval(change, 100, '+.1f')})"
        rows.append(
            f"| {row['recipe']} | {row['method']} | {row['bits_per_weight']:.2f} | {exact:.1f} % | {points} | "
            f"{inflation['value']:.3f} ({interval(inflation)}) | {1e3 * kl['value']:.2f} ({interval(kl, 1e3, '.2f')}) |"
        )
    return "\n".join(rows)


def sizes() -> str:
    values = read("2b-sizes.json")
    rows = header("recipe", "engine", "bundle, GB", "goal, GB", "bits per weight", "bits per weight, as stored")
    for row in values["bundles"]:
        (engine,) = row["engines"]
        rows.append(
            f"| `{row['recipe']}` | {engine} | {row['bytes'] / 1e9:.3f} | {values['goals'][row['recipe']] / 1e9:.2f} | "
            f"{row['bits_per_weight']:.2f} | {row['stored_bits_per_weight'][engine]:.2f} |"
        )
    return "\n".join(rows)


def product() -> str:
    values = read("linear.json")
    settings, rows = values["settings"], header("product", "ms", "GFLOP/s", "GFLOP/s / DynamicQuantizeMatMul's")
    for name, row in values["products"].items():
        seconds = row["seconds"]["median"]
        rows.append(f"| {name} | {1e3 * seconds:.2f} | {row['gflop_per_s']:.0f} | {row['of_reference']:.2f} |")
    shapes = f"{settings['rows']} × {settings['inner']} with {settings['inner']} × {settings['outer']}"
    how = f"{settings['threads']} threads, including quantizing and scaling; medians of interleaved runs"
    return "\n".join([*rows, "", f"One product of {shapes}, {how}."])


SPEEDS = {
    "fp32, onnx": "bench-tiny-fp32-onnx.json",
    "w8, onnx": "bench-tiny-w8-onnx.json",
    "fp32, executorch": "bench-tiny-fp32-executorch.json",
}


def speed() -> str:
    rows = header(
        "bundle, engine: answers", "diffusion, tokens/s", "autoregressive, tokens/s", "ratio [quartiles]",
        "ratio, decoding only", "step, ms", "tokens/forward",
    )  # fmt: skip
    for bundle, file in SPEEDS.items():
        values = read(file)
        for name, group in values["groups"].items():
            diffusion, other, ratio, decoding = (
                group[key] for key in ("diffusion", "autoregressive", "ratio", "decoding_ratio")
            )
            rows.append(
                f"| {bundle}: {name} | {diffusion['tokens_per_s']['median']:.0f} | {other['tokens_per_s']['median']:.0f} | "
                f"{ratio['median']:.2f} [{ratio['q1']:.2f} … {ratio['q3']:.2f}] | {decoding['median']:.2f} | "
                f"{diffusion['step_ms']['median']:.2f} | {diffusion['tokens_per_forward']:.1f} |"
            )
    pairs = [group["pairs"] for group in values["groups"].values()]
    return "\n".join([*rows, "", f"Medians of {min(pairs)} to {max(pairs)} pairs. {provenance(values)}"])


FULL_SIZE = ("w8-onnx", "w4-mixed-onnx", "w4-mixed-executorch")


def full_size() -> str:
    runs = [read(f"bench-2b-{name}.json") for name in FULL_SIZE]
    rows = [*header("`2b`, canvas 256, prefix 512, `topk:16`", *map(of_2b.title, runs)), *_lines(of_2b.costs(runs))]
    return "\n".join([*rows, "", of_2b.notes(runs[0])])


def one_core() -> str:
    run = read("2b-one-core.json")
    return "\n".join([*header("`2b`, one thread", of_2b.title(run)), *_lines(of_2b.costs([run])), "", of_2b.notes(run)])


def processors() -> str:
    def find(name: str) -> Json | None:
        return read(name) if (RESULTS / name).exists() else None

    kinds = ("", "-amx", "-vnni", "-no-vnni")  # what a file's name ends in
    found = [[find(f"bench-2b-{name}{kind}.json") for name in FULL_SIZE] for kind in kinds]
    titles = (of_2b.title(run) for run in found[0] if run)
    return "\n".join([*header("machine", "int8 products by", *titles), *_lines(of_2b.processors(found))])


def _lines(rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in rows]


def soft() -> str:
    values = read("tiny-soft.json")
    rows = header("soft embedding", "exact match (95 %)", "steps / `exact`'s", "trajectories equal to `exact`'s", "same tokens")
    for policy, one in values["policies"].items():
        match = one["exact_match"]
        rows.append(
            f"| `{policy}` | {match['value']:.1%} ({match['low']:.1%} … {match['high']:.1%}) | "
            f"{one['step_ratio']['value']:.3f} | {one['equal_trajectories']} of {values['prompts']} | {one['equal_tokens']} |"
        )
    return "\n".join(rows)


def position_forwards() -> str:
    """Less work per canvas: every option by group of prompts."""
    values = read("tiny-position-forwards.json")
    own = ("prompts", "option", "n", "exact match", "difference from stock, points (95 %)", "same tokens as stock", "steps")
    rows = header(*own, "position-forwards/token", "position-forwards / stock's", "tokens/s")
    for group, options in list(values["groups"].items())[:4]:
        for name, one in options.items():
            gap = one["exact_difference"]
            rows.append(
                f"| {group} | {name} | {one['n']} | {one['exact']:.1%} | "
                f"{100 * gap['value']:+.1f} ({100 * gap['low']:+.1f} … {100 * gap['high']:+.1f}) | {one['equal_tokens']:.1%} | "
                f"{one['mean_steps']:.2f} | {one['position_forwards_per_token']:.2f} | "
                f"{one['position_forward_ratio']['value']:.3f} | {one['tokens_per_s']:.0f} |"
            )
    return "\n".join([*rows, "", f"`{values['recipe']}`, T = {values['sampler']['steps']}, adaptive. {provenance(values)}"])


def position_forwards_by_task() -> str:
    """Every task: the stock loop, a canvas that starts narrow, the same as a draft, and autoregressive decoding."""
    groups = read("tiny-position-forwards.json")["groups"]
    options = ("stock", "start width auto", "speculate, start width auto", "autoregressive")
    rows = header("task", *(f"{name}: exact match, position-forwards/token" for name in options))
    for task in list(groups)[4:]:
        found = [groups[task][name] for name in options]
        cells = (f"{one['exact']:.0%}, {one['position_forwards_per_token']:.2f}" for one in found)
        rows.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(rows)


def exports() -> str:
    """What exports took, and what `--dry-run` had predicted."""
    runs = read("export-cost.json")["runs"]
    rows = header("export", "parameters", "file sizes", "peak memory", "predicted peak", "time")
    for name, run in runs.items():
        files = ", ".join(f"{engine} {gb(size)}" for engine, size in run["engines"].items())
        parameters, seconds = run["parameters"], run["seconds"]
        cells = (
            name,
            f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.1f} M",
            files,
            f"{run['peak_bytes'] / 1e9:.1f} GB",
            f"{run['planned']['peak_bytes'] / 1e9:.1f} GB",
            f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def peers(name: str) -> str:
    """Other programs on the dims of one result, `peers-NAME.json`."""
    values = read(f"peers-{name}.json")
    return "\n".join([*header(*show.HEADER), *_lines(show.rows(values)), "", *_list(show.notes(values), provenance(values))])


def projection() -> str:
    """Costs of `2b` by the number of positions, and what they come to with tiny's schedules."""
    values = read("2b-projection.json")
    costs, rates = (
        "\n".join([*header(*module.HEADER), *_lines(module.rows(of))])
        for module, of in ((widths, values["widths"]), (projected, values))
    )
    return "\n".join([costs, "", rates, "", *_list(projected.notes(values), provenance(values))])


def _list(notes: Iterable[str], last: str) -> list[str]:
    """Notes below a table, one an item."""
    return [f"- {note.rstrip('.')}." for note in (*notes, last)]


def tpu() -> str:
    """What the compiler says of the reference on TPU v4."""
    rows = header(
        "program", "chips", "fits", "GiB per chip: arguments + temporaries", "compile time, host memory", "TFLOP", "floor, ms",
        "compiler's estimate, ms",
    )  # fmt: skip
    files = sorted(RESULTS.glob("tpu-v4-*.json"), key=lambda file: ("26b" in file.name, file.name))
    runs = [read(file.name) for file in files]
    for run in runs:
        memory, compiled, estimate = run["memory"], run["compile"], run["compiler_estimate"]
        size = f"{memory['arguments'] / 2**30:.2f}" + (f" + {memory['temporaries'] / 2**30:.2f}" if run["fits"] else "")
        took = run["reason"]
        if compiled:
            took = f"{compiled['compile_seconds']:.0f} s, {compiled['peak_host_bytes'] / 2**30:.2f} GiB"
        rows.append(
            f"| {run['model']} | {run['chips']} | {'yes' if run['fits'] else 'no'} | {size} | {took} | "
            f"{run['flops']['total'] / 1e12:.1f} | {1e3 * run['floor']['seconds']:.0f} | "
            f"{round(1e3 * estimate['seconds']) if estimate else '–'} |"
        )
    one = runs[0]
    shape = f"T = {one['steps']}, canvas {one['canvas']}, prefix {one['prefix']}, {one['dtype']}"
    return "\n".join([*rows, "", f"{shape}; jax {one['versions']['jax']}, libtpu {one['versions']['libtpu']}."])


def plan_check() -> str:
    """Predictions for results that were not in the fit, by run."""
    values = read("plan-check.json")
    rows = header("run", "figures", f"within {GOAL:.0%}", "predicted / measured")
    for name in values["test"]:
        ratios = sorted(row["ratio"] for row in values["rows"] if row["run"] == name)
        near = sum(max(ratio, 1 / ratio) - 1 <= GOAL for ratio in ratios)
        rows.append(f"| {name.removesuffix('.json')} | {len(ratios)} | {near} | {ratios[0]:.2f} … {ratios[-1]:.2f} |")
    fitted = ", ".join(name.removesuffix(".json") for name in values["fit"])
    return "\n".join([*rows, "", f"Fitted to {fitted}."])
