"""A chat template's turns, thinking and tools as pieces: found by rendering it with probes, and checked by a set of tests.

What the pieces cannot express is left out, and a note names it; a prompt of one user needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from dgemma.core import gemma_tools
from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.messages import OPENING_ROLES, read_messages
from dgemma.core.roles import GEMMA, Channel, Flag, Piece, Roles, ToolForm, Turn, compose
from dgemma.export import probes
from dgemma.export.tokenizer import CheckpointTokenizer, either

Show = Callable[..., str]  # (messages, prompt=, think=, tools=) → text, jinja's and Python's errors where it cannot be
Case = tuple[tuple[dict[str, Any], ...], bool, tuple[dict[str, Any], ...], list[int]]  # a conversation, and its ids
_NAMES = ("system", "developer", "enable_thinking", "tools")
_WORDS = ("tool", "tool_call", "tool_response")
_THOUGHT, _QUOTE = ("<|channel>", "<channel|>"), '<|"|>'
_FLAGS: tuple[Flag, ...] = ("no", "yes")
_KEPT: tuple[Literal["none", "calls", "all"], ...] = ("calls", "all", "none")


class CannotCarry(Exception):
    """The pieces do not say what the template says; `reached` conversations were as they should be."""

    def __init__(self, why: str, reached: int = 0) -> None:
        super().__init__(why)
        self.reached = reached


# What a template raises that refuses a conversation, or is not of the form that is looked for.
_FAILURES = (CannotCarry, CheckpointError, TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Finder:
    """What the search for pieces needs: file and text of the template, how to render it, and the checkpoint's tokenizer."""

    path: Path
    template: str
    show: Show
    tokenizer: CheckpointTokenizer

    def roles(self) -> tuple[Roles | None, tuple[str, ...]]:
        """The pieces, None for a template that names no roles of its own; and one note for what they cannot say."""
        if not any(name in self.template for name in _NAMES):
            return None, ()
        try:
            plain = self._plain()
            found = self._held(plain, self._cases(plain, think=False, tools=False))
        except _FAILURES as error:
            return None, (f"{self.path.name}: only user turns are supported, not system turns or thinking ({_why(error)})",)
        notes = []
        for what, add in (("thinking", self._with_thinking), ("tools", self._with_tools)):
            if (_NAMES[2] if what == "thinking" else what) in self.template:
                try:
                    found = add(found)
                except _FAILURES as error:
                    notes.append(f"{self.path.name}: its form of {what} is not supported ({_why(error)})")
        return found, tuple(notes)

    def _plain(self) -> Roles:
        """Openings without thinking and tools, and turns."""
        (after_user,) = self._cut("user")[1:]
        _, between, after_answer = self._cut("user", "assistant")
        _, _, again, _ = self._cut("user", "assistant", "user")
        before = {"user": _less(again, after_answer), "assistant": _less(between, after_user)}
        after = {"user": after_user, "assistant": after_answer}
        for role in OPENING_ROLES:
            try:
                _, between, last = self._cut("user", role)
                before[role], after[role] = _less(between, after_user), last
            except _FAILURES:
                continue
        joins = self._joins(after_answer)
        turns = {
            role: Turn(before=self._piece(before[role]), after=self._piece(after[role]), trim=self._trim(role))
            for role in before
        }
        openings = {"": self._opening("", before["user"])}
        trims: dict[str, str] = {}
        for role in OPENING_ROLES:
            try:
                opening, trims[role] = self._opening(role, before["user"]), self._trim(role, opening=True)
            except _FAILURES:
                continue
            if trims[role] == next(iter(trims.values())):
                openings[role] = opening
        answer = _less(self._cut("user", prompt=True)[-1], after_user)
        trim = next(iter(trims.values()), "none")
        return Roles(openings=openings, opening_trim=trim, turns=turns, answer={"": self._piece(answer)}, joins=joins)

    def _joins(self, after_answer: str) -> Literal["no", "before", "both"]:
        try:
            between = self._cut("user", "assistant", "assistant")[2]
        except _FAILURES:
            return "no"
        return "before" if between == after_answer else "no" if between else "both"

    def _with_thinking(self, roles: Roles) -> Roles:
        """The openings and the answer with thinking, and the channel that an answer without it opens and closes."""
        user = self._text(roles.turns["user"].before)
        openings = dict(roles.openings)
        for key in roles.openings:
            openings["+".join([*([key] if key else []), "think"])] = self._opening(key, user, think=True)
        text = _less(self._cut("user", prompt=True, think=True)[-1], self._text(roles.turns["user"].after))
        answer = {**roles.answer, "think": self._piece(text)}
        found = replace(roles, openings=openings, answer=answer, channel=self._channel(roles.answer[""], answer["think"]))
        candidates = [replace(found, drops_thoughts=drops) for drops in ("yes", "no")]
        return self._first_held(candidates, think=True, tools=False)

    def _channel(self, *answers: Piece) -> Channel:
        """Markers and name of the thought that opens an answer without thinking, empty; Gemma's where none does."""
        shorter, longer = sorted((self._text(piece) for piece in answers), key=len)
        match self._piece(_less(longer, shorter)):
            case (int() as start, str() as name, int() as end):
                pass
            case () if all(marker in self.tokenizer.markers for marker in _THOUGHT):
                start, end, name = self.tokenizer.markers[_THOUGHT[0]], self.tokenizer.markers[_THOUGHT[1]], "thought\n"
            case _:
                raise CannotCarry("no empty thought opens an answer without thinking, so its markers are unknown")
        return Channel(
            open=start, close=end, name=name, open_text=self.tokenizer.piece(start), close_text=self.tokenizer.piece(end)
        )

    def _first_held(self, candidates: Sequence[Roles], *, think: bool, tools: bool) -> Roles:
        """The first that gives what the template gives; raises what is wrong with the one that came farthest."""
        failures: list[CannotCarry] = []
        cases = list(self._cases(candidates[0], think=think, tools=tools))
        for roles in candidates:
            try:
                return self._held(roles, cases)
            except CannotCarry as error:
                failures.append(error)
        raise max(failures, key=lambda error: error.reached)

    def _with_tools(self, roles: Roles) -> Roles:
        ids = self.tokenizer.markers
        names = {word: (f"<|{word}>", f"<{word}|>") for word in _WORDS}
        if lacking := [name for pair in (*names.values(), (_QUOTE,)) for name in pair if name not in ids]:
            raise CannotCarry(f"dgemma supports tools only in Gemma's form, and the vocabulary has no {lacking[0]}")
        pairs = {word: (ids[start], ids[end]) for word, (start, end) in names.items()}
        start, end = pairs["tool"]
        writer = gemma_tools.Writer(quote=ids[_QUOTE], null="")
        declared = "".join(self._text([start, *writer.declaration(tool), end]) for tool in probes.TOOLS)
        openings, user = dict(roles.openings), self._text(roles.turns["user"].before)
        for key in roles.openings:
            flags = key.split("+") if key else []
            role = flags[0] if flags and flags[0] in OPENING_ROLES else ""
            openings["+".join([*flags, "tools"])] = self._opening(role, user, think="think" in flags, declared=declared)
        answer = {**roles.answer, "tool": self._behind_results(think=False)}
        if "think" in roles.answer:
            answer["tool+think"] = self._behind_results(think=True)
        candidates = [
            replace(
                roles,
                openings=openings,
                answer=answer,
                keeps_thinking=kept,
                tools=ToolForm(
                    form=GEMMA,
                    declaration=pairs["tool"],
                    call=pairs["tool_call"],
                    response=pairs["tool_response"],
                    quote=ids[_QUOTE],
                    null=null,
                    reopens=reopens,
                    closes=closes,
                ),
            )
            for null, reopens, closes, kept in product(("None", "null"), _FLAGS, _FLAGS, _KEPT)
        ]
        return self._first_held(candidates, think="think" in roles.answer, tools=True)

    def _behind_results(self, *, think: bool) -> Piece:
        """What the template adds behind results for the answer to go on."""
        messages = probes.called(1)
        texts = [self.show(list(messages), prompt=prompt, think=think, tools=list(probes.TOOLS)) for prompt in (False, True)]
        return self._piece(_less(texts[1], texts[0]))

    def _opening(self, role: str, user: str, *, think: bool = False, declared: str = "") -> tuple[Piece, ...]:
        """Pieces before the first user's content, around a system turn's content and the declarations."""
        tools = probes.TOOLS if declared else None
        *parts, last, _ = self._cut(*([role] if role else []), "user", think=think, tools=tools)
        last = last.removesuffix(user) if last.endswith(user) else _none("the first user turn does not open like later ones")
        if declared:
            before, found, last = last.partition(declared)
            if not found:
                raise CannotCarry("declarations do not have Gemma's form or place")
            parts.append(before)
        return tuple(map(self._piece, (*parts, last)))

    def _cases(self, roles: Roles, *, think: bool, tools: bool) -> Iterator[Case]:
        """Conversations, and the ids of the whole text that the template gives for them, where it does not refuse them."""
        for messages, thinking, declared in probes.battery(roles, think=think, tools=tools):
            try:
                text = self.show(list(messages), prompt=True, think=thinking, tools=list(declared) or None)
            except _FAILURES:
                continue
            yield messages, thinking, declared, self.tokenizer.encode(text)

    def _held(self, roles: Roles, cases: Iterable[Case]) -> Roles:
        """The pieces, where they give the same ids; raises CannotCarry."""
        for number, (messages, thinking, declared, wanted) in enumerate(cases):
            try:
                parts = list(compose(roles, read_messages(messages), think=thinking, tools=declared))
            except UsageError as error:
                raise CannotCarry(str(error)) from None
            if self._ids(parts) != wanted:
                turns = ", ".join(str(message["role"]) for message in messages)
                more = f"{' with thinking' if thinking else ''}{' with tools' if declared else ''}"
                raise CannotCarry(f"the pieces give a different text for {turns}{more}", number)
        return roles

    def _ids(self, parts: Sequence[int | str]) -> list[int]:
        """Ids of the parts, text between two markers in one piece, as the runtime encodes it."""
        ids: list[int] = []
        text = ""
        for part in (*parts, None):
            if isinstance(part, str):
                text += part
                continue
            around = ["" if i is None else self.tokenizer.piece(i) for i in (ids[-1] if ids else None, part)]
            whole = self.tokenizer.encode(around[0] + text + around[1]) if text else []
            ids += whole[bool(around[0]) : len(whole) - bool(around[1])]
            ids += [] if part is None else [part]
            text = ""
        return ids

    def _cut(
        self, *roles: str, prompt: bool = False, think: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[str]:
        """The text before, between and after the contents of turns of these roles."""
        marks = [probes.mark(i) for i in range(len(roles))]
        messages = [{"role": role, "content": text} for role, text in zip(roles, marks, strict=True)]
        text, parts = self.show(messages, prompt=prompt, think=think, tools=tools), []
        for shown in marks:
            if text.count(shown) != 1:
                raise CannotCarry(f"a conversation of {', '.join(roles)} does not show every message once, in order")
            part, _, text = text.partition(shown)
            parts.append(part)
        return [*parts, text]

    def _piece(self, text: str) -> Piece:
        pattern = either(self.tokenizer.markers)
        parts = pattern.split(text) if pattern else [text]
        if loose := [part for part in parts if part in self.tokenizer.markers and part not in self.tokenizer.frozen]:
            raise CannotCarry(f"the marker {loose[0]} depends on what is next to it")
        return tuple(self.tokenizer.markers.get(part, part) for part in parts if part)

    def _text(self, piece: Sequence[int | str]) -> str:
        return "".join(part if isinstance(part, str) else self.tokenizer.piece(part) for part in piece)

    def _trim(self, role: str, *, opening: bool = False) -> str:
        before = [] if opening else [{"role": "user", "content": probes.mark(0)}]
        after = [{"role": "user", "content": probes.mark(2)}] if opening else []

        def show(text: str) -> str:
            return self.show([*before, {"role": role, "content": text}, *after], prompt=False)

        start, _, end = show(probes.mark(1)).partition(probes.mark(1))
        return probes.trim(self.path, (show, start, end))


def _less(text: str, start: str) -> str:
    return text[len(start) :] if text.startswith(start) else _none("a turn ends differently if another one follows")


def _none(why: str) -> Any:
    raise CannotCarry(why)


def _why(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
