"""Templates of an answer: text with holes, `Dear {{8}}, please come to {{12}}.`, each of as many tokens as it says."""

from __future__ import annotations

import re

from dgemma.core.errors import Param, UsageError

_HOLE = re.compile(r"\{\{([0-9]{1,9})\}\}")


def read_template(text: str) -> tuple[str | int, ...]:
    """Pieces of text, none of them empty, and holes as their numbers of tokens, in order. Raises UsageError."""
    parts = _HOLE.split(text)
    pieces = [int(part) if number % 2 else part for number, part in enumerate(parts)]
    if len(pieces) == 1:
        raise UsageError(Param("template"), f" {text[:60]!r} has no hole; write {{{{8}}}} for one of 8 tokens")
    if 0 in pieces:
        raise UsageError(Param("template"), f" {text[:60]!r} has a hole of 0 tokens; a hole has 1 or more")
    return tuple(piece for piece in pieces if piece != "")
