"""`dgemma doctor`: what of this machine dgemma can use, what is missing, and one line of advice each."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

from dgemma import __version__
from dgemma.cli.options import JsonOption
from dgemma.cli.terminal import print_json
from dgemma.core import machine, memory
from dgemma.core.engines import PACKAGES
from dgemma.core.install import extra_with, packages_by_extra, pip_install
from dgemma.runtime import cache
from dgemma.runtime.engines import executorch, installed_version
from dgemma.runtime.native import build

# Extras beside the engines → what they are for.
EXTRAS = {
    "export": "exports, and verification against a checkpoint",
    "reference": "the JAX reference",
    "structure": "regular expressions, JSON schemas and grammars",
    "serve": "the server",
    "tune": "tuning",
    "train": "training",
    "bench": "plots",
    "qnn": "Snapdragon NPUs",
}
LEAST_DISK = 2_000_000_000  # bytes: packed weights of a large bundle


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what it is.
        state: how it is.
        advice: what would make it better, or "".
        works: whether it can be used.
    """

    name: str
    state: str
    advice: str = ""
    works: bool = True


def run(as_json: JsonOption = False) -> int:
    found = list(findings())
    usable = any(one.works for one in found if one.name in PACKAGES)
    if as_json:
        print_json({"usable": usable, "findings": [asdict(one) for one in found]})
        return 0 if usable else 1
    width = max(len(one.name) for one in found)
    for one in found:
        print(f"{one.name:<{width}}  {one.state}")
        if one.advice:
            print(f"{'':<{width}}  → {one.advice}")
    if not usable:
        print("no engine is installed, so no bundle can run", file=sys.stderr)
    return 0 if usable else 1


def findings() -> Iterator[Finding]:
    """Everything, in the order in which it is shown. Nothing is built, imported or written."""
    versions = machine.versions()
    yield Finding(name="dgemma", state=f"{__version__}, Python {versions['python']}")
    for engine, package in PACKAGES.items():
        yield _engine(engine, package)
    yield from map(_extra, EXTRAS)
    if installed_version(PACKAGES["executorch"]) is None:
        yield Finding(name="native library", state="not needed without executorch", works=False)
    else:
        stock = executorch.stock_is_installed()
        otherwise = "ExecuTorch runs through its stock binding, which loads torch" if stock else "ExecuTorch does not run"
        yield _library("native library", build.state(), otherwise)
    yield _library("experts", build.experts_state(), "quantized mixtures of experts do not run")
    path, slow = machine.int8_path(machine.cpu_flags())
    cores = machine.usable_cores()
    yield Finding(name="processor", state=f"{machine.cpu_model()}, int8 products by {path}", advice=slow or "")
    yield Finding(name="cores", state=f"{cores} usable; --threads sets how many an engine takes")
    yield Finding(name="accelerator", state="none is used: graphs run on the processor")
    yield _memory()
    yield from _cache()


def _engine(engine: str, package: str) -> Finding:
    version = installed_version(package)
    if version is None:
        cure = pip_install(extra_with(package, engine))
        return Finding(name=engine, state=f"{package} is not installed", advice=cure, works=False)
    return Finding(name=engine, state=f"{package} {version}")


def _extra(name: str) -> Finding:
    """What of an extra's packages is missing, and what for."""
    packages, purpose = sorted(packages_by_extra().get(name, ())), EXTRAS[name]
    missing = [package for package in packages if not _is_installed(package)]
    if packages and not missing:
        return Finding(name=f"extra {name}", state=f"installed, for {purpose}")
    state = f"for {purpose}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    return Finding(name=f"extra {name}", state=state, advice=pip_install(name), works=False)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _library(name: str, found: tuple[bool, str], otherwise: str) -> Finding:
    works, text = found
    return Finding(name=name, state=text, advice="" if works else f"without it, {otherwise}", works=works)


def _memory() -> Finding:
    whole, free = machine.memory_bytes(), memory.available()
    if whole is None or free is None:
        return Finding(name="memory", state="this system does not tell how much is free")
    advice = "" if memory.is_checked() else f"{memory.SWITCH}=0 is set: bundles are loaded even if they do not fit"
    return Finding(name="memory", state=f"{free / 1e9:.1f} GB free of {whole / 1e9:.1f} GB", advice=advice)


def _cache() -> Iterator[Finding]:
    if not cache.enabled():
        advice = "large bundles pack their weights at each start; set DGEMMA_CACHE to a folder"
        yield Finding(name="cache", state="off", advice=advice, works=False)
        return
    folder = cache.folder()
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    works = os.access(there, os.W_OK)
    advice = "" if works else f"it cannot be written, so weights are packed at each start; make {there} writable"
    yield Finding(name="cache", state=f"{folder}, {size / 1e6:.0f} MB; you may delete it", advice=advice, works=works)
    free = shutil.disk_usage(there).free
    low = "packed weights of large bundles may not fit; free some space, or set DGEMMA_CACHE" if free < LEAST_DISK else ""
    yield Finding(name="disk", state=f"{free / 1e9:.1f} GB free where the cache is", advice=low)
