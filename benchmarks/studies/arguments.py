"""Command line arguments of the studies that ask a bundle held-out prompts, and what a result keeps of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dgemma.benchmarks import report
from dgemma.benchmarks.held_out import TASKS


def add_asking(parser: argparse.ArgumentParser, *, per_task: int, engine_help: str | None = None) -> None:
    """--tasks, --per-task, --engine, --threads, --seed and --out."""
    parser.add_argument("--tasks", type=Path, default=TASKS)
    parser.add_argument("--per-task", type=int, default=per_task)
    parser.add_argument("--engine", default="onnx", help=engine_help)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """What a result says of them."""
    return {name: getattr(options, name) for name in ("engine", "threads", "seed", "per_task")}


def write_out(out: Path | None, result: dict[str, Any]) -> None:
    """Write a result where --out names a file, and say so."""
    if out:
        report.write_json(out, result)
        print(f"wrote {out}")
