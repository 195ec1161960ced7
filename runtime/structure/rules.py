"""Rules of a grammar as automata over names of rules and terminals, with as little recursion as need be.

A rule that calls itself only first or last in its own text is a loop, which an automaton has exactly: `list: item | list
"," item` is `item ("," item)*`. Other rules of a cycle are written into those that call them, as far as they do not call
themselves. What is left calls itself in the middle, such as what stands between brackets.

It knows nothing of characters, and not how deep rules may nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dgemma.runtime.structure.patience import Patience

MOST_EDGES = 100_000  # of one rule

Edge = tuple[int, str | None, int]  # from a state, by a symbol or by nothing, to a state


class TooLarge(Exception):
    """More states than can be made."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A rule; it begins in state 0, and some text leads from every state to a final one.

    Args:
        edges: of each state: symbols and the states behind them.
        final: states in which the rule may end.
    """

    edges: tuple[tuple[tuple[str, int], ...], ...]
    final: frozenset[int]

    @property
    def symbols(self) -> set[str]:
        return {symbol for edges in self.edges for symbol, _ in edges}

    @property
    def flat(self) -> list[Edge]:
        return [(state, symbol, after) for state, edges in enumerate(self.edges) for symbol, after in edges]


Rules = dict[str, Machine]


def read_rules(expansions: Iterable[tuple[str, Sequence[str]]], patience: Patience) -> Rules:
    """Of name and symbols of every alternative. Raises TooLarge, Cancelled, Late."""
    drawn: dict[str, list[Edge]] = {}
    for name, symbols in expansions:
        edges = drawn.setdefault(name, [])
        last = 1 + len(edges)  # state 1 is the end
        states = [0, *range(last + 1, last + len(symbols)), 1]
        by: Sequence[str | None] = symbols or [None]
        edges += zip(states[:-1], by, states[1:], strict=True)
    return {name: _smallest(edges, {0}, {1}, patience) for name, edges in drawn.items()}


def looped(rules: Mapping[str, Machine], start: str, patience: Patience) -> tuple[Rules, set[tuple[str, str]]]:
    """The same language with loops in place of recursion where that is exact; and which calls of rules can recur, as caller and
    called. Raises TooLarge, Cancelled, Late."""
    found = dict(rules)
    for cycle in _cycles(found, start):
        members = set(cycle)
        while True:
            for name in sorted(members):
                found[name] = _with_loops(name, found[name], patience)
            plain = {name for name in members if name not in found[name].symbols}
            called = {name for name in plain for other in members - {name} if name in found[other].symbols}
            if not called:
                break
            least = min(sorted(called), key=lambda name: _cost(name, members, found))
            members.remove(least)
            for other in sorted(members):
                found[other] = _inlined(found[other], least, found[least], patience)
    cycles = _cycles(found, start)
    return found, {(a, b) for cycle in cycles for a in cycle for b in cycle if b in found[a].symbols}


def _cost(name: str, members: Iterable[str], rules: Rules) -> int:
    calls = sum(symbol == name for other in members for _, symbol, _ in rules[other].flat)
    return calls * len(rules[name].edges)


def _with_loops(name: str, machine: Machine, patience: Patience) -> Machine:
    """A rule L = β | L α | γ L | L δ L: a call of L that comes first is where L has just ended, one that comes last is where L
    begins again."""
    if name not in machine.symbols:
        return machine
    size = len(machine.edges)
    begin, edges = 2 * size, list[Edge]()  # states + size: copies that are not final, so that something follows
    firsts = [(begin, symbol, after) for symbol, after in machine.edges[0]]
    for state, symbol, after in [*machine.flat, *firsts]:
        if symbol == name and state == begin:
            edges += [(end, None, after) for end in [*machine.final, *([begin] if 0 in machine.final else [])]]
        elif symbol == name and after in machine.final:
            edges.append((state, None, begin))
            edges += [(state, symbol, after + size)] if machine.edges[after] else []
        else:
            edges.append((state, symbol, after))
    # A copy's edges are those of its state; a last call from it begins again as well.
    edges += [(state + size, symbol, after) for state, symbol, after in edges if state < size and symbol is not None]
    edges += [
        (state + size, None, begin) for state, symbol, after in edges if state < size and (symbol, after) == (None, begin)
    ]
    final = machine.final | ({begin} if 0 in machine.final else set())
    return _smallest(edges, {begin}, final, patience)


def _inlined(machine: Machine, name: str, inner: Machine, patience: Patience) -> Machine:
    if name not in machine.symbols:
        return machine
    edges, free = list[Edge](), len(machine.edges)
    for state, symbol, after in machine.flat:
        if symbol != name:
            edges.append((state, symbol, after))
            continue
        edges += [(a + free, by, b + free) for a, by, b in inner.flat]
        edges += [(state, None, free), *((end + free, None, after) for end in inner.final)]
        free += len(inner.edges)
        if len(edges) > MOST_EDGES:
            raise TooLarge
    return _smallest(edges, {0}, machine.final, patience)


def _smallest(edges: list[Edge], starts: Iterable[int], finals: Iterable[int], patience: Patience) -> Machine:
    """Deterministic, with as few states as there can be: reversed and determinized, twice (Brzozowski 1962)."""
    for _ in range(2):
        reverse = [(after, symbol, state) for state, symbol, after in edges]
        edges, starts, finals = _deterministic(reverse, finals, starts, patience)
    rows: list[list[tuple[str, int]]] = [[] for _ in range(1 + max((max(a, b) for a, _, b in edges), default=0))]
    for state, symbol, after in edges:
        rows[state].append((str(symbol), after))
    return Machine(edges=tuple(tuple(sorted(row)) for row in rows), final=frozenset(finals))


def _deterministic(
    edges: list[Edge], starts: Iterable[int], finals: Iterable[int], patience: Patience
) -> tuple[list[Edge], list[int], list[int]]:
    moves: dict[int, list[tuple[str | None, int]]] = {}
    for state, symbol, after in edges:
        moves.setdefault(state, []).append((symbol, after))
    ends = set(finals)

    def closed(states: Iterable[int]) -> frozenset[int]:
        seen, todo = set[int](), list(states)
        while todo:
            if (state := todo.pop()) not in seen:
                seen.add(state)
                todo += [after for symbol, after in moves.get(state, ()) if symbol is None]
        return frozenset(seen)

    first = closed(starts)
    numbers, todo, made = {first: 0}, [first], list[Edge]()
    while todo:
        patience.check()
        states = todo.pop()
        targets: dict[str, set[int]] = {}
        for state in states:
            for symbol, after in moves.get(state, ()):
                if symbol is not None:
                    targets.setdefault(symbol, set()).add(after)
        for by, several in sorted(targets.items()):
            target = closed(several)
            if target not in numbers:
                numbers[target] = len(numbers)
                todo.append(target)
            made.append((numbers[states], by, numbers[target]))
        if len(made) > MOST_EDGES:
            raise TooLarge
    return made, [0], sorted(number for states, number in numbers.items() if states & ends)


def _cycles(rules: Mapping[str, Machine], start: str) -> list[set[str]]:
    """Sets of rules that call each other, or one that calls itself, which the start reaches; those that others call come first
    (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_, found = list[str](), list[set[str]]()
    work = [(start, iter(sorted(rules[start].symbols)))]
    order[start] = low[start] = 0
    open_.append(start)
    while work:
        name, symbols = work[-1]
        for symbol in symbols:
            if symbol not in rules:
                continue
            if symbol not in order:
                order[symbol] = low[symbol] = len(order)
                open_.append(symbol)
                work.append((symbol, iter(sorted(rules[symbol].symbols))))
                break
            if symbol in open_:
                low[name] = min(low[name], order[symbol])
        else:
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[name])
            if low[name] == order[name]:
                at = open_.index(name)
                members, open_ = set(open_[at:]), open_[:at]
                if len(members) > 1 or name in rules[name].symbols:
                    found.append(members)
    return found
