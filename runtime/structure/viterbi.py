"""The likeliest canvas whose text is in a language, by dynamic programming over (position, state). N positions, K candidates,
S states.

It knows scores, states and ids, and nothing of steps or texts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dgemma.core.errors import EngineError
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.token_automaton import TokenAutomaton

_LEAST = -1e30  # stands for a probability of 0, so that sums stay finite
_ROUNDING = 2.0**-24  # of a sum of float32 probabilities


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a step says of every position.

    Args:
        ids: [N, K] int64, the likeliest ids; −1 for none.
        log_probs: [N, K] float64, nats.
        floor: [N] float64, the score of any other id; −inf where there may be none.
    """

    ids: Array
    log_probs: Array
    floor: Array

    @classmethod
    def of(cls, likeliest: Array, log_probs: Array, vocab: int) -> Scores:
        """Of the outputs `likeliest` [N, K] and `log_probs` [N, K] of a step over `vocab` ids.

        The floor is the mean probability of the ids that are no candidates, but no more than the least candidate's.
        """
        log_probs = np.maximum(log_probs.astype(np.float64), _LEAST)
        others = vocab - likeliest.shape[1]
        rest = np.log(np.maximum(1 - np.exp(log_probs).sum(1), _ROUNDING) / others) if others > 0 else np.inf
        return cls(ids=likeliest, log_probs=log_probs, floor=np.minimum(log_probs.min(1), rest))

    def pinned(self, where: Array, ids: Array) -> Scores:
        """With nothing but these ids [N] possible at some positions, bool [N]."""
        only = np.full_like(self.ids, -1)
        only[:, 0] = ids
        return Scores(
            ids=np.where(where[:, None], only, self.ids),
            log_probs=np.where(where[:, None], 0.0, self.log_probs),
            floor=np.where(where, -np.inf, self.floor),
        )

    def best_of(self, ids: Collection[int]) -> tuple[Array, Array]:
        """Of a few ids the likeliest at each position, [N], and its score, [N]; of equal ones the lowest."""
        each = np.array(sorted(ids))
        scores = np.stack([np.where(self.ids == one, self.log_probs, -np.inf).max(1) for one in each])
        scores = np.maximum(scores, self.floor)
        best = scores.argmax(0)
        return each[best], scores.max(0)


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Where a canvas stands in an answer.

    Args:
        state: that the answer so far has led to.
        room: positions that the answer's ids may take; a stop id may stand behind them.
        after: ids that later canvases can hold; 0: this is the last one.
        stops: ids that end an answer; the answer's end takes the likeliest of them.
        pad: stands behind the end, as stops may.
    """

    state: int
    room: int
    after: int
    stops: Sequence[int]
    pad: int


def likeliest(automaton: TokenAutomaton, scores: Scores, canvas: Canvas) -> tuple[Array, float]:
    """The ids [N] of the likeliest canvas that leaves the answer in the language, and the sum of their scores.

    It ends the answer with a stop id where the state accepts, or reaches a state from which `after` ids are enough. Of equally
    likely ids the lowest is taken. Raises EngineError where there is no such canvas.
    """
    n, ends, state = len(scores.ids), _Ends(scores, canvas), canvas.state
    room, states = min(canvas.room, n), automaton.dead
    best = np.empty((n + 1, states + 1))  # [N + 1, S + 1], the dead state last
    best[n] = np.where(automaton.distance[:-1] <= (canvas.after if room == n else 0), 0.0, -np.inf)
    sources = np.flatnonzero(np.diff(automaton.row[: states + 1]))
    rows, target = automaton.row[sources], automaton.target[: automaton.row[states]]
    moves = _Moves(automaton, scores)
    for i in range(n - 1, -1, -1):
        here, following = best[i], best[i + 1]
        here[:] = np.where(automaton.accepting[:-1], ends.stop[i] + ends.tail[i + 1], -np.inf)
        if i >= room:
            continue
        if len(sources):
            here[sources] = np.maximum(here[sources], np.maximum.reduceat(following[target], rows) + scores.floor[i])
        moves.raise_to(here, following, i)
    path, total = np.empty(n, np.int64), None
    for i in range(n):
        score, path[i], state = _next(automaton, scores, ends, moves, best[i + 1], i, state, i < room)
        total = score if total is None else total
        if state < 0:
            path[i + 1 :] = ends.tail_id[i + 1 :]
            break
    if total is None or not total > -np.inf:
        raise EngineError("no canvas leaves the answer in its language, although there was one; please report this")
    return path, total


def _next(
    automaton: TokenAutomaton, scores: Scores, ends: _Ends, moves: _Moves, following: Array, i: int, state: int, has_room: bool
) -> tuple[float, int, int]:
    """The best score from a state at position i on, its id and the state behind that; −1 where the answer ends."""
    options = list[tuple[float, int, int]]()
    if automaton.accepting[state]:
        options.append((float(ends.stop[i] + ends.tail[i + 1]), int(ends.stop_id[i]), -1))
    if has_room:
        edges = slice(automaton.row[state], automaton.row[state + 1])
        to = automaton.target[edges]
        options += zip((following[to] + scores.floor[i]).tolist(), automaton.id[edges].tolist(), to.tolist(), strict=True)
        if state == automaton.begin:  # whose moves are its own
            known = zip(scores.ids[i].tolist(), scores.log_probs[i].tolist(), strict=True)
            found = [(score, token, automaton.step(state, token)) for token, score in known]
        else:
            found = moves.of(i, state)
        options += [(float(following[to] + score), token, to) for score, token, to in found if to != automaton.dead]
    return max(options, key=lambda option: (option[0], -option[1]), default=(-np.inf, 0, -1))


class _Moves:
    """Where the candidates of every position lead."""

    def __init__(self, automaton: TokenAutomaton, scores: Scores) -> None:
        n, k = scores.ids.shape
        known, which = np.unique(scores.ids, return_inverse=True)
        number, source, target = automaton.moves(known.tolist())
        begin = np.searchsorted(number, np.arange(len(known) + 1))
        which = which.reshape(n * k)
        counts = begin[which + 1] - begin[which]
        ends = np.cumsum(counts)
        at = np.repeat(begin[which] - ends + counts, counts) + np.arange(ends[-1])
        self._source, self._target, self._score = source[at], target[at], np.repeat(scores.log_probs.reshape(-1), counts)
        self._id = np.repeat(scores.ids.reshape(-1), counts)
        self._row = np.append(0, ends)[::k]

    def raise_to(self, here: Array, following: Array, i: int) -> None:
        """Raise the scores [S + 1] of position i to what its candidates reach."""
        own = slice(self._row[i], self._row[i + 1])
        np.maximum.at(here, self._source[own], following[self._target[own]] + self._score[own])

    def of(self, i: int, state: int) -> list[tuple[float, int, int]]:
        """Of the candidates of position i that lead on from a state: score, id, target."""
        at = self._row[i] + np.flatnonzero(self._source[self._row[i] : self._row[i + 1]] == state)
        return list(zip(self._score[at].tolist(), self._id[at].tolist(), self._target[at].tolist(), strict=True))


class _Ends:
    """`stop_id`, `stop`: [N] the likeliest stop id and its score. `tail_id` [N]: the likeliest that may stand behind the end.
    `tail`: [N + 1] scores of all of these from a position on."""

    def __init__(self, scores: Scores, canvas: Canvas) -> None:
        self.stop_id, self.stop = scores.best_of(canvas.stops)
        self.tail_id, tail = scores.best_of({canvas.pad, *canvas.stops})
        self.tail = np.append(np.cumsum(tail[::-1])[::-1], 0.0)
