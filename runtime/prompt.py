"""Conversations as ids: what a bundle's chat template makes of messages, thinking and tools.

No text in them can become a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dgemma.core.errors import Param, TokenizerError, UsageError, blaming, listed
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.manifest import ChatTemplate, Manifest
from dgemma.core.messages import OPENING_ROLES, Message, read_messages
from dgemma.core.roles import NO_SYSTEM, NO_THINKING, NO_TOOLS, Channel, compose
from dgemma.core.scalars import is_int
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.prefix import shared_length
from dgemma.runtime.tokenizer import NO_TEMPLATE, NO_TOKENIZER, Tokenizer, chat_ids, end_of_turn


def conversation_ids(
    manifest: Manifest,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    system: str | None = None,
    think: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Ids of a whole conversation, behind `system` if it is given, up to where the model answers.

    Raises UsageError, TokenizerError.
    """
    if manifest.chat is None:
        raise UsageError(*NO_TEMPLATE)
    if manifest.chat.roles is not None:
        turns = [*([] if system is None else [Message(role="system", content=system)]), *messages]
        parts = compose(manifest.chat.roles, turns, think=think, tools=tools, first=1 if system is None else 0)
        return _encoded(parts, tokenizer)
    for given, error in ((think, NO_THINKING), (bool(tools), NO_TOOLS), (system is not None, NO_SYSTEM)):
        if given:
            raise UsageError(*error)
    return _plain_ids(manifest, manifest.chat, tokenizer, messages)


