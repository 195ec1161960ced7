"""Checks of a written file, for any backend: its operators, its precision, and how close its step is to the model's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dgemma.core.errors import ExportError
from dgemma.export.delegates.forms import Form
from dgemma.export.delegates.recorded import ROUNDED


@contextmanager
def refusing(target: str, path: Path) -> Iterator[None]:
    """What a check of a file raises as an ExportError that names both."""
    try:
        yield
    except (ValueError, KeyError, IndexError) as problem:
        raise ExportError(
            f"--target {target}: {path.name} does not hold what was asked for ({problem}); leave --target out"
        ) from problem


def check_operators(form: Form, operators: Collection[str], known: Collection[str], dtypes: Collection[str]) -> None:
    """Whether a method has only known operators, in float16; raises ValueError."""
    if unknown := sorted(set(operators) - set(known)):
        raise ValueError(f"{form.name} has operator {unknown[0]}")
    if dtypes != {"float16"}:
        raise ValueError(f"{form.name} computes in {', '.join(sorted(dtypes))} instead of float16")


def check_errors(form: Form, errors: Mapping[str, float]) -> None:
    """Whether a method's outputs are the model's but for rounding to float16; raises ValueError."""
    name, worst = max(errors.items(), key=lambda item: item[1])
    if not worst <= ROUNDED:
        raise ValueError(f"{name} of {form.name} is {worst:.1e} (relative) from the model's in float16")
