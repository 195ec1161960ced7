"""One question with its right answer, and how it is put to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

Rule = Literal["text", "letter", "number"]


@dataclass(frozen=True, kw_only=True)
class EvalItem:
    """One question.

    Args:
        task: what it is counted under, such as mmlu/astronomy.
        prompt: the question, choices included, without instruction and examples.
        answer: the right text, letter or number, by `rule`.
        rule: how an answer is found in a text (`answers.judge`).
        choices: how many choices there are, 0 where the answer is free.
        solution: the right answer as an example shows it, reasoning included; empty means `answer`.
        line: line of the file, from 1.
    """

    task: str
    prompt: str
    answer: str
    rule: Rule = "text"
    choices: int = 0
    solution: str = ""
    line: int = field(default=0, compare=False)

    @property
    def example(self) -> str:
        """The question with its right answer under it."""
        return f"{self.prompt}\n{self.solution or self.answer}"


def letter(index: int) -> str:
    """A, B, C … of a choice from 0."""
    return chr(ord("A") + index)


def compose(item: EvalItem, instruction: str, examples: Sequence[EvalItem] = ()) -> str:
    """What a user's turn says: instruction, solved examples and question, with an empty line between them."""
    return "\n\n".join([*([instruction] if instruction else []), *(e.example for e in examples), item.prompt])


def examples_for(item: EvalItem, pool: Sequence[EvalItem], count: int) -> list[EvalItem]:
    """The first `count` of the pool that are of the item's task, never the question itself."""
    return list(islice((e for e in pool if e.task == item.task and e.prompt != item.prompt), count))
