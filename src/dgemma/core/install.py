"""How this package's extras are installed here. It is on no package index yet, so a bare `dgemma[EXTRA]` would name nothing,
or a stranger's package: cures name the checkout, or the wheel that this copy came from."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLISHED = False  # once an index serves dgemma: True
_COMES_WITH = {
    "coremltools": "executorch",
    "ml_dtypes": "jax",
    "sympy": "torch",
}  # imported, and required by a package that we require
_REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^]]*)\])?")
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)["']""")


def pip_install(extra: str) -> str:
    """The command that installs an extra, such as onnx, or for "" what is always needed: the cure of a message."""
    brackets = f"[{extra}]" if extra else ""
    if PUBLISHED:
        return f"pip install {shlex.quote(f'dgemma{brackets}')}"
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():  # this file is in its src/dgemma/core
        return f"pip install -e {shlex.quote(f'{checkout}{brackets}')}"
    return f"pip install {shlex.quote(f'{_installed_from()}{brackets}')}"


def extra_with(module: str, preferred: str) -> str:
    """The extra that brings a package, by the name it is imported under; "" where dgemma itself needs it.

    That is `preferred` if it brings the package or if none is known to, else the one that brings the least besides.
    """
    wanted = _canonical(_COMES_WITH.get(module, module))
    brought = packages_by_extra()
    if wanted in brought.get("", ()):
        return ""
    fitting = [extra for extra, packages in brought.items() if wanted in packages]
    return preferred if preferred in fitting or not fitting else min(fitting, key=lambda extra: len(brought[extra]))


def packages_by_extra() -> dict[str, set[str]]:
    """Extra → packages that it brings, those of extras that it includes too; "" → those that dgemma always needs."""
    try:
        requirements = metadata.requires("dgemma") or []
    except metadata.PackageNotFoundError:
        return {}
    packages: dict[str, set[str]] = {}
    included: dict[str, set[str]] = {}
    for requirement in requirements:
        name, extras = _REQUIREMENT.findall(requirement)[0]
        marker = _EXTRA.search(requirement)
        extra = marker[1] if marker else ""
        packages.setdefault(extra, set())
        if _canonical(name) == "dgemma":
            included.setdefault(extra, set()).update(part.strip() for part in extras.split(","))
        else:
            packages[extra].add(_canonical(name))

    def all_of(extra: str) -> set[str]:
        return packages.get(extra, set()).union(*(all_of(part) for part in included.get(extra, ())))

    return {extra: all_of(extra) for extra in packages}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
