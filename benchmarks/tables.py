"""Writes the README's figures from committed benchmark JSON, between `<!-- NAME -->` and `<!-- /NAME -->`.

    python -m dgemma.benchmarks.tables README.md [--check]

`--check` changes nothing and exits with 1 when the README says something else than the JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
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
    versions = ", ".join(f"{k} {machine['versions'][k]}" for k in ("python", "onnxruntime", "executorch"))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; {versions}; "
        f"{options['threads']} threads; {machine['date'][:10]}."
    )


def quality() -> str:
    values = read("tiny-evaluate.json")
    rows = header("task", "n", "diffusion, exact (95 %)", "steps", "tokens/forward", "autoregressive, exact (95 %)")
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
    return "\n".join([*rows, "", f"Diffusion minus autoregressive — {gaps}. {provenance(values)}"])


def recipes() -> str:
    rows = header("recipe", "exact match, all tasks (95 %)", "bits per weight")
    for name, file in (("fp32", "tiny-evaluate.json"), ("w8", "tiny-evaluate-w8.json")):
        values = read(file)
        exact = percent(values["pooled"]["all tasks"]["diffusion"])
        rows.append(f"| `{name}` | {exact} | {values['recipe']['bits_per_weight']} |")
    return "\n".join(rows)


SPEEDS = {"fp32, onnx": "tiny-speed.json", "w8, onnx": "tiny-speed-w8.json", "fp32, executorch": "tiny-speed-executorch.json"}


def speed() -> str:
    rows = header(
        "answers", "diffusion, tokens/s", "autoregressive, tokens/s", "ratio [quartiles]", "decoding only", "ms a step",
        "tokens/forward",
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


def same_tokens() -> str:
    values = read("tiny-same-tokens.json")
    rows = header(f"against {values['first']}", "trajectories", "equal", "same answer", "near-ties", "unexplained")
    for rung, compared in values["compared"].items():
        ties = [d["near_tie"] is True for d in values["differences"] if d["rung"] == rung]
        counts = (compared, values["equal"][rung], values["same_tokens"][rung], sum(ties), len(ties) - sum(ties))
        rows.append(f"| {rung} | {' | '.join(map(str, counts))} |")
    return "\n".join(rows)


SECTIONS: dict[str, Callable[[], str]] = {"quality": quality, "recipes": recipes, "speed": speed, "same-tokens": same_tokens}


def fill(text: str) -> str:
    """The README with every section that it has rewritten."""
    for name, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if match := pattern.search(text):
            text = f"{text[: match.start()]}{match[1]}{make()}\n{match[2]}{text[match.end() :]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.tables", description="Fill the README's tables.")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = options.readme.read_text(encoding="utf-8")
    after = fill(before)
    if not options.check:
        options.readme.write_text(after, encoding="utf-8")
    elif after != before:
        sys.exit("the tables differ from benchmarks/results; run `python -m dgemma.benchmarks.tables README.md`")


if __name__ == "__main__":
    main()
