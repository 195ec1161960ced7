"""The study of answers of a language: its vocabulary, its judge of what is valid, and a run of a few prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.benchmarks.studies import structure
from dgemma.benchmarks.studies.synthetic_vocabulary import MARKERS, synthetic
from dgemma.core.structure import Structure


def test_a_synthetic_vocabulary_has_ids_for_all_bytes() -> None:
    made = synthetic(30_000)
    assert len(made.later) == 30_000 and made.is_even and not any(made.later[:MARKERS])
    assert {bytes([byte]) for byte in range(256)} <= set(made.later)
    assert sorted(made.rank.tolist()) == list(range(30_000))
    assert synthetic(30_000).later == made.later != synthetic(30_000, seed=1).later


def test_others_judge_what_is_valid() -> None:
    person = structure.schemas()["person"]
    assert structure.is_valid(person, '{"name": "A", "city": "B", "age": 3}')
    assert not structure.is_valid(person, '{"name": "A", "city": "B", "age": 300}')
    assert not structure.is_valid(person, "no JSON")
    assert structure.is_valid(Structure(regex="a+"), "aa") and not structure.is_valid(Structure(regex="a+"), "ab")
    assert structure.is_valid(structure.GRAMMARS["JSON"], '{"a": [1, "b"]}')
    assert not structure.is_valid(structure.GRAMMARS["JSON"], '{"a": [1, "b"}')
    assert not structure.is_valid(structure.GRAMMARS["sums"], "(1+2")


def test_a_run_of_one_prompt_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = structure.SCHEMAS["person"]
    monkeypatch.setattr(structure, "SCHEMAS", {"person": person})
    monkeypatch.setattr(structure, "GRAMMARS", {"sums": structure.GRAMMARS["sums"]})
    monkeypatch.setattr(structure, "VOCAB", 30_000)
    monkeypatch.setattr(structure, "MOST", 48)
    tasks = tmp_path / "tasks.jsonl"
    answer = '{"name": "Paula", "city": "Zurich", "age": 30}'
    given = [
        {"task": "add", "prompt": "19 plus 54?", "answer": "73"},
        {"task": "to_json", "prompt": "As JSON: Paula from Zurich, age 30.", "answer": answer},
    ]
    tasks.write_text("".join(json.dumps(one) + "\n" for one in given))
    assert structure.run(["--tasks", str(tasks), "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [one["task"] for one in found["tasks"]] == ["to_json", "to_json", "add"]
    assert all(one["structured"]["valid"] == 1.0 for one in found["tasks"])
    assert [one["structured"]["exact"] for one in found["tasks"][:2]] == [1.0, 1.0]
    assert {kind: one["valid"] for kind, one in found["forced"].items()} == {
        "schemas": structure.EACH,
        "grammars": structure.EACH,
    }
    assert found["costs"]["languages"]["person"]["states"] == 54
    assert found["costs"]["languages"]["sums"]["kind"] == "grammar"
