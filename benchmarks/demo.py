"""What `make demo` runs: held-out prompts on every engine of a bundle, the canvas shown while it resolves.

    python -m dgemma.benchmarks.demo BUNDLE [--engine E …] [--seed S]

Exit status 1 when two engines gave different tokens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dgemma.benchmarks import report
from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.core import machine
from dgemma.core.manifest import read_manifest
from dgemma.core.shipped import bundle_path
from dgemma.runtime.result import Result, StepEvent
from dgemma.runtime.session import Session

SHOWN = ("reverse", "number_words", "template", "sudoku", "letter", "invitations")
OnStep = Callable[[StepEvent], None]


def line(event: StepEvent, width: int = 110) -> str:
    """One step as one line: canvas, step, accepted positions, and the text as it would be committed now."""
    text = " ".join(event.text().split())
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    return f"  canvas {event.canvas_index + 1} step {event.step:2d}  {int(event.accepted.sum()):3d} accepted  {text}"


@contextmanager
def canvas_view() -> Iterator[OnStep]:
    """On a terminal the text is redrawn in place; elsewhere every step is a line."""
    if not sys.stdout.isatty():
        yield lambda event: print(line(event), flush=True)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(refresh_per_second=30, transient=True) as live:  # the answer itself is printed afterwards

        def show(event: StepEvent) -> None:
            live.update(Text(f"{event.text()}\n[canvas {event.canvas_index + 1}, step {event.step}]"), refresh=True)

        yield show


def rate(result: Result) -> float:
    """Tokens over seconds of the whole call, prefill and display included."""
    return len(result.tokens) / result.timings.total_s


def describe(result: Result) -> str:
    return (
        f"{len(result.tokens)} tokens, {result.steps} steps, {result.tokens_per_forward:.1f} tokens/forward, "
        f"{rate(result):.0f} tokens/s"
    )


def demonstrate(sessions: dict[str, Session], item: EvalItem, seed: int, max_new_tokens: int) -> list[list[str]]:
    """Run one prompt on every engine; returns the summary's rows: task, engine, figures, same tokens, right answer."""
    rows, first = [], None
    print(f"\n» {item.prompt}")
    for engine, session in sessions.items():
        print(f"[{engine}]")
        with canvas_view() as on_step:
            result = session.generate(item.prompt, max_new_tokens=max_new_tokens, seed=seed, on_step=on_step)
        print(f"{result.text}\n  ({describe(result)})")
        first = result.tokens if first is None else first
        same = "yes" if result.tokens == first else "NO"
        right = "yes" if result.text.strip() == item.answer.strip() else "no"
        figures = [str(len(result.tokens)), str(result.steps), f"{result.tokens_per_forward:.1f}"]
        rows.append([item.task, engine, *figures, f"{rate(result):.0f}", same, right])
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dgemma.benchmarks.demo", description="Prompts on every engine.")
    parser.add_argument("bundle", type=bundle_path)
    parser.add_argument("--engine", nargs="+", help="default: every engine of the bundle")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    return parser.parse_args(argv)


def run(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    items = read_items(TASKS, 1, SHOWN)
    manifest, _ = read_manifest(options.bundle, check_files=False)  # Session.load checks the files
    engines = options.engine or sorted(manifest.engines, reverse=True)
    rows: list[list[str]] = []
    with ExitStack() as stack:
        sessions = {}
        for engine in engines:
            print(f"loading {options.bundle} with {engine}", flush=True)
            sessions[engine] = stack.enter_context(Session.load(options.bundle, engine=engine, threads=options.threads))
            sessions[engine].generate(items[0].prompt, max_new_tokens=1)  # loads the graphs
        for item in items:
            rows += demonstrate(sessions, item, options.seed, options.max_new_tokens)
    header = ["task", "engine", "tokens", "steps", "per forward", "per s", "same", "right"]
    report.table("Summary: tokens, steps, tokens per forward and per second", header, rows)
    differing = [row[0] for row in rows if row[6] == "NO"]
    if differing:
        print(f"engines differ on {', '.join(differing)}", file=sys.stderr)
        return 1
    print(f"{' and '.join(engines)} gave the same tokens on all {len(items)} prompts" if len(engines) > 1 else "one engine ran")
    return 0


if __name__ == "__main__":
    report.main(run)
