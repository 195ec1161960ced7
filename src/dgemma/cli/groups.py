"""Options that several commands share, declared once: a parameter that is a dataclass becomes one option for each field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

Result = TypeVar("Result")


def grouped(run: Callable[..., Result]) -> Callable[..., Result]:
    """`run` for typer, with the fields of its dataclass parameters, which may nest, in place of these parameters.

    A field is declared as a parameter would be: annotated with a typer.Option, and with its default. All fields and parameters
    must have different names.
    """
    hints = get_type_hints(run, include_extras=True)
    given = inspect.signature(run)
    parameters = [one for parameter in given.parameters.values() for one in _expanded(parameter, hints[parameter.name])]

    def typed(**values: Any) -> Result:
        return run(**{name: _value(hints[name], name, values) for name in given.parameters})

    typed.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]  # which functions may have
    typed.__annotations__ = {one.name: one.annotation for one in parameters}
    return typed


def _expanded(parameter: inspect.Parameter, kind: Any) -> Iterator[inspect.Parameter]:
    if not is_dataclass(kind):
        yield parameter.replace(annotation=kind)
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        one = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default)
        yield from _expanded(one, hints[field.name])


def _value(kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    if not is_dataclass(kind):
        return values[name]
    hints = get_type_hints(kind, include_extras=True)
    make: Callable[..., Any] = kind  # type: ignore[assignment]  # a class: no hint is an instance of one
    return make(**{field.name: _value(hints[field.name], field.name, values) for field in fields(kind)})
