"""Where a text's answer stands: documented rules, strict and flexible, for letters, numbers and whole texts.

Strict asks for the form that the prompt asked for. Flexible finds an answer wherever a person would; a text without one is
unparsed, and counts as wrong. As lm-evaluation-harness has it for GSM8K (`strict-match`, `flexible-extract`), but numbers are
compared as numbers: $18.00 is 18.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from dgemma.benchmarks.eval.items import EvalItem, Rule

RULES: dict[Rule, str] = {
    "text": "the whole text, ignoring white space at both ends",
    "letter": (
        "strict: the last line is 'Answer: X'; flexible: X after the last 'answer', 'answer is' or 'answer:' (option, choice); "
        "else the first, else the last line that is only X, or starts with 'X.', 'X)' or 'X:'; marks around X are skipped"
    ),
    "number": "strict: the number after the first '####'; flexible: the last number; both without $ and thousands commas",
}

# What stands around a letter: emphasis, quotes, brackets, \boxed. Possessive, so that no text takes long.
OPEN, CLOSE = r"(?:\\(?:boxed|text)\{|[\s*_`\"'(\[{$])*+", r"[\s*_`\"')\]}$.!]*+"
NUMBER = r"(?<![\d.,])-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
MARKED = re.compile(rf"####\s*({NUMBER})")
ANY_NUMBER = re.compile(NUMBER)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in a text (None: nothing), whether it is right, and whether it is right by the strict rule as well."""

    found: str | None
    right: bool
    strict: bool


def judge(item: EvalItem, text: str) -> Verdict:
    """Judge a generated text by the item's rule."""
    if item.rule == "text":
        right = text.strip() == item.answer.strip()
        return Verdict(found=text.strip(), right=right, strict=right)
    if item.rule == "letter":
        found, strict = find_letter(text, item.choices), _asked_letter(text, item.choices)
        return Verdict(found=found, right=found == item.answer, strict=strict == item.answer)
    found, marked = find_number(text), first_marked_number(text)
    return Verdict(found=found, right=_equal(found, item.answer), strict=_equal(marked, item.answer))


def find_letter(text: str, choices: int) -> str | None:
    """The flexible rule for a letter among the first `choices` of the alphabet."""
    letters = f"[A-{chr(ord('A') + choices - 1)}]"
    lead = rf"\b(?i:answer)\b{OPEN}(?i:is\b)?\s*+[:=-]?{OPEN}(?i:(?:option|choice)\b{OPEN})?"
    led = re.findall(rf"{lead}({letters})(?![\w'’])", text)
    if led:
        return str(led[-1])
    lines = [line for line in text.splitlines() if line.strip()]
    for line in dict.fromkeys([*lines[:1], *lines[-1:]]):
        if found := re.match(rf"{OPEN}({letters})(?:{CLOSE}$|[*_`\"'\]}}]*[.):](?=\W|$))", line):
            return found[1]
    return None


def _asked_letter(text: str, choices: int) -> str | None:
    last = text.strip().rsplit("\n", 1)[-1].strip()
    found = re.fullmatch(rf"Answer: ([A-{chr(ord('A') + choices - 1)}])", last)
    return found[1] if found else None


def find_number(text: str) -> str | None:
    """The last number of a text, without $ and commas."""
    numbers = ANY_NUMBER.findall(text)
    return _plain(numbers[-1]) if numbers else None


def first_marked_number(text: str) -> str | None:
    """The number after the first `####` that one follows."""
    found = MARKED.search(text)
    return _plain(found[1]) if found else None


def last_line_number(solution: str) -> str | None:
    """The N of a GSM8K solution whose last line is `#### N`; None when it is not."""
    found = re.fullmatch(rf"####\s*({NUMBER})", solution.strip().rsplit("\n", 1)[-1].strip())
    return _plain(found[1]) if found else None


def _plain(number: str) -> str:
    return number.replace(",", "").replace("$", "")


def _equal(found: str | None, answer: str) -> bool:
    try:
        return found is not None and Decimal(found) == Decimal(answer)
    except InvalidOperation:
        return False
