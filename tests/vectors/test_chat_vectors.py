"""The Python runtime gives the committed ids of chats, which other languages are held to."""

from __future__ import annotations

import json
from pathlib import Path

from program import load

HERE = Path(__file__).parent


def test_the_committed_ids() -> None:
    make = load(HERE / "make_chat_vectors.py")
    held = json.loads((HERE / "chat.json").read_text(encoding="utf-8"))
    assert held == json.loads(make.text()) and len({case["file"] for case in held["cases"]}) >= 8
