"""Regular expressions of JSON's scalar values: strings of a length, a format or a pattern, and numbers in bounds.

Each matches only valid values, but perhaps not all of them: no \\u escapes, years of four digits, email addresses of plain
letters.
"""

from __future__ import annotations

from dgemma.core.errors import Param, UsageError

CHARACTER = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt])'
INTEGER = r"(?:-?(?:0|[1-9][0-9]*))"
_EXPONENT = "(?:[eE][+-]?[0-9]{1,2})?"
_DAY = "(?:0[1-9]|1[0-9]|2[0-8])"
_LEAP = r"(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = rf"(?:[1-9][0-9]{{3}}-(?:(?:0[1-9]|1[0-2])-{_DAY}|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|{_LEAP}-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_HOST = r"(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "email": rf"[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+)*@{_HOST}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "uri": rf"https?://{_HOST}(?::[1-9][0-9]{{0,3}})?(?:/[A-Za-z0-9._~-]+)*/?",
}
PLANE = r"\x{100000}-\x{10ffff}"  # characters for private use that no pattern matches: they may stand for markers
_CLASSES = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": r"[ \t\n\r]"}
_MOST_DIGITS = 15  # of a bound: those that a double keeps


def refused(said: str) -> UsageError:
    """What is wrong with a schema, and where in it."""
    return UsageError(Param("json_schema"), f" {' '.join(said.split())}")


def literal(text: str) -> str:
    """An expression of one text."""
    return "".join(rf"\{c}" if c in r"\.+*?()|[]{}^$#&-~" else c for c in text)


def times(low: int, high: int | None) -> str:
    """Low to high repetitions of what stands before."""
    return "*" if high is None and low == 0 else f"{{{low},{'' if high is None else high}}}"


def pattern(expression: str, path: str) -> str:
    """What matches an ECMA expression with ^ before and $ behind it. Raises UsageError for what means something else in Rust's
    syntax; whether it stays within a JSON string is the caller's to check."""
    if not (expression.startswith("^") and expression.endswith("$")) or expression.endswith("\\$"):
        raise refused(
            f"{path}/pattern {expression[:60]!r} must begin with ^ and end with $, so that it covers the whole string"
        )
    body, made, in_class, i = expression[1:-1], list[str](), False, 0

    def unsupported(what: str) -> UsageError:
        return refused(f"{path}/pattern {expression[:60]!r} has {what}, which is not supported; write it in other words")

    while i < len(body):
        part = body[i : i + 2] if body[i] == "\\" else body[i]
        i += len(part)
        if len(part) == 2:
            if part[1].isalnum() and part[1] not in _CLASSES:
                raise unsupported(part)
            made.append(_CLASSES.get(part[1], part))
        elif in_class and (part == "[" or (part in "&~" and body[i : i + 1] == part) or body[i - 1 : i + 1] == "--"):
            raise unsupported(f"{part} inside a class")
        elif not in_class and part == "(" and body[i : i + 1] == "?" and body[i : i + 2] != "?:":
            raise unsupported(body[i - 1 : i + 2])
        elif not in_class and part in "^$":
            raise unsupported(f"{part} inside")
        else:
            opens = not in_class and part == "["
            in_class = opens or (in_class and part != "]")
            if opens and body[i : i + 1] == "^":
                part, i = f"[^{PLANE}", i + 1
            made.append(rf"[^\n{PLANE}]" if part == "." and not in_class else part)
    return f"(?:{''.join(made)})"


def integer(low: int | None, high: int | None, path: str) -> str:
    """An integer from low to high, neither of which need be."""
    if low is None and high is None:
        return INTEGER
    if low is not None and high is not None and low > high:
        raise refused(f"{path} has a minimum above its maximum; no number fits both")
    if max(len(str(abs(bound))) for bound in (low, high) if bound is not None) > _MOST_DIGITS:
        raise refused(f"{path} has a bound of more than {_MOST_DIGITS} digits; leave it out")
    parts = list[str]()
    if low is None or low < 0:  # −1 down to low
        parts.append("-" + _magnitudes(1 if high is None or high >= 0 else -high, None if low is None else -low))
    if high is None or high >= 0:
        parts.append(_magnitudes(max(0, low or 0) if low is not None else 0, high))
    return f"(?:{'|'.join(parts)})"


def number(low: int | None, high: int | None, excludes: tuple[bool, bool], path: str, digits: int | None = None) -> str:
    """A number from low to high, both whole and 0 or more, or without them; with at most so many digits before its point, and
    as many behind it."""
    more, most = ("*", "+") if digits is None else (f"{{0,{digits - 1}}}", f"{{1,{digits}}}")
    not_negative = rf"(?:0|[1-9][0-9]{more})(?:\.[0-9]{most})?{_EXPONENT}"
    if low is None and high is None:
        return f"(?:-?{not_negative})"
    if low is None or low < 0 or (high is not None and high <= low):
        raise refused(f"{path}: a number can have a minimum of 0 or more, and a maximum above it; leave other bounds out")
    decimal, zeros = rf"(?:\.[0-9]{most})?", rf"(?:\.0{most})?"
    above = rf"{low}\.0{more}[1-9][0-9]{more}"  # more than low, less than low + 1
    if high is None:
        if low == 0 and not excludes[0]:
            return f"(?:{not_negative})"
        parts = [_magnitudes(low + 1, None if digits is None else 10**digits - 1) + decimal, above]
    else:
        parts = [*([_magnitudes(low + 1, high - 1) + decimal] if high - low > 1 else []), above]
        if not excludes[1]:
            parts.append(f"{high}{zeros}")
    if not excludes[0]:
        parts.append(f"{low}{zeros}")
    return f"(?:{'|'.join(parts)})"


def _magnitudes(low: int, high: int | None) -> str:
    """Digits of the integers from low to high, both 0 or more."""
    if high is None:
        digits = len(str(low))
        longer = rf"[1-9][0-9]{{{digits},}}"
        return f"(?:{_magnitudes(low, 10**digits - 1)}|{longer})"
    parts, start = list[str](), low
    while start <= high:  # runs of integers that share all but their last digits
        width = 0
        while start % 10 ** (width + 1) == 0 and start + 10 ** (width + 1) - 1 <= high and start >= 10 ** (width + 1):
            width += 1
        head, unit = divmod(start // 10**width, 10)
        last = min(9, (high + 1 - start) // 10**width + unit - 1)
        prefix = str(head) if head else ""
        digit = str(unit) if unit == last else f"[{unit}-{last}]"
        parts.append(f"{prefix}{digit}" + (f"[0-9]{{{width}}}" if width else ""))
        start += (last - unit + 1) * 10**width
    return f"(?:{'|'.join(parts)})"
