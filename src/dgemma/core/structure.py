"""The texts that an answer may be: those that a regular expression matches, JSON of a schema, or one of a few choices.

It knows what was asked for, and nothing of automata, tokenizers or bundles.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgemma.core.errors import Param, UsageError, listed

STRUCTURES = ("regex", "json_schema", "choices")
SHOWN = 60  # characters of a language in a message


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One language; exactly one of the three is given. Build it once and pass it in `GenerateOptions`.

    Args:
        regex: of the whole answer, in the syntax of Rust's regex crate: no look-around, no backreferences.
        json_schema: a JSON schema, as an object or its JSON text; it becomes text.
        choices: the answers that are possible, 2 or more different ones.
    Raises:
        UsageError.
    """

    regex: str | None = None
    json_schema: str | Mapping[str, Any] | None = None
    choices: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.regex is not None and not isinstance(self.regex, str):
            raise UsageError(Param("regex"), f" {self.regex!r} must be text")
        choices = () if isinstance(self.choices, str) else self.choices
        if isinstance(self.choices, str) or not isinstance(choices, Sequence):
            raise UsageError(Param("choices"), f" {self.choices!r} must be a list of texts")
        if not all(isinstance(text, str) and text for text in choices):
            raise UsageError(Param("choices"), " must be non-empty texts")
        if choices and len(set(choices)) < max(2, len(choices)):
            often, times = Counter(choices).most_common(1)[0]
            found = f" {often[:SHOWN]!r} is the only one" if times == 1 else f" have {often[:SHOWN]!r} twice"
            raise UsageError(Param("choices"), f"{found}; give 2 or more different texts")
        object.__setattr__(self, "choices", tuple(choices))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        given = [name for name in STRUCTURES if getattr(self, name) not in (None, ())]
        if len(given) != 1:
            raise UsageError("give one of ", *listed(STRUCTURES), *((", not ", *listed(given)) if given else ()))

    @classmethod
    def of(
        cls,
        *,
        regex: str | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        choices: str | Sequence[str] = (),
    ) -> Structure | None:
        """From what a user asks for; None where that is nothing. Raises UsageError."""
        if regex is None and json_schema is None and choices in ((), []):
            return None
        return cls(regex=regex, json_schema=json_schema, choices=choices)

    @property
    def name(self) -> str:
        """Which of the three it is."""
        return next(name for name in STRUCTURES if getattr(self, name) not in (None, ()))

    def __str__(self) -> str:
        text = self.regex if self.regex is not None else self.json_schema or "|".join(self.choices)
        return f"{self.name} {str(text)[:SHOWN]!r}{'…' if len(str(text)) > SHOWN else ''}"


def _schema_text(schema: object) -> str:
    """A schema as JSON text with its keys in their order, by which properties are written; raises UsageError."""
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            Param("json_schema"), f" is not JSON ({str(error)[:80] or 'nested too deeply'}); give a schema object"
        ) from None
    if not isinstance(value, (Mapping, bool)):
        raise UsageError(Param("json_schema"), f" must be an object, not {text[:SHOWN]}")
    return text
