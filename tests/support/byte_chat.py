"""Conversations to train on, with a tokenizer of a byte an id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dgemma.core.messages import Message
from dgemma.train import data

STOP = 1


def speak(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[data.Exchange]:
    """A byte an id; answers end with the stop token."""
    found = []
    for i, message in enumerate(messages):
        if message.role == "assistant":
            before = [2, *(b for m in messages[:i] for b in str(m.content).encode())]
            found.append((before, [*str(message.content).encode(), STOP]))
    return found


def line(prompt: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}) + "\n"
