"""Where the answer of a text stands: each rule on texts judged by hand."""

from __future__ import annotations

import time

import pytest

from dgemma.benchmarks.eval.answers import find_letter, find_number, first_marked_number, judge, last_line_number
from dgemma.benchmarks.eval.items import EvalItem


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("**B**.", "B"), ("B. Paris", "B"), ("B) Paris", "B"), ("  b", None), ("Answer: B", "B"),
        ("answer is C", "C"), ("The correct answer is **(D)**.", "D"), ("The answer is: $\\boxed{A}$", "A"),
        ("Answer: A\nNo, wait.\nAnswer: C", "C"), ("Paris is the capital.\n\nB", "B"), ("**Answer:** B", "B"),
        ("The answer is option D, since A is wrong", "D"), ("A dog barks.", None), ("Answer: Apples", None),
        ("The answer is a guess", None), ("E", None), ("Answer: E", None), ("", None), ("Answers vary. B is one of them", None),
        ("I say\nB. Paris\nthen more", None), ("A's hat", None), ("A and B", None),
    ],
)  # fmt: skip
def test_letters_are_found_where_a_person_finds_them(text: str, letter: str | None) -> None:
    assert find_letter(text, 4) == letter


def test_more_choices_have_more_letters() -> None:
    assert find_letter("Answer: J", 10) == "J"
    assert find_letter("Answer: C", 2) is None


@pytest.mark.parametrize(
    ("text", "number", "marked"),
    [
        ("It is 7.\n#### 7", "7", "7"), ("#### 1,234\nso", "1234", "1234"), ("so $18.00.", "18.00", None), ("-5", "-5", None),
        ("10-3", "3", None), ("#### -$3.5", "-3.5", "-3.5"), ("no digits", None, None), ("1, 2 and 3, then", "3", None),
        ("#### 5\n#### 6", "6", "5"), ("#### x\n5", "5", None), ("v1.2.3", "1.2", None), ("", None, None),
    ],
)  # fmt: skip
def test_numbers_last_and_marked(text: str, number: str | None, marked: str | None) -> None:
    assert (find_number(text), first_marked_number(text)) == (number, marked)


def test_a_solution_ends_with_its_number() -> None:
    assert last_line_number("a\n#### 72") == "72"
    assert last_line_number("#### 72\na") is None
    assert last_line_number("a #### 72") is None


def test_verdicts_strict_and_flexible() -> None:
    choice = EvalItem(task="t", prompt="p", answer="B", rule="letter", choices=4)
    verdicts = [judge(choice, text) for text in ("x\nAnswer: B", "It is B.\nB", "Answer: A", "none")]
    assert [(v.found, v.right, v.strict) for v in verdicts] == [
        ("B", True, True),
        ("B", True, False),
        ("A", False, False),
        (None, False, False),
    ]
    sum_ = EvalItem(task="t", prompt="p", answer="18", rule="number")
    verdicts = [judge(sum_, text) for text in ("#### 18", "so $18.00", "#### 18\nand 3", "none")]
    assert [(v.right, v.strict) for v in verdicts] == [(True, True), (True, False), (False, True), (False, False)]
    free = EvalItem(task="t", prompt="p", answer="B ")
    assert judge(free, " B\n").right and not judge(free, "b").right


@pytest.mark.parametrize("text", ["answer" + " " * 50_000, "Answer: " * 5_000, "(" * 50_000, "1," * 50_000, "\\boxed{" * 9_000])
def test_no_text_takes_long(text: str) -> None:
    start = time.perf_counter()
    find_letter(text, 26)
    find_number(text)
    first_marked_number(text)
    assert time.perf_counter() - start < 2
