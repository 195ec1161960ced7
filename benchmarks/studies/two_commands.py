"""How long a newcomer waits: `make demo`, then `make test`, in a fresh clone with an empty home and a bare PATH.

Packages come from wherever pip is set up to get them, so seconds of installing are also those of the network.

Run: `python -m dgemma.benchmarks.studies.two_commands [--without-test] [--out FILE]`
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgemma.benchmarks.report import check_out, one_line_errors, write_json
from dgemma.core import machine
from dgemma.core.errors import DgemmaError

ROOT = Path(__file__).resolve().parents[2]
BARE_PATH = "/usr/local/bin:/usr/bin:/bin"
PASSED_ON = ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
# Line of `make demo` that begins a part → the part; what comes before the first one is installing.
PARTS = {
    r"dgemma run tiny": "first text",
    r"with extra export": "installing",
    r"dgemma export": "exporting",
    r"benchmarks\.demo": "prompts",
}


def timed(command: Sequence[str], folder: Path, home: Path) -> Iterator[tuple[float, str]]:
    """Seconds since the start and line, for each line of stdout and stderr; the last line is the exit status."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment = {"HOME": str(home), "PATH": BARE_PATH, "LANG": "C.UTF-8", **kept}
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield time.monotonic() - begun, line.rstrip("\n")
    yield time.monotonic() - begun, str(process.returncode)


def demo(lines: Iterator[tuple[float, str]]) -> dict[str, Any]:
    """Seconds to the first text and to the end, seconds of each part, and the exit status."""
    parts, part, since, first = dict.fromkeys(["installing", *PARTS.values()], 0.0), "installing", 0.0, None
    last, status = 0.0, ""
    for seconds, line in lines:
        if part == "first text" and first is None and "dgemma run" not in line:
            first = seconds
        begins = next((name for pattern, name in PARTS.items() if re.search(pattern, line)), None)
        if begins is not None and begins != part:
            parts[part] += seconds - since
            part, since = begins, seconds
        last, status = seconds, line
    parts[part] += last - since
    return {"first_text_s": first, "total_s": last, "parts_s": parts, "status": int(status)}


def tests(lines: Iterator[tuple[float, str]]) -> dict[str, Any]:
    """Seconds, the counts of the last line that has any, what was left out, and the exit status."""
    counts, left_out, last, status = "", list[str](), 0.0, ""
    for seconds, line in lines:
        if re.fullmatch(r"\d+ passed, \d+ failed, \d+ skipped", line):
            counts = line
        if "left out" in line:
            left_out.append(line)
        last, status = seconds, line
    return {"total_s": last, "counts": counts, "left_out": left_out, "status": int(status)}


def measure(folder: Path, with_test: bool) -> dict[str, Any]:
    """Both commands in a clone of this checkout's last commit, below an empty folder."""
    clone, home = folder / "clone", folder / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True).stdout.strip()
    found: dict[str, Any] = {"commit": commit, "demo": demo(_echoed(timed(["make", "demo"], clone, home)))}
    if with_test and not found["demo"]["status"]:
        found["test"] = tests(_echoed(timed(["make", "test"], clone, home)))
    return found


def _echoed(lines: Iterator[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    for seconds, line in lines:
        print(f"{seconds:7.1f} s  {line}", file=sys.stderr, flush=True)
        yield seconds, line


def main(argv: Sequence[str] | None = None) -> int:
    program = "python -m dgemma.benchmarks.studies.two_commands"
    parser = argparse.ArgumentParser(prog=program, description="Times `make demo` and `make test` in a fresh clone.")
    parser.add_argument("--without-test", action="store_true", help="only `make demo`")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args(argv)
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="dgemma-two-commands-") as folder:
        check_out(options.out)
        try:
            found = measure(Path(folder), not options.without_test)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DgemmaError(f"git or make did not run ({error}); this study needs both, in a git checkout") from None
        if options.out:
            write_json(options.out, {**found, "machine": machine.facts()})
    print(summary(found))
    return max(int(part["status"]) for name, part in found.items() if name != "commit")


def summary(found: Mapping[str, Any]) -> str:
    ran = found["demo"]
    if ran["status"]:
        text = "no text" if ran["first_text_s"] is None else f"first text after {ran['first_text_s']:.0f} s"
        return f"make demo: {text}, stopped after {ran['total_s']:.0f} s with status {ran['status']}"
    lines = [f"make demo: first text after {ran['first_text_s']:.0f} s, whole after {ran['total_s']:.0f} s"]
    if test := found.get("test"):
        lines.append(f"make test: {test['counts']} in {test['total_s'] / 60:.1f} min")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
