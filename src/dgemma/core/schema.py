"""JSON values read as annotated dataclasses, strictly: every value is of its kind, every key is known, none is missing.

It knows nothing of what the values mean; checks of meaning are in the dataclasses' `__post_init__`.
"""

from __future__ import annotations

import functools
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class WrongKind(ValueError):
    """A value is missing, or of another kind than its annotation says."""


class UnknownKey(ValueError):
    """A key that the dataclass does not have."""


def read_as(kind: type[T], value: Any) -> T:
    """`value` as the dataclass `kind`.

    Annotations may be made of dataclasses, int (32 bits; `Annotated[int, BITS]` for others), float (an integer will do), str,
    Any, Literal, unions of these, `tuple[X, ...]`, `tuple[X, Y]` and `dict[str, X]`.

    Raises:
        WrongKind, UnknownKey: naming the place in `value`.
    """
    read: T = _read(kind, value, "")
    return read


def _read(kind: Any, value: Any, path: str) -> Any:
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _read_fields(kind, value, path)
    if origin in (Union, UnionType):
        return _read_union(of, value, path)
    if origin is tuple:
        return _read_tuple(of, value, path)
    if origin is dict:
        return {k: _read(of[1], v, _at(path, k)) for k, v in _of_type(dict, value, path, "an object").items()}
    if origin is Literal:
        if isinstance(value, str) and value in of:
            return value
        raise WrongKind(f"{path!r} must be {' or '.join(of)}")
    if kind is float:
        return _number(value, path)
    if kind is str:
        return _of_type(str, value, path, "a string")
    bits = of[1] if origin is Annotated else 32
    if type(value) is not int or not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise WrongKind(f"{path!r} must be an integer of {bits} bits")
    return value


def _read_fields(kind: Any, value: Any, path: str) -> Any:
    values = _of_type(dict, value, path, "an object")
    if unknown := sorted(set(values) - {f.name for f in fields(kind)}):
        raise UnknownKey(f"unknown key {unknown[0]!r}")
    hints, read = _hints(kind), {}
    for f in fields(kind):
        if f.name in values:
            read[f.name] = _read(hints[f.name], values[f.name], _at(path, f.name))
        elif f.default is MISSING and f.default_factory is MISSING:
            raise WrongKind(f"no key {_at(path, f.name)!r}")
    return kind(**read)


def _read_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return _read(others[0], value, path)
    reasons = []
    for kind in others:
        try:
            return _read(kind, value, path)
        except WrongKind as error:
            reasons.append(str(error).removeprefix(f"{path!r} must be "))
    raise WrongKind(f"{path!r} must be {' or '.join(reasons)}")


def _read_tuple(of: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    values = _of_type(list, value, path, "a list")
    kinds = [of[0]] * len(values) if of[-1] is ... else list(of)
    if len(kinds) != len(values):
        raise WrongKind(f"{path!r} must be a list of {len(kinds)} values")
    return tuple(_read(kind, v, _at(path, i)) for i, (kind, v) in enumerate(zip(kinds, values, strict=True)))


def _number(value: Any, path: str) -> int | float:
    try:
        if type(value) in (int, float) and abs(float(value)) < float("inf"):
            number: int | float = value
            return number
    except OverflowError:
        pass
    raise WrongKind(f"{path!r} must be a finite number")


def _of_type(kind: type[T], value: Any, path: str, name: str) -> T:
    if not isinstance(value, kind):
        raise WrongKind(f"{path!r} must be {name}")
    return value


def _at(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
