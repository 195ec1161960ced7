"""An automaton over bytes lifted to the ids of a tokenizer. S states, V ids, E edges.

Of the ids that lead from one state to another, one stands for all, so the size does not depend on V. Where individual ids lead
is computed when needed. It knows nothing of scores or canvases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgemma.core.errors import Param, UsageError
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.byte_automaton import ByteAutomaton
from dgemma.runtime.structure.patience import Patience
from dgemma.runtime.structure.vocabulary import Vocabulary

MOST_EDGES = 1_000_000
MOST_WORK = 1_000_000_000  # nodes of the vocabulary's tree that may be visited
_DENSE = 4  # a level is gone through whole if one in so many of the nodes above it is reached
NEVER = np.iinfo(np.int32).max


class ByteTree:
    """The ids of one table of bytes, by their common beginnings: level d has the nodes of d + 1 bytes.

    Of every level: `begin`, where the children of each node of the level above begin; `parents` and `bytes` of its nodes;
    `ranks`, the lowest of the ids that end there, NEVER where none does.
    """

    def __init__(self, texts: Sequence[bytes], rank: Array) -> None:
        ids = np.array([i for i, text in enumerate(texts) if text], np.int64)
        ids = ids[np.argsort(rank[ids])]
        lengths = np.array([len(texts[i]) for i in ids], np.int64)
        longest = int(lengths.max(initial=0))
        letters = np.zeros((longest, len(ids)), np.uint8)
        for row, i in enumerate(ids):
            letters[: lengths[row], row] = np.frombuffer(texts[i], np.uint8)
        self.begin, self.parents, self.bytes, self.ranks = list[Array](), list[Array](), list[Array](), list[Array]()
        node, rows, above = np.zeros(len(ids), np.int64), np.arange(len(ids)), 1
        for depth in range(longest):
            rows = rows[lengths[rows] > depth]
            keys, node[rows] = np.unique(node[rows] * 256 + letters[depth, rows], return_inverse=True)
            ranks = np.full(len(keys), NEVER, np.int32)
            ending = rows[lengths[rows] == depth + 1][::-1]
            ranks[node[ending]] = rank[ids[ending]]  # of equal texts the lowest comes last and stays
            self.begin.append(np.searchsorted(keys, np.arange(above + 1) * 256))
            self.parents.append((keys // 256).astype(np.int32))
            self.bytes.append((keys % 256).astype(np.uint8))
            self.ranks.append(ranks)
            above = len(keys)

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for level in (self.begin, self.parents, self.bytes, self.ranks) for array in level)

    def targets(self, table: Array, state: int) -> tuple[Array, Array, int]:
        """Of an automaton [S + 1, 256], S dead: where texts lead from a state, each state once; the lowest rank of the ids that
        lead there; and how many nodes were looked at."""
        dead, work = len(table) - 1, 0
        best = np.full(len(table), NEVER, np.int32)
        flat = table.reshape(-1)
        nodes, at = np.zeros(1, np.int64), np.array([state], np.int32)
        for begin, parents, letters, ranks in zip(self.begin, self.parents, self.bytes, self.ranks, strict=True):
            if len(nodes) * _DENSE > len(begin) - 1:  # nearly all of a level: to go through it whole is quicker
                whole = np.full(len(begin) - 1, dead, np.int32)
                whole[nodes] = at
                at = flat[whole[parents] * 256 + letters]
                nodes = np.flatnonzero(at != dead)
                at, looked_at = at[nodes], len(letters)
            else:
                counts = begin[nodes + 1] - begin[nodes]
                ends = np.cumsum(counts)
                nodes, looked_at = np.repeat(begin[nodes] - ends + counts, counts) + np.arange(ends[-1]), int(ends[-1])
                at = table[np.repeat(at, counts), letters[nodes]]
                alive = np.flatnonzero(at != dead)
                nodes, at = nodes[alive], at[alive]
            work += looked_at
            if not nodes.size:
                break
            np.minimum.at(best, at, ranks[nodes])
        found = np.flatnonzero(best != NEVER)
        return found, best[found], work


@dataclass(frozen=True, kw_only=True)
class TokenAutomaton:
    """State S is dead, and S + 1 is where an answer begins, which no id leads back to.

    Args:
        automaton: over bytes, with the same S.
        vocabulary: of the tokenizer.
        target, id: [E] int, where the edges lead and the ids that stand for them, by their sources.
        row: [S + 3] where each state's edges begin.
        accepting: [S + 2] bool.
        distance: [S + 2] int32, ids to the nearest accepting state; NEVER where there is none.
    """

    automaton: ByteAutomaton
    vocabulary: Vocabulary
    target: Array
    id: Array
    row: Array
    accepting: Array
    distance: Array

    @property
    def dead(self) -> int:
        """S."""
        return self.automaton.states

    @property
    def begin(self) -> int:
        """S + 1."""
        return self.automaton.states + 1

    @property
    def nbytes(self) -> int:
        """Of all arrays."""
        own = (self.automaton.table, self.automaton.accepting, self.target, self.id, self.row, self.accepting, self.distance)
        return sum(array.nbytes for array in own)

    def after(self, ids: Sequence[int]) -> int:
        """The state behind an answer's ids; dead where no answer begins so."""
        state = self.begin
        for token in ids:
            state = self.step(state, token)
        return state

    def step(self, state: int, token: int) -> int:
        """The state behind one id."""
        begins, vocabulary = state == self.begin, self.vocabulary
        texts = vocabulary.first if begins else vocabulary.later
        text = texts[token] if 0 <= token < len(texts) else b""
        return self.automaton.after(text, None if begins else state) if text else self.dead

    def moves(self, ids: Sequence[int]) -> tuple[Array, Array, Array]:
        """Where ids, K of them, lead within an answer: numbers below K in rising order, sources and targets, [M] each."""
        later, flat = self.vocabulary.later, self.automaton.table.reshape(-1)
        texts = [later[token] if 0 <= token < len(later) else b"" for token in ids]
        lengths = np.array([len(text) for text in texts], np.int64)
        letters = np.frombuffer(b"".join([*texts, b"\0"]), np.uint8)
        ends = np.cumsum(lengths)
        heads = letters[ends - lengths]
        counts = np.where(lengths > 0, np.diff(self._live)[heads], 0)  # states that the first byte leads on from
        upto = np.cumsum(counts)
        number = np.repeat(np.arange(len(texts)), counts)
        source = self._sources[np.repeat(self._live[heads] - upto + counts, counts) + np.arange(len(number))]
        state, at, end = source, np.repeat(ends - lengths, counts), np.repeat(ends, counts)
        found = list[tuple[Array, Array, Array]]()
        while len(number):
            state = flat[state * 256 + letters[at]]
            at, alive = at + 1, state != self.dead
            done = alive & (at == end)
            found.append((number[done], source[done], state[done]))
            goes_on = np.flatnonzero(alive & (at < end))
            number, source, state, at, end = (array[goes_on] for array in (number, source, state, at, end))
        parts = [np.concatenate(part) if found else np.zeros(0, np.int64) for part in zip(*found, strict=True)] or [number] * 3
        order = np.argsort(parts[0], kind="stable")
        return parts[0][order], parts[1][order], parts[2][order]

    @cached_property
    def _sources(self) -> Array:
        """States that a byte leads on from, for byte after byte."""
        live: Array = np.not_equal(self.automaton.table[:-1].T, self.dead)
        return np.nonzero(live)[1]

    @cached_property
    def _live(self) -> Array:
        """[257] where those of each byte begin."""
        return np.append(0, np.cumsum((self.automaton.table[:-1] != self.dead).sum(0)))


