"""`dgemma verify`: the ladder over a bundle's golden prompts, and the gate: many prompts against the float checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgemma.cli.groups import grouped
from dgemma.cli.options import BundleArgument, EngineOption, ThreadsOption
from dgemma.cli.terminal import print_json
from dgemma.core.accelerators import CPU
from dgemma.core.errors import BundleError, UsageError
from dgemma.core.install import pip_install
from dgemma.core.progress import progress
from dgemma.core.shipped import is_shipped
from dgemma.verify import outcome

if TYPE_CHECKING:
    from dgemma.verify.against_float import ComparisonRequest

OK, MISSED, NOT_KEPT = 0, 1, 2
DRAWS = 20  # generations with options beside a gate, which takes many times as long: each option alone, and some together
Sections = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class FloatFlags:
    """The comparison with a float checkpoint."""

    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="CKPT", help="The float checkpoint to compare with.")
    ] = None
    reference: Annotated[
        str,
        typer.Option("--reference", metavar="torch|tpu", help="What the gate compares with: torch, or tpu (JAX in bfloat16)."),
    ] = "torch"
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="cpu|qnn",
            help="What the gate judges: graphs for processors, or those for a Snapdragon NPU, on x86-64 in its emulator.",
        ),
    ] = CPU
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="Prompts for the gate: JSON lines with prompt, task, answer."),
    ] = None
    count: Annotated[
        int | None, typer.Option("--count", metavar="K", help="Number of prompts for the gate, spread over the tasks.")
    ] = None
    golden_only: Annotated[bool, typer.Option("--golden-only", help="Run only the golden prompts, not the gate.")] = False
    write_golden: Annotated[
        Path | None,
        typer.Option("--write-golden", metavar="FILE", help="Only write the reference's trajectories to FILE."),
    ] = None

    def check(self) -> None:
        """Raises UsageError for options that need others, or exclude them."""
        if self.reference not in ("torch", "tpu"):
            raise UsageError(f"--reference {self.reference!r} is unknown; choose torch or tpu")
        gate = {"--prompts": self.prompts, "--count": self.count, "--target": None if self.target == CPU else self.target}
        asked = [name for name, value in gate.items() if value is not None]
        if self.checkpoint is None and (given := [*asked, *(["--write-golden"] if self.write_golden is not None else [])]):
            raise UsageError(f"{given[0]} is for the comparison with a float checkpoint; give --checkpoint as well")
        if self.checkpoint is None and self.reference == "tpu":
            raise UsageError("--reference tpu runs a float checkpoint; give --checkpoint as well")
        if self.reference == "tpu" and find_spec("jax") is None:
            raise UsageError(f"--reference tpu needs package 'jax'; {pip_install('reference')}")
        if self.golden_only and asked:
            raise UsageError(f"{asked[0]} is for the gate, which --golden-only skips; give only one of them")

    def gate(self, bundle: Path, engine: str | None, threads: int | None) -> ComparisonRequest | None:
        """What the gate is to compare; None where it does not run. Raises UsageError, and what is wrong with the bundle."""
        if self.checkpoint is None or self.golden_only:
            return None
        from dgemma.verify.against_float import ComparisonRequest

        return ComparisonRequest(
            bundle=bundle,
            checkpoint=self.checkpoint,
            reference=self.reference,
            engine=engine,
            target=self.target,
            prompts=self.prompts,
            count=self.count,
            threads=threads,
        )


@grouped
def run(
    bundle: BundleArgument,
    *,
    against: FloatFlags,
    engine: EngineOption = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write plots and an HTML page to DIR.")] = None,
    compare: Annotated[
        list[Path] | None, typer.Option("--compare", metavar="BUNDLE", help="Another verified bundle to include in the report.")
    ] = None,
    options: Annotated[
        int | None,
        typer.Option(
            "--options", metavar="COUNT", help="Number of generations with random options on every backend; 0 for none."
        ),
    ] = None,
    threads: ThreadsOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the results stored beside the bundle.")
    ] = False,
) -> int:
    if options is not None and options < 0:
        raise UsageError(f"--options {options}: must be 0 or more")
    against.check()
    if compare and report is None:
        raise UsageError("--compare is for the report; give --report DIR as well")
    others = _others(report, compare)
    checkpoint, golden_only = against.checkpoint, against.golden_only
    if checkpoint is not None and against.write_golden is None:
        from dgemma.verify.backends import check_float_backends

        check_float_backends(bundle, checkpoint, None if golden_only else against.reference)
    _warn_of_another(bundle, checkpoint)
    if against.write_golden is not None:
        assert checkpoint is not None
        return _write_golden(bundle, checkpoint, against.write_golden)
    gate = against.gate(bundle, engine, threads)
    digest, found = _ladder(bundle, checkpoint, golden_only, engine, threads, options)
    if gate is not None:
        from dgemma.verify.against_float import compare as against_float

        digest, found["float"] = against_float(gate, progress)
    values = outcome.merged(bundle, digest, found)
    passed = all(v["passed"] for section in found.values() for v in section.values())
    if as_json:
        print_json(values, allow_nan=False)
    else:
        from dgemma.verify.text_report import describe

        for section, figures in found.items():
            print("\n".join(describe(bundle.resolve().name, section, figures)))
    status = _keep(bundle, values, OK if passed else MISSED)
    if report is not None:
        _draw(report, bundle, values, others)
    return status


def _others(report: Path | None, compare: list[Path] | None) -> dict[str, dict[str, Any]]:
    """Check where the report goes and read what it is compared with, before any work."""
    if report is None:
        return {}
    from dgemma.verify.report import check_folder, read_others

    check_folder(report)
    return read_others(compare or [])


def _warn_of_another(bundle: Path, checkpoint: str | None) -> None:
    """A checkpoint that the bundle was not made from is compared all the same: the numbers will tell."""
    if checkpoint is None:
        return
    from dgemma.core.manifest import read_manifest
    from dgemma.verify import source_checkpoint

    manifest, _ = read_manifest(bundle, check_files=False)
    if why := source_checkpoint.describe(manifest, checkpoint)["difference"]:
        print(f"warning: --checkpoint {why}; comparing anyway", file=sys.stderr)


def _ladder(
    bundle: Path, checkpoint: str | None, golden_only: bool, engine: str | None, threads: int | None, draws: int | None
) -> tuple[str, Sections]:
    """The golden prompts on every backend; a bundle without them has no ladder, an error only if nothing else is asked."""
    from dgemma.core.engines import ENGINES
    from dgemma.core.manifest import read_manifest
    from dgemma.runtime.bundle import Bundle
    from dgemma.runtime.engines import choose
    from dgemma.verify import golden
    from dgemma.verify.ladder import climb

    manifest, digest = read_manifest(bundle, check_files=False)
    if golden.FILE not in manifest.files and checkpoint is not None:
        if golden_only:
            raise BundleError(f"{bundle}: has no {golden.FILE}, so --golden-only leaves nothing to compare; leave it out")
        print(f"warning: {bundle} has no {golden.FILE}, so there is no ladder", file=sys.stderr)
        return digest, {}
    if engine is not None:
        choose(Bundle.open(bundle), engine)  # says what is wrong with the one that was asked for
    engines = [engine] if engine else [name for name in ENGINES if name in manifest.graphs]
    if draws is None and checkpoint is not None and not golden_only and not golden.is_large(manifest):
        draws = DRAWS
    digest, found = climb(bundle, checkpoint, engines, threads, progress, draws)
    return digest, {"ladder": found}


def _write_golden(bundle: Path, checkpoint: str, path: Path) -> int:
    from dgemma.verify.write_golden import write

    lines, agree = write(bundle, checkpoint, path, progress)
    print("\n".join(lines))
    return OK if agree else MISSED


def _draw(report: Path, bundle: Path, values: dict[str, Any], others: dict[str, Any]) -> None:
    from dgemma.verify.report import write

    try:
        written = write(report, bundle.resolve().name, values.get("float", {}), others, values.get("ladder", {}))
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):  # figures kept from before, in a file that was edited
        raise UsageError(f"{outcome.place(bundle)}: is damaged; give --checkpoint to compare again") from None
    for path in written:
        print(f"wrote {path}", file=sys.stderr)


def _keep(bundle: Path, values: dict[str, Any], status: int) -> int:
    """Keep the outcome; where that cannot be, say so: a miss is still a miss, and a pass that is not kept is an error."""
    if is_shipped(bundle):  # part of the installed package, which is not ours to write
        return status
    try:
        outcome.write(bundle, values)
    except UsageError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return status or NOT_KEPT
    return status
