"""Rules of a grammar as one automaton over bytes, in which rules nest no deeper than a bound. S states, C classes of bytes.

A place in a parse is a stack of the rules that go on later, and a state of a terminal. An automaton's state is a set of such
places, made when a text first leads there.

It knows rules and terminals as automata, and nothing of how they are written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dgemma.runtime.structure.byte_automaton import ByteAutomaton, smallest
from dgemma.runtime.structure.patience import Patience
from dgemma.runtime.structure.rules import Machine, Rules, TooLarge

MOST_STATES = 60_000  # before states that are alike become one
MOST_STACKS, MOST_PLACES = 500_000, 3_000_000
GAP, BOTTOM = "", 0  # the name of a rule that no grammar has; the empty stack

Frame = tuple[int, str, int]  # the stack below, and the rule and state in which it goes on


@dataclass(frozen=True, kw_only=True)
class Terminals:
    """Args:
    automaton: of all terminals; it is read from each one's own state.
    starts: names and these states.
    ignored: names of those that may stand between two others.
    """

    automaton: ByteAutomaton
    starts: Mapping[str, int]
    ignored: Sequence[str] = ()


def unrolled(
    rules: Rules, start: str, terminals: Terminals, recurring: Collection[tuple[str, str]], depth: int, patience: Patience
) -> ByteAutomaton:
    """The texts of a rule.

    Args:
        recurring: calls, as caller and called, that lead back to the caller; a stack has at most `depth` of each caller's.
    Raises:
        TooLarge, Cancelled, Late.
    """
    places = _Places(rules=rules, terminals=terminals, recurring=recurring, depth=depth, patience=patience)
    first = places.reached(BOTTOM, start, 0, begun=False)
    numbers, todo, total = {first: 0}, [first], 0
    table = list[tuple[int, int, int]]()
    while todo:
        patience.check()
        state = todo.pop()
        total += len(state[0])
        for byte, target in places.following(state[0]).items():
            if target not in numbers:
                numbers[target] = len(numbers)
                todo.append(target)
            table.append((numbers[state], byte, numbers[target]))
        if len(numbers) > MOST_STATES or total > MOST_PLACES:
            raise TooLarge
    s = len(numbers)
    narrow = np.full((s + 1, places.classes), s, np.int32)
    if table:
        source, column, target_state = np.array(table, np.int32).T
        narrow[source, column] = target_state
    accepting = np.array([*(ends for _, ends in numbers), False], np.bool_)
    return smallest(narrow[:, places.of_byte], accepting, 0, patience)


State = tuple[frozenset[int], bool]  # places, and whether the text may end


@dataclass(kw_only=True)
class _Places:
    """A place is the number of a stack, times the states of terminals, plus such a state."""

    rules: Rules
    terminals: Terminals
    recurring: Collection[tuple[str, str]]
    depth: int
    patience: Patience
    _stacks: list[Frame] = field(default_factory=lambda: [(BOTTOM, "", 0)])
    _nested: list[Mapping[str, int]] = field(default_factory=lambda: [{}])  # of each stack: calls that recur, by caller
    _numbers: dict[tuple[Frame, bool], int] = field(default_factory=dict)
    _known: dict[Frame, State] = field(default_factory=dict)
    _moves: dict[int, list[tuple[int, int, bool]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        automaton = self.terminals.automaton
        self._narrow, of_byte = np.unique(automaton.table, axis=1, return_inverse=True)
        self.of_byte = np.asarray(of_byte).reshape(-1)
        self.classes, self._size = self._narrow.shape[1], len(automaton.table)
        names = list(self.terminals.starts)
        self._gap_state = {name: state for state, name in enumerate(names)}
        end = len(names)
        ignored = self.terminals.ignored
        gap = [((name, end), *((one, state) for one in ignored)) for state, name in enumerate(names)]
        self._machines = {**self.rules, GAP: Machine(edges=(*gap, ()), final=frozenset({end}))}

    def following(self, places: frozenset[int]) -> dict[int, State]:
        """By class of bytes, where places lead."""
        found: dict[int, tuple[set[int], bool]] = {}
        for place in places:
            stack, state = divmod(place, self._size)
            for byte, after, ends in self._after(state):
                more, may_end = found.get(byte, (set(), False))
                more.add(stack * self._size + after)
                if ends:
                    behind, also = self._behind(stack)
                    more |= behind
                    may_end |= also
                found[byte] = more, may_end
        return {byte: (frozenset(more), may_end) for byte, (more, may_end) in found.items()}

    def _after(self, state: int) -> list[tuple[int, int, bool]]:
        """Of a terminal's state: classes, the states behind them, and whether the terminal may end there."""
        if state not in self._moves:
            row, dead = self._narrow[state], self._size - 1
            alive = np.flatnonzero(row != dead)
            ends = self.terminals.automaton.accepting[row[alive]]
            self._moves[state] = list(zip(alive.tolist(), row[alive].tolist(), ends.tolist(), strict=True))
        return self._moves[state]

    def _behind(self, stack: int) -> State:
        """Where a text is when the terminal above a stack has ended."""
        if stack == BOTTOM:
            return frozenset(), True
        frame = self._stacks[stack]
        if frame not in self._known:
            self._known[frame] = self.reached(*frame, begun=True)
        return self._known[frame]

    def reached(self, stack: int, rule: str, state: int, *, begun: bool) -> State:
        """Places from which the next byte is read, in or behind a state of a rule.

        Args:
            begun: whether something stands before, so that ignored terminals may come next.
        """
        seen, todo, places, may_end = set[Frame](), [(stack, rule, state)], set[int](), False
        gaps = begun and bool(self.terminals.ignored)
        while todo:
            if (one := todo.pop()) in seen:
                continue
            seen.add(one)
            stack, rule, state = one
            machine = self._machines[rule]
            if state in machine.final:
                if stack == BOTTOM:
                    may_end = True
                else:
                    todo.append(self._stacks[stack])
            for symbol, after in machine.edges[state]:
                for behind in self._called(one, symbol, after):
                    if symbol in self.rules:
                        todo.append((behind, symbol, 0))
                    elif gaps and rule != GAP:
                        todo.append((behind, GAP, self._gap_state[symbol]))
                    else:
                        places.add(behind * self._size + self.terminals.starts[symbol])
        return frozenset(places), may_end

    def _called(self, at: Frame, symbol: str, after: int) -> list[int]:
        """Stacks for what a rule calls: nothing has to go on later where the rule may end behind the call."""
        stack, rule, _ = at
        machine, recurs = self._machines[rule], (rule, symbol) in self.recurring
        last = after in machine.final
        found = [stack] if last and (recurs or not machine.edges[after]) else []
        if not machine.edges[after] or (recurs and self._nested[stack].get(rule, 0) >= self.depth):
            return found
        key = (stack, rule, after), recurs
        if key not in self._numbers:
            self.patience.check()
            self._numbers[key] = len(self._stacks)
            self._stacks.append(key[0])
            nested = self._nested[stack]
            self._nested.append({**nested, rule: nested.get(rule, 0) + 1} if recurs else nested)
            if len(self._stacks) > MOST_STACKS:
                raise TooLarge
        return [*found, self._numbers[key]]