def lift(
    automaton: ByteAutomaton, vocabulary: Vocabulary, trees: tuple[ByteTree, ByteTree], name: str, patience: Patience
) -> TokenAutomaton:
    """To the ids of a vocabulary, whose first and later texts `trees` have. Raises UsageError, naming the option: too large;
    Cancelled, Late.
    """
    states, dead = automaton.states, np.zeros(0, np.int64)
    targets, ranks, edges, work = list[Array](), list[Array](), 0, 0
    for tree, state in [*((trees[1], state) for state in range(states)), (None, states), (trees[0], automaton.start)]:
        patience.check()
        target, rank, looked_at = (dead, dead, 0) if tree is None else tree.targets(automaton.table, state)
        targets.append(target)
        ranks.append(rank)
        edges, work = edges + len(target), work + looked_at
        if work > MOST_WORK or edges > MOST_EDGES:
            raise UsageError(Param(name), _too_large(states))
    row = np.cumsum([0, *map(len, targets)])
    target = np.concatenate(targets).astype(np.int32)
    accepting = np.append(automaton.accepting, automaton.accepting[automaton.start])
    return TokenAutomaton(
        automaton=automaton,
        vocabulary=vocabulary,
        target=target,
        id=np.argsort(vocabulary.rank)[np.concatenate(ranks).astype(np.int64)],
        row=row,
        accepting=accepting,
        distance=_distances(target, row, accepting),
    )


def _too_large(states: int) -> str:
    return (
        f" is too large for this vocabulary: {states} states with more than {MOST_EDGES} transitions, or too much work; "
        "use fewer or smaller counts"
    )


def _distances(target: Array, row: Array, accepting: Array) -> Array:
    """Ids from every state to the nearest accepting one."""
    distance = np.where(accepting, 0, NEVER).astype(np.int64)
    sources = np.flatnonzero(np.diff(row))
    while len(sources):
        nearest = np.minimum.reduceat(distance[target], row[sources]) + 1
        closer = nearest < distance[sources]
        if not closer.any():
            break
        distance[sources[closer]] = nearest[closer]
    return np.minimum(distance, NEVER).astype(np.int32)
