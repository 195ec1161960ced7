"""Several answers to one prompt, and how far they agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dgemma.core.errors import Param, UsageError
from dgemma.core.generate_options import AUTOREGRESSIVE, GenerateOptions
from dgemma.runtime.result import Result


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Answers to one prompt, each with a seed of its own, in order. Answers are the same when their text is, white space at its
    ends aside; without a tokenizer, when their tokens are."""

    results: tuple[Result, ...]

    @property
    def votes(self) -> dict[str | tuple[int, ...], int]:
        """How often each answer was given, the most frequent first, of equally frequent ones the earliest."""
        return dict(Counter(map(_answer, self.results)).most_common())

    @property
    def best(self) -> Result:
        """The first of those that say what most of them say."""
        answer = next(iter(self.votes))
        return next(result for result in self.results if _answer(result) == answer)

    @property
    def agreement(self) -> float:
        """The share of the answers that say what `best` says."""
        return self.votes[_answer(self.best)] / len(self.results)


def check_several(options: GenerateOptions) -> None:
    """Whether several answers can differ; raises UsageError."""
    if options.decoder == AUTOREGRESSIVE or (options.compute is not None and options.compute.speculate):
        why = ": greedy decoding always gives the same answer"
        raise UsageError(Param("n"), " needs ", Param("decoder"), " diffusion without ", Param("speculate"), why)


def _answer(result: Result) -> str | tuple[int, ...]:
    return result.text.strip() or result.tokens
