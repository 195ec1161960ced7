"""`dgemma version`."""

from __future__ import annotations

from dgemma import __version__


def run() -> None:
    from dgemma.core.engines import PACKAGES
    from dgemma.runtime.engines import installed_version

    print(f"dgemma {__version__}")
    for engine, package in PACKAGES.items():
        print(f"{engine}: {package} {installed_version(package) or 'is not installed'}")
