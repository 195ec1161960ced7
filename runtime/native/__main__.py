"""Prints the path of the library with the experts' operator, for the Java runtime; builds it if necessary.

python -m dgemma.runtime.native
"""

from __future__ import annotations

import sys

from dgemma.runtime.native import build


def main() -> int:
    """Exit status 2, with one line, where it cannot be built."""
    try:
        print(build.experts())
    except build.Unavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
