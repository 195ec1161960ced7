"""The studies behind the published figures.

    python -m dgemma.benchmarks.studies list
    python -m dgemma.benchmarks.studies run NAME
    python -m dgemma.benchmarks.studies check

`run` measures again, from the checkout, and renders the pages. `check` exits with 1 when a page differs from its JSON, a
result belongs to no study, or a study has none; it also lists the results that are of older bundles.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence

from dgemma.benchmarks import report
from dgemma.benchmarks.studies import pages
from dgemma.benchmarks.studies.older import current, is_older
from dgemma.benchmarks.studies.registry import RESULTS, ROOT, STUDIES, Study, find
from dgemma.core.errors import UsageError

PROGRAMS = {"python": [sys.executable], "dgemma": [sys.executable, "-m", "dgemma.cli"]}


def show() -> int:
    report.table("Studies", ("name", "page", "results"), [(s.name, s.page, ", ".join(s.results)) for s in STUDIES])
    return 0


def measure(name: str) -> int:
    """Run a study's commands, then write the pages; raises UsageError."""
    study = find(name)
    if study is None:
        raise UsageError(f"study {name!r} is unknown; choose one of {', '.join(s.name for s in STUDIES)}")
    if study.placeholders:
        lines = "; ".join(study.commands)
        raise UsageError(f"study {name!r} needs a value for {study.placeholders[0]}; put it in and run: {lines}")
    for line in study.commands:
        program, *arguments = shlex.split(line)
        print(f"$ {line}", file=sys.stderr, flush=True)
        status = subprocess.run([*PROGRAMS.get(program, [program]), *arguments], cwd=ROOT).returncode
        if status:
            return status
    pages.write()
    return 0


def check() -> int:
    """Print what does not agree, one line each."""
    faults = [f"{page}: differs from its results; run `python -m dgemma.benchmarks.studies.pages`" for page in pages.stale()]
    owners: dict[str, list[Study]] = {path.name: [] for path in RESULTS.glob("*.json")}
    for study in STUDIES:
        files = study.files()
        if not files:
            faults.append(f"{study.name}: has no results; run `python -m dgemma.benchmarks.studies run {study.name}`")
        for path in files:
            owners[path.name].append(study)
    for name, studies in sorted(owners.items()):
        if len(studies) != 1:
            faults.append(f"{name}: belongs to {len(studies)} studies instead of one; mend benchmarks/studies/registry.py")
    digests = current()
    for name in sorted(owners):
        if is_older(RESULTS / name, digests):
            print(f"{name}: measured on an older bundle")
    print("\n".join(faults) or "every page agrees with its results")
    return 1 if faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="every study with its page and results")
    actions.add_parser("run", help="measure one again").add_argument("name")
    actions.add_parser("check", help="pages against results, results against studies and bundles")
    options = parser.parse_args(argv)
    match options.action:
        case "run":
            return measure(options.name)
        case "check":
            return check()
    return show()


if __name__ == "__main__":
    report.main(main)
