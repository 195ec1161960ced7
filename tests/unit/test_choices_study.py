"""The study of choices: near misses, bins and their calibration error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dgemma.benchmarks.studies.choices import MISSES, Row, bins, near_misses, summary


@pytest.mark.parametrize("answer", ["elbat", "17", "A 3", '{"a": 5}'])
def test_near_misses_differ_in_one_sign(answer: str) -> None:
    for seed in range(5):
        found = near_misses(answer, random.Random(seed))
        assert len({*found, answer}) == MISSES + 1
        for text in found:
            changed = [(a, b) for a, b in zip(answer, text, strict=True) if a != b]
            assert len(changed) == 1 and changed[0][0].isdigit() == changed[0][1].isdigit()
            assert changed[0][0].isupper() == changed[0][1].isupper()


def row(largest: float, right: bool) -> Row:
    return Row(largest=largest, right=right, of_right=0.5, answer_right=True, position_forwards=8, plain_position_forwards=4)


def test_bins_and_error() -> None:
    rows = [row(0.6, True), row(0.6, False), row(1.0, True), row(0.995, True), row(0.3, False)]
    found = bins(rows)
    assert [(one["low"], one["n"], one["right"]) for one in found] == [(0.0, 1, 0), (0.5, 2, 0.5), (0.99, 2, 1)]
    made = summary(rows)
    assert made["calibration_error"] == pytest.approx((0.3 + 2 * 0.1 + 2 * 0.0025) / 5) and made["right"] == 0.6
    assert summary([row(1.0, True)])["calibration_error"] == 0  # the control


def test_it_measures_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dgemma.benchmarks.studies import choices

    tasks = tmp_path / "t.jsonl"
    tasks.write_text(
        '{"task": "reverse", "prompt": "Reverse the word table.", "answer": "elbat"}\n'
        '{"task": "long", "prompt": "x", "answer": "far too long an answer for this study to ask about, is it not so?"}\n'
    )
    assert choices.run(["--tasks", str(tasks), "--out", str(tmp_path / "o.json")]) == 0
    assert "0.99 … 1" in capsys.readouterr().out
