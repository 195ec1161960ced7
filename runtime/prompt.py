"""Conversations as ids: what a bundle's chat template makes of messages, thinking and tools.

No text in them becomes a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dgemma.core.errors import UsageError
from dgemma.core.manifest import ChatTemplate, Manifest
from dgemma.core.messages import Message
from dgemma.core.roles import NO_SYSTEM, NO_THINKING, NO_TOOLS, Channel, compose
from dgemma.runtime.tokenizer import NO_TEMPLATE, Tokenizer, chat_ids, end_of_turn


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
        raise UsageError(NO_TEMPLATE)
    if manifest.chat.roles is not None:
        turns = [*([] if system is None else [Message(role="system", content=system)]), *messages]
        parts = compose(manifest.chat.roles, turns, think=think, tools=tools, first=1 if system is None else 0)
        return _encoded(parts, tokenizer)
    for given, error in ((think, NO_THINKING), (bool(tools), NO_TOOLS), (system is not None, NO_SYSTEM)):
        if given:
            raise UsageError(error)
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
        raise UsageError(f"message {len(messages)}: the last must be a user's; this bundle cannot continue from any other")
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
