"""Asks the Python runtime for its verdict on every manifest that the Java fuzz test tried.

    mvn test -Dtest=BundleFuzzTest -Ddgemma.fuzz.out=FILE
    python tests/bundles/cross_check.py FILE

Exit status 1 where one of them opens what the other refuses. Refusals in other words are counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bundle_recipes import BASE, write

from dgemma.core.errors import BundleError
from dgemma.core.manifest import MANIFEST
from dgemma.runtime.bundle import Bundle


def verdict(bundle: Path, manifest: bytes) -> str:
    (bundle / MANIFEST).write_bytes(manifest)
    try:
        Bundle.open(bundle)
    except BundleError as error:
        return str(error).replace(str(bundle), "BUNDLE")
    return ""


def main(file: Path) -> int:
    opened = refused = other_words = 0
    differences: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "b.dgemma"
        for name, content in BASE["files"].items():
            write(bundle / name, content)
        for line in file.read_text(encoding="utf-8").splitlines():
            tried = json.loads(line)
            java, python = tried["says"], verdict(bundle, tried["manifest"].encode("latin-1"))
            opened, refused = opened + (not python), refused + bool(python)
            if bool(java) != bool(python):
                differences.append((java, python))
            elif java != python:
                other_words += 1
                if "-v" in sys.argv:
                    print(f"java:   {java}\npython: {python}")
    for java, python in differences:
        print(f"java:   {java or 'opens'}\npython: {python or 'opens'}")
    print(f"{opened} opened, {refused} refused, {other_words} in other words, {len(differences)} verdicts differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
