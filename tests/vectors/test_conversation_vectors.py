"""The Python runtime gives the committed ids of conversations and reads the committed answers."""

from __future__ import annotations

import json
from pathlib import Path

from program import load

HERE = Path(__file__).parent


def test_the_committed_ids_and_answers() -> None:
    make = load(HERE / "make_conversation_vectors.py")
    held = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    assert held == json.loads(make.text())
    for case in held["cases"]:
        assert len(case["prompts"]) > 20 and {prompt[1] for prompt in case["prompts"]} == {False, True}
        assert {bool(prompt[2]) for prompt in case["prompts"]} == {False, True}
        answers = [answer for _, _, answer in case["answers"]]
        assert len(answers) > 80 and any(answer["thinks"] for answer in answers)
        assert sum(bool(answer["tool_calls"]) for answer in answers) > 20 < sum(bool(answer["warnings"]) for answer in answers)
