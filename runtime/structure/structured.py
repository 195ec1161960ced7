"""One answer of a language, canvas by canvas: its automaton chooses from every step. N canvas, K candidates.

It knows ids and positions, and nothing of engines or texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dgemma.core.errors import EngineError, Param, PromptTooLong, UsageError
from dgemma.core.plural import counted
from dgemma.core.structure import SHOWN
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.choices import Behind, Ids, log_probabilities
from dgemma.runtime.structure.token_automaton import NEVER, TokenAutomaton
from dgemma.runtime.structure.viterbi import Canvas, Scores, likeliest


class StructuredAnswer:
    """One answer.

    Args:
        automaton: of its language.
        name: of the option, for errors.
        stops: ids that end an answer.
        pad: what stands behind it.
        vocab: ids of the model.
        choices: ids of the answers whose probabilities are wanted.
        is_call: whether an answer is read as a call of a tool, and not as text.
    """

    def __init__(
        self,
        automaton: TokenAutomaton,
        name: str,
        *,
        stops: Sequence[int],
        pad: int,
        vocab: int,
        choices: Sequence[Ids] = (),
        is_call: bool = False,
    ) -> None:
        self.choices = choices
        self._automaton, self._name = automaton, name
        self._stops, self._pad, self._vocab, self._is_call = tuple(stops), pad, vocab, is_call

    def check(self, most: int, n: int, room: int) -> None:
        """Whether the language has an answer of at most `most` ids on canvases of n in a context with `room` positions left.

        Raises UsageError, PromptTooLong.
        """
        least = int(self._automaton.distance[self._automaton.begin])
        if least == NEVER:
            cannot = ": this bundle's tokenizer cannot encode any text that it allows; use other characters"
            raise UsageError(Param(self._name), cannot)
        if least > most:
            less = f" {most} is less than the {counted(least, 'token')} that "
            raise UsageError(Param("max_new_tokens"), less, Param(self._name), " takes at least")
        if least > room // n * n:
            raise PromptTooLong(
                Param(self._name),
                f" takes at least {counted(least, 'token')}, and the context has room for canvases of "
                f"{counted(room // n * n, 'token')}; shorten the prompt",
            )

    def choice_log_probabilities(self, behind: Behind) -> list[float]:
        """Of every choice, see `choices.py`."""
        return log_probabilities(self.choices, self._stops, self._vocab, behind)

    def warnings(self, text: str, calls: int, reason: str) -> tuple[str, ...]:
        """What is wrong with an answer after a cancel. Raises EngineError where another one is not of the language: neither its
        text, nor the one call that it is read as."""
        if self._automaton.automaton.matches(text) or (self._is_call and calls == 1 and not text):
            return ()
        if reason == "cancelled":
            return (f"the answer was cancelled, so it is only the beginning of a text that the {self._name} allows",)
        raise EngineError(
            f"the answer {text[:SHOWN]!r} does not follow the {self._name}, although its tokens do; please report this"
        )

    def canvas(self, tokens: Sequence[int], most: int, n: int, room: int) -> StructuredCanvas:
        """The canvas of n behind the answer's `tokens`, of which there may be `most`; `room` is what the context has left."""
        left = most - len(tokens)
        after = max(0, min(left - n, room // n * n - n))
        at = Canvas(state=self._automaton.after(tokens), room=min(left, n), after=after, stops=self._stops, pad=self._pad)
        return StructuredCanvas(self._automaton, at, n, self._vocab)


class StructuredCanvas:
    """One canvas. `ids`: [N] its likeliest ids of the language, as of the last step; None before the first."""

    def __init__(self, automaton: TokenAutomaton, canvas: Canvas, n: int, vocab: int) -> None:
        self._automaton, self._canvas, self._n, self._vocab = automaton, canvas, n, vocab
        self.ids: Array | None = None

    def held(self, rows: Array, out: Mapping[str, Array], accepted: Array, canvas: Array) -> tuple[Array, Array]:
        """The argmax and the next canvas of a step's rows [R], where its path takes the place of both at accepted positions.

        Positions that did not run keep their ids. `out` has `likeliest` and `log_probs`, [1, R, K].
        """
        own = Scores.of(out["likeliest"][0], out["log_probs"][0], self._vocab)
        scores = own if len(rows) == self._n else self._with_others(rows, own)
        self.ids, _ = likeliest(self._automaton, scores, self._canvas)
        argmax = self.ids[rows]
        return argmax, np.where(accepted, argmax, canvas)

    def _with_others(self, rows: Array, own: Scores) -> Scores:
        """The scores of all positions, of which those that are not `rows` have to stay."""
        assert self.ids is not None  # the first step runs every position
        k = own.ids.shape[1]
        scores = Scores(ids=np.full((self._n, k), -1), log_probs=np.zeros((self._n, k)), floor=np.zeros(self._n))
        for mine, theirs in ((scores.ids, own.ids), (scores.log_probs, own.log_probs), (scores.floor, own.floor)):
            mine[rows] = theirs
        stays = np.ones(self._n, np.bool_)
        stays[rows] = False
        return scores.pinned(stays, self.ids)
