"""Templates with fewer roles, or without thinking and tools: what they do not have is refused by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import released_folder
from fake_bundle import fake_session
from speaking import read_template, write_text

from dgemma.core.errors import UsageError
from dgemma.core.manifest import ChatTemplate
from dgemma.core.messages import Message
from dgemma.core.roles import Roles, compose

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "description": "d"}}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return read_template(write_text(tmp_path_factory.mktemp("text"), released_folder.template()))


def test_a_template_without_roles(tmp_path: Path) -> None:
    """Users and answers by turns are what every template has; the rest is refused by name."""
    session = fake_session(tmp_path / "b", [30, 31])
    assert session.tokenizer is not None and session.manifest.chat is not None
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "hi"}]
    session.generate(messages=turns)
    chat, hi, ho = session.manifest.chat, session.tokenizer.encode("hi"), session.tokenizer.encode("ho")
    user = [*chat.user_prefix, *hi, *chat.user_suffix, *chat.model_prefix]
    assert list(session.prefix_ids) == [*chat.start, *user, *ho, 5, *chat.model_suffix, *user, 30, 31, 5]
    for keywords, phrase in (
        ({"think": True}, "this bundle does not support thinking; leave out think"),
        ({"tools": [TOOL]}, "this bundle does not support tools; leave out tools"),
        ({"system": "x"}, "this bundle does not support system turns; leave out system"),
    ):
        with pytest.raises(UsageError, match=f"^{re.escape(phrase)}$"):
            session.generate("hi", **keywords)
    for wrong, phrase in (
        ([*turns, turns[0]], "message 4: this bundle has no user turn here; it takes user and assistant turns in alternation"),
        (turns[:2], "message 2: the last must be a user's"),
        ([{"role": "system", "content": "x"}, turns[0]], "message 1: this bundle has no system turn here"),
    ):
        with pytest.raises(UsageError, match=f"^{phrase}"):
            session.generate(messages=wrong)


def test_roles_without_a_turn_or_a_switch(chat: ChatTemplate) -> None:
    """The option is named, or the message by its number, which a system turn of an option does not move."""
    assert chat.roles is not None
    system, user = Message(role="system", content="x"), Message(role="user", content="x")
    late = Message(role="developer", content="x")
    few = {key: value for key, value in chat.roles.openings.items() if key in ("", "think")}
    turns = {role: turn for role, turn in chat.roles.turns.items() if role in ("user", "assistant")}
    roles = replace(chat.roles, openings=few, turns=turns, tools=None)
    silent = replace(roles, answer={"": ()}, openings={**few, "system": chat.roles.openings["system"]})
    cases: list[tuple[Roles, list[Message], dict[str, Any], str]] = [
        (silent, [user], {"think": True}, "this bundle does not support thinking; leave out think"),
        (roles, [user], {"tools": [TOOL]}, "this bundle does not support tools; leave out tools"),
        (roles, [system, user], {"first": 0}, "this bundle does not support system turns; leave out system"),
        (roles, [system, user], {}, "message 1: this bundle has no system turn; leave it out"),
        (roles, [user, late], {}, "message 2: this bundle has no developer turn here; use user, assistant"),
        (silent, [system, user, late], {"first": 0}, "message 2: this bundle has no developer turn here"),
        (
            replace(silent, answer=chat.roles.answer),
            [system, user],
            {"think": True},
            "no system with think; leave one of them out",
        ),
    ]
    for fewer, messages, more, phrase in cases:
        with pytest.raises(UsageError) as raised:
            list(compose(fewer, messages, **more))
        assert phrase in str(raised.value)
