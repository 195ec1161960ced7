"""What the study of the two commands reads off their lines."""

from __future__ import annotations

import sys
from pathlib import Path

from dgemma.benchmarks.studies import two_commands

DEMO = [
    (1.0, "09:18:32 making the virtual environment .venv"),
    (7.0, "09:18:39 installing dgemma with extra onnx into .venv, with uv"),
    (11.0, '.venv/bin/dgemma run tiny -p "Reverse the word table."'),
    (12.5, "elbat"),
    (12.6, "09:18:44 installing dgemma with extra export into .venv, with uv"),
    (34.0, ".venv/bin/dgemma export checkpoints/tiny --out build/tiny.dgemma --engine all"),
    (95.0, ".venv/bin/python -m dgemma.benchmarks.demo build/tiny.dgemma"),
    (100.0, "0"),
]


def test_the_first_text_and_the_parts_of_demo() -> None:
    found = two_commands.demo(iter(DEMO))
    assert (found["first_text_s"], found["total_s"], found["status"]) == (12.5, 100.0, 0)
    parts = {name: round(seconds, 1) for name, seconds in found["parts_s"].items()}
    assert parts == {"installing": 32.4, "first text": 1.6, "exporting": 61.0, "prompts": 5.0}


def test_a_demo_that_stops_has_no_first_text() -> None:
    found = two_commands.demo(iter([*DEMO[:2], (9.0, "2")]))
    assert (found["first_text_s"], found["status"]) == (None, 2)
    assert two_commands.summary({"demo": found}) == "make demo: no text, stopped after 9 s with status 2"


def test_the_counts_of_the_last_line_and_what_was_left_out() -> None:
    left_out = "left out: Java (apt-get install maven); counted as skipped"
    lines = ["= 5 passed in 1 s =", left_out, "5 passed, 0 failed, 1 skipped", "0"]
    found = two_commands.tests((float(i), line) for i, line in enumerate(lines))
    assert found == {"total_s": 3.0, "counts": "5 passed, 0 failed, 1 skipped", "left_out": [left_out], "status": 0}


def test_lines_come_with_the_status_of_the_command_and_a_bare_environment(tmp_path: Path) -> None:
    program = "import os; print(os.environ['HOME'], os.environ['PATH'], len(os.environ) < 12); raise SystemExit(3)"
    lines = [line for _, line in two_commands.timed([sys.executable, "-c", program], tmp_path, tmp_path / "home")]
    assert lines == [f"{tmp_path / 'home'} {two_commands.BARE_PATH} True", "3"]
