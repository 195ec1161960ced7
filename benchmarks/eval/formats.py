"""Task files as they are distributed: found by what their first line holds, read to items, refused by file and line.

MMLU      cais/mmlu as JSON lines: question, subject, choices, answer (index, or letter); or the original CSV without a
          header, six columns: question, four choices, letter; its subject is the file's name without _test, _dev, _val
HellaSwag JSON lines of the authors: ind, activity_label, ctx_a, ctx_b, ctx, endings, label (number or digit), source_id, …
GSM8K     JSON lines: question, answer, whose last line is `#### N`
own       JSON lines: task, prompt, answer; exact match

It knows nothing of bundles and does not interpret what a question says.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgemma.benchmarks.eval.answers import last_line_number
from dgemma.benchmarks.eval.items import EvalItem, letter
from dgemma.core.errors import UsageError

MOST_CHOICES = 26
CSV_COLUMNS = 6
SPLIT = re.compile(r"_(test|dev|val)$")
CHOOSE = "The last line of the answer must be 'Answer: X', where X is the letter of the right choice."


class _Bad(Exception):
    """What is wrong with a line, and the cure; `line` where it is not the last one that was read."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file: keys that its first line has, the instruction before a question, and how a line becomes an item."""

    name: str
    keys: frozenset[str]
    instruction: str
    layout: str
    item: Callable[[dict[str, Any]], EvalItem]


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """A file that was read: its format, its items in their order, and the sha256 of its bytes."""

    path: Path
    format: Format
    items: tuple[EvalItem, ...]
    sha256: str


def _mmlu(line: dict[str, Any]) -> EvalItem:
    choices = _texts(line, "choices")
    answer = line.get("answer")
    if isinstance(answer, str) and answer.strip() in map(letter, range(MOST_CHOICES)):
        answer = ord(answer.strip()) - ord("A")
    return _choice(f"mmlu/{_text(line, 'subject')}", _text(line, "question"), choices, answer, "answer")


def _hellaswag(line: dict[str, Any]) -> EvalItem:
    """The context as lm-evaluation-harness builds it; only the first letter of ctx_b is raised, the others stay."""
    end = _text(line, "ctx_b", empty=True).strip()
    context = f"{_text(line, 'activity_label')}: {_text(line, 'ctx_a', empty=True)} {end[:1].upper()}{end[1:]}"
    endings = [_without_marks(ending) for ending in _texts(line, "endings")]
    source = str(line.get("source_id", "")).partition("~")[0]
    label = line.get("label")
    if label in (None, ""):
        raise _Bad("has no label; the test split is published without labels: take the validation split")
    if isinstance(label, str) and label.strip().isdecimal():
        label = int(label)
    return _choice(f"hellaswag/{source}" if source else "hellaswag", _without_marks(context), endings, label, "label")


def _gsm8k(line: dict[str, Any]) -> EvalItem:
    solution = _text(line, "answer")
    number = last_line_number(solution)
    if number is None:
        raise _Bad("its answer does not end with a line '#### N'; correct the line, or use the format task, prompt, answer")
    return EvalItem(task="gsm8k", prompt=_text(line, "question"), answer=number, rule="number", solution=solution)


def _own(line: dict[str, Any]) -> EvalItem:
    answer = line.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise _Bad("has no text or number under 'answer'; correct the line")
    return EvalItem(task=_text(line, "task"), prompt=_text(line, "prompt", strip=False), answer=str(answer))


OWN = Format(name="own", keys=frozenset({"task", "prompt"}), instruction="", layout="{prompt}", item=_own)
FORMATS = (
    OWN,
    Format(
        name="mmlu",
        keys=frozenset({"question", "choices"}),
        instruction=f"Answer the multiple choice question. {CHOOSE}",
        layout="{question}\nA. {choice}\nB. {choice} …",
        item=_mmlu,
    ),
    Format(
        name="hellaswag",
        keys=frozenset({"ctx_a", "endings"}),
        instruction=f"Choose the ending that fits best. {CHOOSE}",
        layout="{activity_label}: {ctx_a} {ctx_b}\nA. {ending}\nB. {ending} …",
        item=_hellaswag,
    ),
    Format(
        name="gsm8k",
        keys=frozenset({"question", "answer"}),
        layout="{question}",
        item=_gsm8k,
        instruction="Solve the problem step by step. The last line of the answer must be '#### N', where N is the result.",
    ),
)
KNOWN = "; known are " + ", ".join(f"{f.name} ({', '.join(sorted(f.keys))}, …)" for f in FORMATS) + ", and MMLU's CSV"


