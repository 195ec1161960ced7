"""`python -m dgemma.cli`."""

from dgemma.__main__ import main

main()
