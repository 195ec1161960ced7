"""`dgemma version`."""

from __future__ import annotations

from dgemma import __version__


def run() -> None:
    from dgemma.runtime.engines import ENGINES, installed_version

    print(f"dgemma {__version__}")
    for engine, (package, _, _) in ENGINES.items():
        print(f"{engine}: {package} {installed_version(package) or 'is not installed'}")
