"""`python -m dgemma`, and the program `dgemma`."""

import sys

from dgemma.core.interrupts import end_at_once


def main() -> None:
    """Entry point of `dgemma`: Ctrl-C ends it without a traceback while it still imports, and once its status is known."""
    end_at_once()
    from dgemma.cli import dispatch

    status = dispatch(sys.argv[1:])
    end_at_once()
    sys.exit(status)


if __name__ == "__main__":
    main()
