"""How this package's extras are installed here. It is on no package index yet, so a bare `dgemma[EXTRA]` would name nothing,
or a stranger's package: cures name the checkout, or the wheel that this copy came from."""

from __future__ import annotations

import json
import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLISHED = False  # once an index serves dgemma: True


def pip_install(extra: str) -> str:
    """The command that installs an extra, such as onnx: the cure of a message that something is not installed."""
    if PUBLISHED:
        return f"pip install 'dgemma[{extra}]'"
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():  # this file is in its src/dgemma/core
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install {shlex.quote(f'{_installed_from()}[{extra}]')}"


def _installed_from() -> str:
    """The folder or file that pip was given, if it noted one (PEP 610) and it is still there; else the checkout in the current
    folder, whose egg-info is found too and has no such note; else the wheel's usual name."""
    found = list(metadata.distributions(name="dgemma"))
    for distribution in found:
        try:
            url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
        except ValueError:
            continue
        path = unquote(url.path)
        if url.scheme == "file" and Path(path).exists():
            return path
    if checkout := _current_checkout():
        return str(checkout)
    return f"dgemma-{found[0].version}-py3-none-any.whl" if found else "dgemma.whl"  # none: copied there by hand


def _current_checkout() -> Path | None:
    """The current folder, if its pyproject.toml is dgemma's."""
    try:
        folder = Path.cwd()
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return folder if project["name"] == "dgemma" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
