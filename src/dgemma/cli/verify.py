"""`dgemma verify`: a bundle against its golden trajectories, or against the float checkpoint it was made from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dgemma.cli.run import BundleArgument, EngineOption, ThreadsOption
from dgemma.core.errors import UsageError
from dgemma.core.progress import progress
from dgemma.verify import verdict

OK, MISSED, NOT_KEPT = 0, 1, 2


def run(
    bundle: BundleArgument,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="The float checkpoint to compare with.")] = None,
    reference: Annotated[str, typer.Option("--reference", help="What runs the checkpoint: torch or tpu.")] = "torch",
    engine: EngineOption = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Draw the figures, as PNG and HTML.")] = None,
    compare: Annotated[list[Path] | None, typer.Option("--compare", help="Another bundle's verify.json to draw too.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="JSONL with prompt, task, answer.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="How many prompts, evenly over the tasks.")] = None,
    threads: ThreadsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Compare with a checkpoint that is not the bundle's.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: what verify.json says.")] = False,
) -> int:
    _check_options(checkpoint, reference, report, compare, {"--prompts": prompts, "--count": count, "--force": force or None})
    others = _others(report, compare)
    if checkpoint is None:
        section, digest, found = _replay(bundle, engine, threads, report)
    else:
        from dgemma.verify.against_float import Request
        from dgemma.verify.against_float import compare as against_float

        request = Request(
            bundle=bundle, checkpoint=checkpoint, engine=engine, prompts=prompts, count=count, threads=threads, force=force
        )
        section, (digest, found) = "float", against_float(request, progress)
    values = verdict.merged(bundle, digest, section, found)
    passed = all(v["passed"] for v in found.values())
    if as_json:
        print(json.dumps(values, ensure_ascii=False, allow_nan=False))
    else:
        from dgemma.verify.words import describe

        print("\n".join(describe(bundle.resolve().name, section, found)))
    status = _keep(bundle, values, OK if passed else MISSED)
    if report is not None:
        _draw(report, bundle, values["float"], others)
    return status


def _check_options(
    checkpoint: str | None, reference: str, report: Path | None, compare: list[Path] | None, with_checkpoint: dict[str, Any]
) -> None:
    if reference not in ("torch", "tpu"):
        raise UsageError(f"--reference {reference!r} is unknown; choose torch or tpu")
    if reference == "tpu":
        raise UsageError("--reference tpu: comparing with the JAX reference is not built yet; use --reference torch")
    if checkpoint is None and (given := [name for name, value in with_checkpoint.items() if value is not None]):
        raise UsageError(f"{given[0]} is for the comparison with a float checkpoint; give --checkpoint as well")
    if compare and report is None:
        raise UsageError("--compare is for the report; give --report DIR as well")


def _others(report: Path | None, compare: list[Path] | None) -> dict[str, dict[str, Any]]:
    """Check where the report goes and read what it is compared with, before any work."""
    if report is None:
        return {}
    from dgemma.verify.report import check_folder, read_others

    check_folder(report)
    return read_others(compare or [])


def _replay(bundle: Path, engine: str | None, threads: int | None, report: Path | None) -> tuple[str, str, dict[str, Any]]:
    from dgemma.core.manifest import read_manifest
    from dgemma.runtime.engines import ENGINES, installed_version
    from dgemma.verify.replay import replay

    manifest, digest = read_manifest(bundle, check_files=False)
    kept, _ = verdict.read(bundle)
    if report is not None and not (kept and kept["digest"] == digest and kept.get("float")):
        raise UsageError(f"--report: {bundle} was not compared with a float checkpoint; give --checkpoint as well")
    inside = [name for name in ENGINES if name in manifest.graphs and installed_version(ENGINES[name][0])]
    engines: list[str | None] = [engine] if engine else [*inside]
    return ("golden", *replay(bundle, engines or [None], threads, progress))


def _draw(report: Path, bundle: Path, found: dict[str, Any], others: dict[str, Any]) -> None:
    from dgemma.verify.report import write

    try:
        written = write(report, bundle.resolve().name, found, others)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):  # figures kept from before, in a file that was edited
        raise UsageError(f"{bundle / verdict.FILE}: is damaged; give --checkpoint to compare anew") from None
    for path in written:
        print(f"wrote {path}", file=sys.stderr)


def _keep(bundle: Path, values: dict[str, Any], status: int) -> int:
    """Write verify.json; where that cannot be, say so: a miss is still a miss, and a pass that is not kept is an error."""
    try:
        verdict.write(bundle, values)
    except UsageError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return status or NOT_KEPT
    return status
