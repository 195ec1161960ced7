"""A JSON schema as a regular expression: every text that it matches is a valid value in the given form, and written in one way.

Properties come in the form's order (in JSON, that of the schema), and objects have only the properties that are named. Parts
of a schema that cannot be enforced are refused by name, never ignored. (outlines-core also has such a function: it ignores what
it does not know, concatenates the parts of allOf, and its formats and patterns may leave the string.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dgemma.core.structure import SHOWN
from dgemma.runtime.structure import json_values
from dgemma.runtime.structure.byte_automaton import MOST_STATES
from dgemma.runtime.structure.forms import Form
from dgemma.runtime.structure.json_values import refused

_ANNOTATIONS = {
    "title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
    "$schema", "$id", "$comment", "$defs", "definitions",
}  # fmt: skip
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set[str](),
    "null": set[str](),
}
_COMBINE = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
_LONGEST = 1 << 20  # characters of an expression
_DEEPEST = 64


def schema_regex(schema: Any, form: Form, stays_inside: Callable[[str], bool]) -> str:
    """The expression of a schema.

    Args:
        schema: an object, or true or false.
        form: how values are written.
        stays_inside: whether an expression matches no text with a character whose first byte is among the form's `outside`.
    Raises:
        UsageError: naming the place and the keyword that is not supported.
    """
    return _Writer(schema, form, stays_inside).write(schema, "#", 0)


class _Writer:
    def __init__(self, root: Any, form: Form, stays_inside: Callable[[str], bool]) -> None:
        self._root, self._form, self._stays_inside, self._open = root, form, stays_inside, list[str]()

    def write(self, schema: Any, path: str, depth: int) -> str:
        """The expression of a part of the schema, in a group."""
        if not isinstance(schema, Mapping):
            raise refused(f"{path} is {json.dumps(schema)[:SHOWN]}; give an object with a type")
        if depth > _DEEPEST:
            raise refused(f"{path} is nested more than {_DEEPEST} deep; make it flatter")
        said = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        combined = [key for key in _COMBINE if key in said]
        made = self._combined(said, combined[0], path, depth) if combined else self._typed(said, path, depth)
        if len(made) > _LONGEST:
            raise refused(f"{path} becomes an expression of {len(made)} characters; make it smaller")
        return made

    def _combined(self, said: Mapping[str, Any], key: str, path: str, depth: int) -> str:
        only_types = {"type"} if key in ("enum", "const") else set[str]()
        self._refuse(said.keys() - {key} - only_types, path, f"beside {key} ")
        value = said[key]
        if key == "$ref":
            return self._reference(value, path, depth)
        if key in ("enum", "const"):
            values = [value] if key == "const" else value
            types = _types(said, path) if "type" in said else None
            fitting = [one for one in values if types is None or _has_type(one, types)] if isinstance(values, list) else []
            if not fitting:
                raise refused(f"{path}/{key} allows no value; list some")
            return _group(self._form.constant(one, path) for one in fitting)
        if not isinstance(value, list) or not value:
            raise refused(f"{path}/{key} must be a list of schemas")
        if key == "allOf" and len(value) > 1:
            raise refused(f"{path}/allOf has {len(value)} parts; only one is supported, so merge them")
        if key == "oneOf" and len(value) > 1 and not self._exclusive(value):
            raise refused(f"{path}/oneOf has parts that may fit the same value; use anyOf, or different types")
        return _group(self.write(one, f"{path}/{key}/{i}", depth + 1) for i, one in enumerate(value))

    def _reference(self, name: Any, path: str, depth: int) -> str:
        if not isinstance(name, str) or not name.startswith("#"):
            raise refused(f"{path}/$ref {str(name)[:SHOWN]!r} is not in this file; put it into $defs")
        if name in self._open:
            raise refused(f"{path}/$ref {name!r} refers to itself, which is not supported; write out its levels")
        self._open.append(name)
        made = self.write(self._resolved(name, path), name, depth + 1)
        self._open.pop()
        return made

    def _resolved(self, name: str, path: str) -> Any:
        found = self._root
        for part in name.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise refused(f"{path}/$ref {name!r} points to nothing; name a schema in $defs")
            found = found[key]
        return found

    def _exclusive(self, parts: Sequence[Any]) -> bool:
        """Whether no value fits two of these: their types differ, or a property that all require has different constants."""
        parts = [
            self._resolved(p["$ref"], "#") if isinstance(p, Mapping) and str(p.get("$ref")).startswith("#") else p
            for p in parts
        ]
        if not all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in parts):
            return False
        types = ["number" if part["type"] == "integer" else part["type"] for part in parts]
        if len(set(types)) == len(types):
            return True
        tags = [_tags(part) for part in parts]
        shared = set.intersection(*map(set, tags))
        return any(len({each[name] for each in tags}) == len(tags) for name in shared)

    def _typed(self, said: Mapping[str, Any], path: str, depth: int) -> str:
        if "type" not in said:
            if said.keys() & _OF_TYPE["object"] and "properties" in said:
                said = {"type": "object", **said}
            else:
                self._refuse(said.keys() - set().union(*_OF_TYPE.values()), path)
                raise refused(f"{path} has no type, so any value would fit; give one of {', '.join(_OF_TYPE)}")
        types = _types(said, path)
        self._refuse(
            said.keys() - {"type"} - set().union(*(_OF_TYPE[one] for one in types)), path, f"for {' or '.join(types)} "
        )
        return _group(self._of_type(one, said, path, depth) for one in types)

    def _of_type(self, kind: str, said: Mapping[str, Any], path: str, depth: int) -> str:
        if kind == "object":
            return self._object(said, path, depth)
        if kind == "array":
            return self._array(said, path, depth)
        if kind == "string":
            return self._string(said, path)
        if kind in ("integer", "number"):
            return self._number(kind, said, path)
        return self._form.null if kind == "null" else "(?:true|false)"

    def _object(self, said: Mapping[str, Any], path: str, depth: int) -> str:
        comma, colon = self._form.comma, self._form.colon
        properties, required, others = said.get("properties", {}), said.get("required", []), said.get("additionalProperties")
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise refused(f"{path}: properties must be an object, and required a list")
        if missing := [name for name in required if not isinstance(name, str) or name not in properties]:
            raise refused(f"{path}/required names {str(missing[0])[:SHOWN]!r}, which is not a property; describe it")
        if not properties:
            if others is False:
                return r"\{\}"
            if not isinstance(others, Mapping):
                raise refused(f"{path} does not describe its properties; name them, or give additionalProperties a type")
            if self._form.any_key is None:
                raise refused(f"{path}/additionalProperties is not supported in a call; name the properties")
            item = f"{self._form.any_key}{colon}{self.write(others, f'{path}/additionalProperties', depth + 1)}"
            return rf"\{{(?:{item}(?:{comma}{item})*)?\}}"
        properties = self._form.ordered(properties)
        items = [
            self._form.key(name, path) + colon + self.write(one, f"{path}/properties/{name}", depth + 1)
            for name, one in properties.items()
        ]
        needed = [name in required for name in properties]
        behind = "".join(f"{comma}{item}" if must else f"(?:{comma}{item})?" for item, must in zip(items, needed, strict=True))
        starts, offset = list[str](), 0
        for item, must in zip(items, needed, strict=True):  # whichever property comes first has no comma before it
            offset += len(f"{comma}{item}" if must else f"(?:{comma}{item})?")
            starts.append(item + behind[offset:])
            if must:
                break
        else:
            starts.append("")
        return rf"\{{(?:{'|'.join(starts)})\}}"

    def _array(self, said: Mapping[str, Any], path: str, depth: int) -> str:
        low, high = _count(said, "minItems", path) or 0, _count(said, "maxItems", path)
        if "prefixItems" in said:
            parts = said["prefixItems"]
            if (
                said.get("items") is not False
                or not isinstance(parts, list)
                or not low <= len(parts) <= (len(parts) if high is None else high)
            ):
                raise refused(f'{path}/prefixItems needs "items": false, and exactly as many items as it lists')
            written = (self.write(one, f"{path}/prefixItems/{i}", depth + 1) for i, one in enumerate(parts))
            return rf"\[{self._form.comma.join(written)}\]"
        if high is not None and high < low:
            raise refused(f"{path} has minItems above maxItems; no list fits both")
        if high == 0:
            return r"\[\]"
        if "items" not in said:
            raise refused(f"{path} does not describe its items; give items a type")
        item = self.write(said["items"], f"{path}/items", depth + 1)
        more = f"{{{max(0, low - 1)},{'' if high is None else high - 1}}}"
        return rf"\[(?:{item}(?:{self._form.comma}{item}){more}){'' if low else '?'}\]"

    def _string(self, said: Mapping[str, Any], path: str) -> str:
        if len(kinds := [key for key in ("pattern", "format") if key in said]) and said.keys() & {"minLength", "maxLength"}:
            raise refused(f"{path} has {kinds[0]} and a length; express the length in the pattern")
        if len(kinds) == 2:
            raise refused(f"{path} has pattern and format; give only one of them")
        if kinds == ["format"]:
            if not isinstance(said["format"], str) or said["format"] not in json_values.FORMATS:
                choices = ", ".join(json_values.FORMATS)
                raise refused(f"{path}/format {str(said['format'])[:SHOWN]!r} is not supported; choose from {choices}")
            return self._form.quoted(f"(?:{json_values.FORMATS[said['format']]})")
        if kinds == ["pattern"]:
            expression = json_values.pattern(str(said["pattern"]), path)
            if not self._stays_inside(expression):
                raise refused(f"{path}/pattern {str(said['pattern'])[:SHOWN]!r} {self._form.inside_only}")
            return self._form.quoted(expression)
        low, high = _count(said, "minLength", path) or 0, _count(said, "maxLength", path)
        if high is not None and high < low:
            raise refused(f"{path} has minLength above maxLength; no string fits both")
        return self._form.string(low, high)

    def _number(self, kind: str, said: Mapping[str, Any], path: str) -> str:
        bounds = {key: said.get(key) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")}
        for key, value in bounds.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value)):
                raise refused(f"{path}/{key} {json.dumps(value)[:SHOWN]} must be a whole number")
        if None not in (bounds["minimum"], bounds["exclusiveMinimum"]) or None not in (
            bounds["maximum"],
            bounds["exclusiveMaximum"],
        ):
            raise refused(f"{path} has a bound and its exclusive form; give only one of them")
        low, high, above, below = (None if value is None else int(value) for value in bounds.values())
        if kind == "integer":
            low = above + 1 if above is not None else low
            high = below - 1 if below is not None else high
            return self._form.integer(low, high, path)
        excludes = (above is not None, below is not None)
        return self._form.number(low if above is None else above, high if below is None else below, excludes, path)

    def _refuse(self, unknown: set[str], path: str, where: str = "") -> None:
        if unknown:
            raise refused(f"{path}/{min(unknown)[:SHOWN]} is not supported {where}yet; leave it out".replace("  ", " "))


def _tags(part: Mapping[str, Any]) -> dict[str, str]:
    """Properties that an object must have with one text."""
    properties, required = part.get("properties"), part.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    named = {name: one for name, one in properties.items() if name in required and isinstance(one, Mapping)}
    return {name: one["const"] for name, one in named.items() if isinstance(one.get("const"), str)}


def _types(said: Mapping[str, Any], path: str) -> list[str]:
    types = said["type"] if isinstance(said["type"], list) else [said["type"]]
    if not types or not all(isinstance(one, str) and one in _OF_TYPE for one in types):
        raise refused(f"{path}/type {json.dumps(said['type'])[:SHOWN]} is unknown; choose from {', '.join(_OF_TYPE)}")
    return list(types)


def _has_type(value: Any, types: Sequence[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, (int, float)):
        return "number" in types or ("integer" in types and value == int(value))
    kinds = {str: "string", list: "array", dict: "object", type(None): "null"}
    return kinds[type(value)] in types


def _count(said: Mapping[str, Any], key: str, path: str) -> int | None:
    value = said.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_STATES):
        raise refused(f"{path}/{key} {json.dumps(value)[:SHOWN]} must be an integer from 0 to {MOST_STATES}")
    return value


def _group(parts: Any) -> str:
    made = list(parts)
    return made[0] if len(made) == 1 else f"(?:{'|'.join(made)})"