def read_task_file(path: Path, only: Format | None = None) -> TaskFile:
    """Read a whole file, of any known format or only of one.

    Raises:
        UsageError: the file cannot be read, is empty, or a line is not of the format; names file and line.
    """
    content, text = _content(path)
    format_ = only
    items: list[EvalItem] = []
    number = 0
    try:
        for number, line in _lines(text, path.stem):
            format_ = format_ or _detect(line)
            items.append(replace(format_.item(line), line=number))
    except _Bad as bad:
        raise UsageError(f"{path}:{bad.line or number}: {bad}") from None
    if format_ is None or not items:
        raise UsageError(f"{path}: holds no items; give a file of questions{KNOWN}")
    return TaskFile(path=path, format=format_, items=tuple(items), sha256=hashlib.sha256(content).hexdigest())


def _content(path: Path) -> tuple[bytes, str]:
    try:
        content = path.read_bytes()
        return content, content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a file of questions{KNOWN}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; give JSON lines or MMLU's CSV, and convert parquet first") from None


def _lines(text: str, stem: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and what they hold. Lines end with a line feed only: JSON strings may hold other separators."""
    first = text.lstrip()[:1]
    if not first or first in "{[":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, _object(line, number)
        return
    start = 1
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            if row:
                yield start, _csv_row(row, SPLIT.sub("", stem), start)
            start = rows.line_num + 1
    except csv.Error as error:
        raise _Bad(f"is not CSV ({error}); correct the line", start) from None


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        raise _Bad("is not JSON; each line must be one object", number) from None
    except RecursionError:
        raise _Bad("is nested too deeply; correct the line", number) from None
    if not isinstance(values, dict):
        raise _Bad("is not a JSON object; correct the line", number)
    return values


def _csv_row(row: list[str], subject: str, number: int) -> dict[str, Any]:
    if len(row) != CSV_COLUMNS:
        raise _Bad(f"has {len(row)} columns, not question, four choices and a letter{KNOWN}", number)
    if row[-1].strip() not in map(letter, range(CSV_COLUMNS - 2)):
        raise _Bad(f"its last column is {_short(row[-1])}, not a letter from A to D; correct it, or leave out a header", number)
    return {"question": row[0], "choices": row[1:-1], "answer": row[-1].strip(), "subject": subject}


def _detect(line: dict[str, Any]) -> Format:
    for format_ in FORMATS:
        if format_.keys <= line.keys():
            return format_
    raise _Bad(f"has an unknown format; its keys are {', '.join(map(repr, list(line)[:8])) or 'none'}{KNOWN}")


def _choice(task: str, question: str, choices: list[str], index: object, key: str) -> EvalItem:
    if index is None or index == "":
        raise _Bad(f"has no {key}; give the index of the right choice, from 0")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise _Bad(f"{key} {_short(index)} is out of range; it must be the index of one of {len(choices)} choices, from 0")
    prompt = "\n".join([question, *(f"{letter(i)}. {choice}" for i, choice in enumerate(choices))])
    right = letter(index)
    return EvalItem(task=task, prompt=prompt, answer=right, rule="letter", choices=len(choices), solution=f"Answer: {right}")


def _text(line: dict[str, Any], key: str, *, empty: bool = False, strip: bool = True) -> str:
    value = line.get(key)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise _Bad(f"has no text under {key!r}; correct the line")
    return value.strip() if strip else value


def _texts(line: dict[str, Any], key: str) -> list[str]:
    values = line.get(key)
    if not isinstance(values, list) or not 2 <= len(values) <= MOST_CHOICES or not all(isinstance(v, str) for v in values):
        raise _Bad(f"{key!r} must be a list of 2 to {MOST_CHOICES} texts; correct the line")
    return [value.strip() for value in values]


def _without_marks(text: str) -> str:
    """HellaSwag's WikiHow part holds marks such as [title] and [step]: a title ends a sentence, the others go."""
    text = re.sub(r"\[[^\]]*\]", "", text.replace(" [title]", ". "))
    return re.sub(r" {2,}", " ", text).strip()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
