"""Conversations as ids: what a bundle's chat template makes of messages, thinking and tools.

No text in them becomes a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dgemma.core.errors import UsageError
from dgemma.core.manifest import ChatTemplate, Manifest
from dgemma.core.messages import Message
from dgemma.core.roles import Channel, compose
from dgemma.runtime.tokenizer import NO_TEMPLATE, Tokenizer, chat_ids, end_of_turn


def conversation_ids(
    manifest: Manifest,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    think: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Ids of a whole conversation up to where the model answers. Raises UsageError, TokenizerError."""
    if manifest.chat is None:
        raise UsageError(NO_TEMPLATE)
    if manifest.chat.roles is not None:
        return _encoded(compose(manifest.chat.roles, messages, think=think, tools=tools), tokenizer)
    if think or tools:
        what = "thinking" if think else "tools"
        raise UsageError(f"the bundle's chat template has no {what} that dgemma can write; leave it out")
    return _plain_ids(manifest, manifest.chat, tokenizer, messages)


def _plain_ids(manifest: Manifest, chat: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Turns of users and answers by turns, which every chat template has."""
    ids: list[int] = []
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected or message.tool_calls:
            what = "tool calls" if message.tool_calls else f"{message.role} turn here"
            raise UsageError(f"the bundle's chat template has no {what}; it takes user and assistant by turns")
        if message.role == "user":
            ids += chat_ids(manifest, tokenizer, str(message.content), ids)
        else:
            end = end_of_turn(manifest, chat)
            ids += [*tokenizer.encode_user(str(message.content), before=ids[-1], after=end[0] if end else None), *end]
    if messages[-1].role != "user":
        raise UsageError("the last message must be a user's; the bundle's chat template goes on from no other")
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
