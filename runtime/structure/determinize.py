"""A separate program: a regular expression on standard input, its automaton over bytes on standard output.

    python determinize.py < REGEX

Making an automaton may take any time and memory, and the library has no limit. A separate process can be ended; it imports
nothing of dgemma. Output, little-endian int32: states, start, number of accepting states, these; then state, byte and next
state of every transition. Exit status 3: the library's reason is on standard error; 4: more than MOST_STATES states.
"""

from __future__ import annotations

import sys
from array import array

MOST_STATES = 60_000  # before states that are alike become one
END = "\U0010ffff"  # stands behind every text: a match that nothing can follow is no reason to leave out longer ones


def run() -> int:
    from outlines_core import Index, Vocabulary

    regex = sys.stdin.buffer.read().decode()
    try:
        index = Index(f"(?:{regex}){END}", Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)}))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 3
    transitions, final = index.get_transitions(), index.get_final_states()
    if len(transitions) > MOST_STATES:
        return 4
    number = {state: i for i, state in enumerate(transitions)}
    accepting = array("i")
    for state in transitions:
        end: int | None = state
        for byte in END.encode():
            end = transitions.get(end, {}).get(byte) if end is not None else None
        if end in final:
            accepting.append(number[state])
    table = array("i", [len(number), number[index.get_initial_state()], len(accepting), *accepting])
    for state, row in transitions.items():
        for byte, following in row.items():
            if byte < 256 and following in number:
                table.extend((number[state], byte, number[following]))
    if sys.byteorder == "big":
        table.byteswap()
    sys.stdout.buffer.write(table.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(run())