def _plain_ids(manifest: Manifest, chat: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Turns of users and answers by turns, which every chat template has."""
    ids: list[int] = []
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected or message.tool_calls:
            what = "tool calls" if message.tool_calls else f"{message.role} turn here"
            raise UsageError(
                f"message {number + 1}: this bundle has no {what}; it takes user and assistant turns in alternation"
            )
        if message.role == "user":
            ids += chat_ids(manifest, tokenizer, str(message.content), ids)
        else:
            end = end_of_turn(manifest, chat)
            ids += [*tokenizer.encode_user(str(message.content), before=ids[-1], after=end[0] if end else None), *end]
    if messages[-1].role != "user":
        last = f"message {len(messages)}: the last must be a user's; this bundle cannot continue from any other"
        raise UsageError(last)
    return ids


def _encoded(parts: Iterable[int | str], tokenizer: Tokenizer) -> list[int]:
    """Text between two markers is encoded in one piece."""
    ids: list[int] = []
    text = ""
    for part in (*parts, None):
        if isinstance(part, str):
            text += part
            continue
        if text:
            ids += tokenizer.encode_user(text, before=ids[-1] if ids else None, after=part)
        ids += [] if part is None else [part]
        text = ""
    return ids


def without_thoughts(ids: Sequence[int], channel: Channel) -> list[int]:
    """Ids without thoughts and their markers."""
    return list(_outside(ids, channel))


def _outside(ids: Sequence[int], channel: Channel) -> Iterator[int]:
    inside = False
    for token in ids:
        inside = token != channel.close and (inside or token == channel.open)
        if not inside and token != channel.close:
            yield token


class Prompts:
    """Prompts and conversations of one bundle as ids."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer | None) -> None:
        self._manifest, self._path, self._tokenizer = bundle.manifest, bundle.path, tokenizer

    def with_negative(
        self, options: GenerateOptions, messages: Sequence[Message | Mapping[str, Any]] | None
    ) -> GenerateOptions:
        """The options with guidance's negative prompt as ids: behind the system turn that the messages begin with, if any.

        Raises UsageError, TokenizerError.
        """
        if options.guidance is None or (negative := options.guidance.negative) is None:
            return options
        alone = replace(options, continue_=False)
        with blaming("negative"):
            if not isinstance(negative, str):
                ids = self._prompt_ids(negative, True, [])
            elif messages is not None and (opening := read_messages(messages)[0]).role in OPENING_ROLES:
                ids = self._conversation(None, [opening, Message(role="user", content=negative)], alone)
            else:
                ids = self.ids(negative, None, alone, [])[0]
        return replace(options, guidance=replace(options.guidance, negative=ids))

    def ids(
        self,
        prompt: str | Sequence[int] | None,
        messages: Sequence[Message | Mapping[str, Any]] | None,
        options: GenerateOptions,
        prefix: Sequence[int],
    ) -> tuple[list[int], int]:
        """Ids to append, and behind how many tokens of the prefix. Raises UsageError, TokenizerError."""
        with blaming("prompt" if messages is None else "messages"):
            before = list(prefix) if options.continue_ else []
            if prompt is None and messages is None and options.template is not None:
                return self._opening(options), 0
            if (prompt is None) == (messages is None):
                raise UsageError("give either ", *listed(("prompt", "messages"), " or "))
            if prompt is not None and not options.speaks:
                kept = self._without_thoughts(before) if isinstance(prompt, str) and not options.raw else before
                whole = [*kept, *self._prompt_ids(prompt, options.raw, kept)]
            else:
                whole = self._conversation(prompt, messages, options)
            same = min(shared_length(before, whole), len(whole) - 1)
            return whole[same:], same

    def _opening(self, options: GenerateOptions) -> list[int]:
        """The beginning of an answer to nothing."""
        chat = self._manifest.chat
        if options.continue_ or options.speaks or chat is None:
            raise UsageError("without ", Param("prompt"), ", a template starts a new conversation; give one")
        return [*chat.start, *chat.model_prefix]

    def _conversation(
        self,
        prompt: str | Sequence[int] | None,
        messages: Sequence[Message | Mapping[str, Any]] | None,
        options: GenerateOptions,
    ) -> list[int]:
        if self._tokenizer is None:
            raise TokenizerError(*NO_TOKENIZER)
        if options.raw:
            raise UsageError(Param("raw"), " skips the chat template, which ", Param("messages"), " need; leave it out")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise UsageError(
                    *listed(("system", "think", "tools")), " need a text prompt or messages; ids are used as they are"
                )
            if not prompt:
                raise UsageError("the prompt is empty; give some text")
            if options.continue_:
                raise UsageError(
                    "to continue with ",
                    *listed(("system", "think", "tools"), " or "),
                    ", give the whole conversation as messages",
                )
            messages = [Message(role="user", content=prompt)]
        given = read_messages(messages)
        system, think, tools = options.system, options.think, options.tools
        if system is not None and given[0].role in OPENING_ROLES:
            raise UsageError(f"the messages begin with a {given[0].role} turn; leave ", Param("system"), " out")
        return conversation_ids(self._manifest, self._tokenizer, given, system=system, think=think, tools=tools)

    def _without_thoughts(self, ids: list[int]) -> list[int]:
        """A prefix as the chat template writes it for the turn after it."""
        roles = self._manifest.chat.roles if self._manifest.chat else None
        return without_thoughts(ids, roles.channel) if roles and roles.channel and roles.drops_thoughts == "yes" else ids

    def _prompt_ids(self, prompt: str | Sequence[int], raw: bool, before: Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise UsageError("the prompt is empty; give some text")
            if self._tokenizer is None:
                raise TokenizerError(*NO_TOKENIZER)
            if not raw:
                return chat_ids(self._manifest, self._tokenizer, prompt, before)
            ids = self._tokenizer.encode(prompt)
        elif isinstance(prompt, Iterable):
            ids = list(prompt)
        else:
            raise UsageError(f"the prompt must be text or token ids, not {type(prompt).__name__}")
        vocab = self._manifest.model.vocab_size
        if not ids:
            raise UsageError("the prompt is empty; give at least one token")
        if wrong := [i for i in ids if not is_int(i, 0, vocab - 1)]:
            raise UsageError(f"prompt id {wrong[0]!r} must be an integer from 0 to {vocab - 1}")
        return [int(i) for i in ids]
