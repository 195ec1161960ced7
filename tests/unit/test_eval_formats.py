"""Task files in the formats in which they are distributed, and files that are none: one line naming file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dgemma.benchmarks.eval.formats import OWN, read_task_file
from dgemma.benchmarks.eval.items import EvalItem, compose, examples_for
from dgemma.core.errors import UsageError

MMLU = {"question": "2+2?", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1}
HELLASWAG = {
    "ind": 7, "activity_label": "Baking", "ctx_a": "A cook stirs.", "ctx_b": "then he", "ctx": "A cook stirs. then he",
    "endings": ["bakes it.", "eats a hat.", "[step] sleeps.", "flies [title] home."], "label": "0",
    "source_id": "wikihow~1", "split": "val", "split_type": "indomain",
}  # fmt: skip
GSM8K = {"question": "3 and 4?", "answer": "It is <<3+4=7>>7.\n#### 1,007"}
OWN_LINE = {"task": "t", "prompt": "p", "answer": "a"}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_mmlu_lines_and_the_original_csv_give_the_same_items(tmp_path: Path) -> None:
    lines = read_task_file(write(tmp_path / "m.jsonl", MMLU, {**MMLU, "question": "a, \u2028b?", "answer": "D"}))
    file = tmp_path / "elementary_mathematics_test.csv"
    file.write_bytes('2+2?,3,4,5,6,B\r\n"a, \u2028b?",3,4,5,6,D\r\n'.encode())
    table = read_task_file(file)
    assert lines.format.name == table.format.name == "mmlu"
    assert lines.items == table.items
    assert lines.items[0] == EvalItem(
        task="mmlu/elementary_mathematics",
        prompt="2+2?\nA. 3\nB. 4\nC. 5\nD. 6",
        answer="B",
        rule="letter",
        choices=4,
        solution="Answer: B",
    )
    assert [i.line for i in lines.items] == [i.line for i in table.items] == [1, 2]
    assert lines.sha256 != table.sha256


def test_a_csv_field_of_several_lines_counts_lines_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "law_dev.csv"
    file.write_text('"one\ntwo",a,b,c,d,A\nthree,a,b,c,d,E\n')
    with pytest.raises(UsageError, match=r"law_dev.csv:3: its last column is 'E', not a letter from A to D"):
        read_task_file(file)


def test_hellaswag_is_read_with_its_marks_taken_out(tmp_path: Path) -> None:
    file = read_task_file(write(tmp_path / "h.jsonl", HELLASWAG, {**HELLASWAG, "label": 3, "source_id": "activitynet~v_x"}))
    assert file.format.name == "hellaswag"
    first, second = file.items
    assert first.prompt == ("Baking: A cook stirs. Then he\nA. bakes it.\nB. eats a hat.\nC. sleeps.\nD. flies. home.")
    assert (first.task, first.answer, second.task, second.answer) == ("hellaswag/wikihow", "A", "hellaswag/activitynet", "D")


def test_gsm8k_and_own_lines(tmp_path: Path) -> None:
    (item,) = read_task_file(write(tmp_path / "g.jsonl", GSM8K)).items
    assert (item.task, item.answer, item.rule, item.example) == ("gsm8k", "1007", "number", f"3 and 4?\n{GSM8K['answer']}")
    (own,) = read_task_file(write(tmp_path / "o.jsonl", OWN_LINE)).items
    assert own == EvalItem(task="t", prompt="p", answer="a")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({**MMLU, "answer": None}, "has no answer"),
        ({k: v for k, v in MMLU.items() if k != "answer"}, "has no answer"),
        ({**MMLU, "answer": 4}, "answer 4 is out of range"),
        ({**MMLU, "answer": -1}, "answer -1 is out of range"),
        ({**MMLU, "answer": True}, "answer True is out of range"),
        ({**MMLU, "answer": "x"}, "answer 'x' is out of range"),
        ({**MMLU, "choices": ["one"]}, "list of 2 to 26 texts"),
        ({**MMLU, "choices": ["a", 2]}, "list of 2 to 26 texts"),
        ({**MMLU, "question": " "}, "no text under 'question'"),
        ({"x": 1}, "'choices' must be a list"),
        ({k: v for k, v in MMLU.items() if k != "subject"}, "no text under 'subject'"),
    ],
)
def test_a_bad_mmlu_line_is_named(tmp_path: Path, line: dict[str, Any], says: str) -> None:
    file = write(tmp_path / "m.jsonl", MMLU, line)
    with pytest.raises(UsageError, match=re.escape(f"{file}:2: ") + f".*{re.escape(says)}") as error:
        read_task_file(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({**HELLASWAG, "label": ""}, "take the validation split"),
        ({k: v for k, v in HELLASWAG.items() if k != "label"}, "take the validation split"),
        ({**HELLASWAG, "label": "4"}, "label 4 is out of range"),
        ({**HELLASWAG, "endings": "['a', 'b']"}, "'endings' must be a list"),
        ({**GSM8K, "answer": "seven"}, "'#### N'"),
        ({**GSM8K, "answer": "#### 7\nor 8"}, "'#### N'"),
        ({"prompt": "p", "answer": "a"}, "an unknown format; its keys are 'prompt', 'answer'"),
        ({}, "an unknown format; its keys are none"),
        ([], "is not a JSON object"),
    ],
)
def test_a_bad_first_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    file = write(tmp_path / "x.jsonl", line)
    with pytest.raises(UsageError, match=re.escape(f"{file}:1: ") + f".*{re.escape(says)}"):
        read_task_file(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no items"),
        (b" \n\n", "holds no items"),
        (b"PAR1\xff\xfe\x00", "is not UTF-8 text"),
        (b"question,A,B,C,D,answer\n", ":1: its last column is 'answer'"),
        (b"plain text\n", ":1: has 1 columns"),
        (b'"open,a,b,c,d,A\n', ":1: is not CSV"),
        (b'{"question": \n', ":1: is not JSON"),
        (b"[" * 100_000, ":1: is nested too deeply"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(str(file)) + f".*{re.escape(says)}") as error:
        read_task_file(file)
    assert "\n" not in str(error.value)


def test_absent_files_and_files_of_another_format_than_asked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_task_file(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match=r"m.jsonl:1: has no text under 'task'"):
        read_task_file(write(tmp_path / "m.jsonl", MMLU), OWN)


def test_prompts_are_instruction_examples_and_question() -> None:
    pool = [EvalItem(task="a", prompt=f"q{i}", answer=str(i), solution=f"Answer: {i}") for i in range(4)]
    pool.insert(0, EvalItem(task="b", prompt="other", answer="x"))
    examples = examples_for(pool[2], pool, 2)
    assert [e.prompt for e in examples] == ["q0", "q2"]  # never the question itself, never another task
    assert compose(pool[2], "Do it.", examples) == "Do it.\n\nq0\nAnswer: 0\n\nq2\nAnswer: 2\n\nq1"
    assert compose(pool[2], "") == "q1"


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": None}, {"prompt": 3}, {"prompt": ["a"]}, {"prompt": ""}, {"prompt": " "}, {"task": None}, {"task": ""},
        {"answer": None}, {"answer": []}, {"answer": {}}, {"answer": True},
    ],
)  # fmt: skip
def test_own_questions_are_text(tmp_path: Path, values: dict[str, object]) -> None:
    """Nothing asks `None`: a value that is not text is refused with its line, and a number may be an answer."""
    path, right = tmp_path / "own.jsonl", {"task": "t", "prompt": " what? ", "answer": 4}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(right).encode() + b"\n" + json.dumps({**right, **values}).encode() + b"\n")
    with pytest.raises(UsageError, match=rf"own.jsonl:2: has no text .*'{next(iter(values))}'; correct the line"):
        read_task_file(path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(right).encode())
    (item,) = read_task_file(path).items
    assert (item.prompt, item.answer) == (" what? ", "4")
