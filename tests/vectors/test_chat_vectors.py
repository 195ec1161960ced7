"""The Python runtime gives the committed ids of chats, which other languages are held to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

HERE = Path(__file__).parent


def test_the_committed_ids() -> None:
    spec = importlib.util.spec_from_file_location("make_chat_vectors", HERE / "make_chat_vectors.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    held = json.loads((HERE / "chat.json").read_text(encoding="utf-8"))
    assert held == json.loads(make.text()) and len({case["file"] for case in held["cases"]}) >= 8
