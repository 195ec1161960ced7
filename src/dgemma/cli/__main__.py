"""`python -m dgemma.cli`."""

from dgemma.cli import main

main()
