"""Runs the fast suites, Python's first and then Java's, and adds up their tests.

    python tests/run.py [python] [java]

A part whose tools are missing is left out, with a line that names the packages to install; it counts as skipped. With CI=true
it counts as failed. A part that stops before its tests do, such as Java code that does not compile, counts as one failure.
The last line is `N passed, N failed, N skipped`, and the exit status is 1 if anything failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import packages  # noqa: E402

POM = ROOT / "android_demo" / "pom.xml"
BUNDLE = Path("build") / "tiny.dgemma"  # what `make java-bundles` makes
REPORTS = "*/target/surefire-reports/TEST-*.xml"
PYTEST = ("-m", "not slow", "--durations=10", "--numprocesses=auto", "--dist=loadfile", "--no-loadscope-reorder")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            passed=self.passed + other.passed, failed=self.failed + other.failed, skipped=self.skipped + other.skipped
        )

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read(reports: Iterable[Path]) -> Counts:
    """The tests of JUnit's XML files, which pytest and Surefire both write."""
    found = Counts()
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case}
            failed = bool(kinds & {"failure", "error"})
            skipped = not failed and "skipped" in kinds
            found += Counts(passed=int(not failed and not skipped), failed=int(failed), skipped=int(skipped))
    return found


def judged(found: Counts, status: int) -> Counts:
    """The counts of a command, with a failure that its reports do not show."""
    return found + Counts(failed=int(status != 0 and found.failed == 0))


def python() -> Counts:
    """pytest, in processes that do not compete for cores."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "pytest.xml"
        command = [sys.executable, "-m", "pytest", *PYTEST, f"--junitxml={report}"]
        env = {"OMP_NUM_THREADS": "1", **os.environ, **shared_bundle()}
        status = subprocess.run(command, cwd=ROOT, env=env).returncode
        return judged(read([report] if report.exists() else []), status)


def shared_bundle() -> dict[str, str]:
    """What tells Python's tests where tiny's bundle is, which Java's will read as well: exported once for both.

    One that is there already may be of an older exporter; then Python's tests export their own.
    """
    if packages.missing(packages.JAVA) or (ROOT / BUNDLE).exists() or not bundles():
        return {}
    return {"DGEMMA_TINY_BUNDLE": str(ROOT / BUNDLE)}


def bundles() -> bool:
    """Whether the bundles that Java's tests read could be made, or are there."""
    return subprocess.run([os.environ.get("MAKE", "make"), "java-bundles"], cwd=ROOT).returncode == 0


def java() -> Counts:
    """Maven, on the bundles that its tests read; without the app where the tools of its resources are missing."""
    if lacks := packages.missing(packages.JAVA):
        return left_out("Java", lacks) + left_out("the Android app", packages.missing(packages.APP))
    lacks = packages.missing(packages.APP)
    counts = left_out("the Android app", lacks) if lacks else Counts()
    if not bundles():
        return judged(counts, 1)
    for old in POM.parent.glob(REPORTS):
        old.unlink()
    # `package`, because studies and android_demo/same_tokens.py run the command line's jar
    command = ["mvn", "-q", "-B", "-f", str(POM), *(["-pl", "!app"] if lacks else []), *experts_library(), "package"]
    print("Java:", " ".join(command[:1] + command[3:]), flush=True)
    status = subprocess.run(command, cwd=ROOT, env={"MAVEN_OPTS": "-Xmx512m", **os.environ}).returncode
    found = read(POM.parent.glob(REPORTS))
    print(f"Java: {found}", flush=True)
    return counts + judged(found, status)


def experts_library() -> list[str]:
    """What tells Java's tests where the library for quantized mixtures is; they are skipped where it cannot be built."""
    done = subprocess.run([sys.executable, "-m", "dgemma.runtime.native"], stdout=subprocess.PIPE, text=True)
    return [f"-Ddgemma.experts.library={done.stdout.strip()}"] if done.returncode == 0 else []


def left_out(part: str, lacks: Sequence[str]) -> Counts:
    """What leaving a part out counts as, after its line."""
    if packages.in_ci():
        print(f"failed: {part} cannot be tested ({packages.install(lacks)})", flush=True)
        return Counts(failed=1)
    print(f"left out: {part} ({packages.install(lacks)}); counted as skipped", flush=True)
    return Counts(skipped=1)


def main(parts: Sequence[str]) -> int:
    known = {"python": python, "java": java}
    if unknown := set(parts) - set(known):
        sys.exit(f"error: no part {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    total = Counts()
    for name, part in known.items():
        if not parts or name in parts:
            total += part()
    print(total, flush=True)
    return int(total.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
