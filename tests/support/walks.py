"""Texts of an automaton over bytes, found by walking through it."""

from __future__ import annotations

import numpy as np

from dgemma.runtime.structure.byte_automaton import ByteAutomaton


def walks(automaton: ByteAutomaton, count: int) -> list[bytes]:
    """Texts of a language at random, and its shortest."""
    rng, dead = np.random.default_rng(0), automaton.states
    distance = np.where(automaton.accepting, 0, 1 << 20)
    while (nearer := np.minimum(distance, distance[automaton.table].min(1) + 1)).sum() != distance.sum():
        distance = nearer
    found = []
    for number in range(count + 1):
        state, said = automaton.start, bytearray()
        while not (automaton.accepting[state] and (number == 0 or rng.random() < 0.3)):
            live = np.flatnonzero(automaton.table[state] != dead)
            if not len(live):
                break
            nearest = int(live[distance[automaton.table[state, live]].argmin()])
            said.append(nearest if number == 0 or len(said) > 200 else int(rng.choice(live)))
            state = int(automaton.table[state, said[-1]])
        found.append(bytes(said))
    return found
