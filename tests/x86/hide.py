"""Run a command as on a processor that lacks some instructions, at full speed.

    python tests/x86/hide.py --hide amx,vnni -- dgemma bench build/tiny-w8.dgemma

It compiles `hide.c`, which tells how, to a temporary folder, and preloads it into the command and what that starts. Exit status
is the command's, or 2 where this machine cannot hide instructions.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CPUINFO = Path("/proc/cpuinfo")
# Group → its words in /proc/cpuinfo's flags; hide.c has its bits of CPUID.
GROUPS = {"amx": r"amx_\w+", "vnni": r"avx\w*vnni\w*", "avx512": r"avx512\w*|avx10\w*"}


def obstacle() -> str | None:
    """Why instructions cannot be hidden here; None where they can, as far as is known before trying."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"instructions can be hidden on x86-64 Linux alone, and this is {platform.machine()} {platform.system()}"
    if shutil.which("cc") is None:
        return "hiding instructions needs a C compiler, and there is no cc"
    if "cpuid_fault" not in CPUINFO.read_text().split():
        return "this processor cannot hide instructions from a process (no cpuid_fault in /proc/cpuinfo)"
    return None


def without(cpuinfo: str, groups: list[str]) -> str:
    """The text of /proc/cpuinfo without the flags of some groups."""
    for group in groups:
        cpuinfo = re.sub(rf"(?m)(?<= )({GROUPS[group]})(?: |$)", "", cpuinfo)
    return cpuinfo


def environment(groups: list[str], folder: Path) -> dict[str, str]:
    """Variables that hide groups of instructions from a process and its children; their files are made in `folder`.

    Raises CalledProcessError where hide.c cannot be compiled.
    """
    library, cpuinfo = folder / "hide.so", folder / "cpuinfo"
    source = str(Path(__file__).with_name("hide.c"))
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    cpuinfo.write_text(without(CPUINFO.read_text(), groups))
    preload = " ".join(filter(None, (str(library), os.environ.get("LD_PRELOAD"))))
    return {**os.environ, "LD_PRELOAD": preload, "HIDE": ",".join(groups), "HIDE_CPUINFO": str(cpuinfo)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command as on a processor that lacks some instructions.")
    parser.add_argument("--hide", required=True, help=f"groups, with commas between: {', '.join(GROUPS)}")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args()
    groups = given.hide.split(",")
    if unknown := sorted(set(groups) - set(GROUPS)):
        parser.error(f"--hide: {', '.join(unknown)} is none of {', '.join(GROUPS)}")
    if (why := obstacle()) is not None:
        print(f"error: {why}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="dgemma-hide-") as folder:
        status = subprocess.run(given.command, env=environment(groups, Path(folder)), check=False).returncode
    return status if status >= 0 else 128 - status  # ended by a signal: as shells say it


if __name__ == "__main__":
    raise SystemExit(main())
