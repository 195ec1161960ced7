"""Installs this checkout, editable, with an extra into a virtual environment, which it makes where there is none.

    python3.11 tools/install.py VENV EXTRA

With uv, because it takes a tenth of pip's time: the uv on PATH, else one that pip puts into the environment. uv does not read
pip's settings, so index, links and certificates are handed over. Where uv cannot be had or fails, pip does the work. Standard
library only.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# pip's setting → uv's variable, and what stands between several values
HANDED_OVER = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
COMMANDS = ("global", "install", ":env:")  # a later one wins


def settings(listed: str) -> dict[str, str]:
    """uv's variables for what `pip config list` prints: lines such as global.index-url='https://…'."""
    found: dict[str, str] = {}
    for command in COMMANDS:
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            section, _, key = name.partition(".")
            if section == command and key in HANDED_OVER:
                variable, between = HANDED_OVER[key]
                found[variable] = between.join(str(ast.literal_eval(value)).split())
    if "UV_INDEX" in found:  # to pip all indexes are alike
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def environment(python: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv; what is set for uv itself stays."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True)
    return {**settings(listed.stdout), **given}


def find_uv(python: Path) -> str | None:
    """A uv that runs, put into the environment where there is none; None where it cannot be had."""
    inside = shutil.which("uv", path=str(python.parent))
    if found := shutil.which("uv") or inside:
        return found
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"])
    return shutil.which("uv", path=str(python.parent)) if done.returncode == 0 else None


def install(venv: Path, extra: str) -> int:
    """Exit status of the installer."""
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        say(f"making the virtual environment {venv}")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    target = ["--editable", f"{ROOT}[{extra}]"]
    if uv := find_uv(python):
        say(f"installing dgemma with extra {extra} into {venv}, with uv")
        command = [uv, "pip", "install", "--quiet", "--python", python, *target]
        done = subprocess.run(command, env=environment(python, os.environ))
        if done.returncode == 0:
            return show_source(python)
    say(f"installing dgemma with extra {extra} into {venv}, with pip, which takes longer")
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *target])
    return done.returncode or show_source(python)


def show_source(python: Path) -> int:
    """Put src/ on the environment's path; the status is 0.

    The finder of an editable install is asked last. A program that starts beside a checkout called dgemma would take that
    folder for the package.
    """
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (folder / "dgemma-source.pth").write_text(f"{ROOT / 'src'}\n", encoding="utf-8")
    return 0


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3.11 tools/install.py VENV EXTRA")
    sys.exit(install(Path(sys.argv[1]), sys.argv[2]))
