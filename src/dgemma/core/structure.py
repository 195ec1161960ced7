"""What an answer may be: a text that a regular expression matches, JSON of a schema, a text of a grammar, one of a few choices,
or a call of a tool; or one of these that was compiled before.

It knows what was asked for, and nothing of automata, tokenizers or bundles.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgemma.core.compiled_structure import LARGEST, CompiledStructure, NotAStructure, decode
from dgemma.core.errors import Param, UsageError, blaming, listed
from dgemma.core.messages import read_tools
from dgemma.core.scalars import is_int

STRUCTURES = ("regex", "json_schema", "grammar", "choices")
REQUIRED, NOT_FORCED = "required", "auto"  # of `tool_choice`
SHOWN = 60  # characters of a language in a message
GRAMMAR_DEPTH, DEEPEST = 4, 100


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One language; exactly one of regex, json_schema, grammar, choices, calls and compiled is given. Build it once and pass it
    in `GenerateOptions`.

    Args:
        regex: of the whole answer, in the syntax of Rust's regex crate: no look-around, no backreferences.
        json_schema: a JSON schema, as an object or its JSON text; it becomes text.
        grammar: in Lark's form, with a rule `start`, which is the whole answer.
        grammar_depth: how many times a rule of the grammar may stand inside itself, 0 to 100; None: 4.
        choices: the answers that are possible, 2 or more different ones.
        calls: declarations of tools, as `GenerateOptions.tools`: the answer is one call of one of them, with arguments that
            follow its parameters. They become JSON text. The model must be told of these tools in the prompt.
        compiled: what `read` finds in a file; its `choices` become those of the structure.
    Raises:
        UsageError.
    """

    regex: str | None = None
    json_schema: str | Mapping[str, Any] | None = None
    grammar: str | None = None
    grammar_depth: int | None = None
    choices: str | Sequence[str] = ()
    calls: str | Sequence[Mapping[str, Any]] = ()
    compiled: CompiledStructure | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.regex is not None and not isinstance(self.regex, str):
            raise UsageError(Param("regex"), f" {self.regex!r} must be text")
        self._check_grammar()
        choices = () if isinstance(self.choices, str) else self.choices
        if isinstance(self.choices, str) or not isinstance(choices, Sequence):
            raise UsageError(Param("choices"), f" {self.choices!r} must be a list of texts")
        if not all(isinstance(text, str) and text for text in choices):
            raise UsageError(Param("choices"), " must be non-empty texts")
        if choices and len(set(choices)) < max(2, len(choices)):
            often, times = Counter(choices).most_common(1)[0]
            found = f" {often[:SHOWN]!r} is the only one" if times == 1 else f" have {often[:SHOWN]!r} twice"
            raise UsageError(Param("choices"), f"{found}; give 2 or more different texts")
        if self.compiled is not None and not choices:
            choices = self.compiled.choices
        object.__setattr__(self, "choices", tuple(choices))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        if self.calls:
            with blaming("tools"):
                tools = read_tools(json.loads(self.calls) if isinstance(self.calls, str) else self.calls)
            object.__setattr__(self, "calls", json.dumps(tools))
        given = self._given
        if self.calls and len(given) > 1:
            raise UsageError(Param("tool_choice"), " makes the answer a call; leave ", *listed(given[:-1]), " out")
        if len(given) != 1:
            raise UsageError("give one of ", *listed(STRUCTURES), *((", not ", *listed(given)) if given else ()))

    def _check_grammar(self) -> None:
        """The depth of a grammar becomes a number. Raises UsageError."""
        if self.grammar is not None and not isinstance(self.grammar, str):
            raise UsageError(Param("grammar"), f" {self.grammar!r} must be text")
        depth = Param("grammar_depth")
        if self.grammar_depth is None:
            object.__setattr__(self, "grammar_depth", None if self.grammar is None else GRAMMAR_DEPTH)
        elif self.grammar is None:
            raise UsageError(
                depth, " says how deep rules of a grammar nest; give ", Param("grammar"), " as well, or leave it out"
            )
        elif not is_int(self.grammar_depth, 0, DEEPEST):
            raise UsageError(depth, f" {self.grammar_depth!r} must be an integer from 0 to {DEEPEST}")

    @classmethod
    def of(
        cls,
        *,
        regex: str | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        grammar: str | None = None,
        grammar_depth: int | None = None,
        choices: str | Sequence[str] = (),
        calls: Sequence[Mapping[str, Any]] = (),
    ) -> Structure | None:
        """From what a user asks for; None where that is nothing. Raises UsageError."""
        given = (regex, json_schema, grammar, grammar_depth)
        if all(one is None for one in given) and choices in ((), []) and not calls:
            return None
        return cls(
            regex=regex,
            json_schema=json_schema,
            grammar=grammar,
            grammar_depth=grammar_depth,
            choices=choices,
            calls=calls,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Structure:
        """Of a file that `dgemma structure` has written, all of which is checked. Raises UsageError that names it."""
        said = Param("structure"), f" {os.fspath(path)}: "
        try:
            with open(path, "rb") as file:
                return cls(compiled=decode(file.read(LARGEST + 1)))
        except (OSError, ValueError) as error:
            if isinstance(error, NotAStructure):
                raise UsageError(*said, str(error)) from None
            why = error.strerror if isinstance(error, OSError) else error
            raise UsageError(*said, f"cannot be read ({why}); name a file that `dgemma structure` has written") from None

    @property
    def name(self) -> str:
        """The option that asks for it."""
        return self._given[0]

    @property
    def is_call(self) -> bool:
        """Whether an answer is a call of a tool."""
        return bool(self.calls) or (self.compiled is not None and self.compiled.is_call)

    @property
    def tools(self) -> tuple[dict[str, Any], ...]:
        """The declarations of `calls`."""
        return tuple(json.loads(self.calls)) if isinstance(self.calls, str) else ()

    @property
    def _given(self) -> list[str]:
        given = [name for name in STRUCTURES if getattr(self, name) not in (None, ())]
        if self.compiled is not None:  # whose choices are not given beside it
            given = ["structure", *(name for name in given if name != "choices" or self.choices != self.compiled.choices)]
        return [*given, "tool_choice"] if self.calls else given

    def __str__(self) -> str:
        if self.calls:
            return f"a call of {' or '.join(tool['function']['name'] for tool in self.tools)}"
        if self.compiled is not None:
            return f"structure {self.compiled}"
        texts = (self.regex, self.json_schema, self.grammar, "|".join(self.choices))
        text = next(one for one in texts if one is not None)
        return f"{self.name} {str(text)[:SHOWN]!r}{'…' if len(str(text)) > SHOWN else ''}"


def either(structure: Structure | None, other: Structure | None) -> Structure | None:
    """The option `structure`, or what other options say, if not both do. Raises UsageError."""
    if structure is not None and other is not None:
        raise UsageError("give ", *listed(("structure", other.name), " or "), ", not both")
    return other if structure is None else structure


def forced(tools: Sequence[Mapping[str, Any]], tool_choice: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of which one must be called: none for auto, all for required, one for its name. Raises UsageError."""
    if tool_choice == NOT_FORCED:
        return ()
    choice = Param("tool_choice")
    if not isinstance(tool_choice, str):
        raise UsageError(choice, f" {tool_choice!r} must be {NOT_FORCED}, {REQUIRED} or the name of a tool")
    if not tools:
        raise UsageError(choice, f" {tool_choice[:SHOWN]!r} needs tools; give some, or leave it out")
    names = [tool["function"]["name"] for tool in read_tools(tools)]
    if tool_choice != REQUIRED and tool_choice not in names:
        known = ", ".join((NOT_FORCED, REQUIRED, *names))
        raise UsageError(choice, f" {tool_choice[:SHOWN]!r} is no tool; choose one of {known}")
    return tuple(tool for tool, name in zip(tools, names, strict=True) if tool_choice in (REQUIRED, name))


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
