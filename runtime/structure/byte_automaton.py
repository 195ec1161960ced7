"""A language as a deterministic automaton over bytes. S states, numbered from 0.

It knows regular expressions and bytes, and nothing of tokens.
"""

from __future__ import annotations

import atexit
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgemma.core.errors import Param, UsageError
from dgemma.core.install import pip_install
from dgemma.core.structure import SHOWN
from dgemma.runtime.engines.base import Array
from dgemma.runtime.structure.patience import POLL_S, Late, Patience

MOST_STATES = 20_000
LONGEST = 1 << 20  # characters of an expression
_TOO_LARGE = ": needs too many states, or too much time; counts such as {1,1000} need many: use fewer, or smaller ones"
_DETERMINIZE = Path(__file__).with_name("determinize.py")
_LIMITED = Path(__file__).with_name("limited.py")


class _Children:
    """Programs at work, which end with this one, also where a thread of a server still waits for them."""

    def __init__(self) -> None:
        self._running, self._ended = set[subprocess.Popen[bytes]](), False
        atexit.register(self.end)

    def run(self, command: list[str], given: bytes, patience: Patience) -> tuple[int, bytes, bytes]:
        """Exit status, output, errors. Raises OSError, and what `patience` does, once the program is ended."""
        if self._ended:
            raise InterruptedError("the program ends")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as child:
            self._running.add(child)
            try:
                written, said = _communicated(child, given, patience)
            except BaseException:
                child.kill()
                raise
            finally:
                self._running.discard(child)
        return child.returncode, written, said

    def end(self) -> None:
        self._ended = True
        for child in list(self._running):
            child.kill()


def _communicated(child: subprocess.Popen[bytes], given: bytes | None, patience: Patience) -> tuple[bytes, bytes]:
    while True:
        patience.check()
        try:
            found = child.communicate(given, POLL_S)
        except subprocess.TimeoutExpired:
            given = None  # the child has it, or will be given the rest of it
            continue
        patience.check()  # Ctrl-C on a terminal reaches both programs
        return found


_CHILDREN = _Children()


@dataclass(frozen=True, kw_only=True)
class ByteAutomaton:
    """Every state is on the way from the start to an accepting one.

    Args:
        table: [S + 1, 256] int32, the next state for a byte; S where there is none, also from S.
        accepting: [S + 1] bool.
        start: state of the empty text.
    """

    table: Array
    accepting: Array
    start: int

    @property
    def states(self) -> int:
        """S."""
        return len(self.table) - 1

    def after(self, text: bytes, state: int | None = None) -> int:
        """The state behind a text, S where no text of the language begins so."""
        at = self.start if state is None else state
        for byte in text:
            at = int(self.table[at, byte])
        return at

    def matches(self, text: str) -> bool:
        """Whether a text is of the language."""
        return bool(self.accepting[self.after(text.encode("utf-8", "surrogatepass"))])


def compile_regex(
    regex: str, name: str = "regex", patience: Patience | None = None, *, shown: str | None = None
) -> ByteAutomaton:
    """The automaton of the texts that an expression matches whole, with as few states as there can be.

    Args:
        regex: in the syntax of Rust's regex crate; `^` before and `$` behind all of it are left out.
        name: the option that errors name.
        patience: None: a whole one.
        shown: what errors say behind the name; None: the expression.
    Raises:
        UsageError: cannot be read, matches no text, is too large or takes too long; or outlines-core is missing.
        Cancelled.
    """
    bare, patience = _bare(regex), patience or Patience()
    said = Param(name), f" {regex[:SHOWN]!r}{'…' if len(regex) > SHOWN else ''}" if shown is None else shown
    if len(bare) > LONGEST:
        raise UsageError(
            Param(name), f" is an expression of {len(bare)} characters; at most {LONGEST} are compiled; make it shorter"
        )
    if not _balanced(bare):
        raise UsageError(*said, ": has unbalanced parentheses or brackets; close them, or escape them with a backslash")
    try:
        found = _compiled(_determinized(bare, said, patience), patience)
    except Late:
        raise UsageError(*said, _TOO_LARGE) from None
    if not found.states:
        raise UsageError(*said, ": matches no text; write an expression that matches one")
    if found.states > MOST_STATES:
        raise UsageError(*said, _TOO_LARGE)
    return found


def _compiled(done: bytes, patience: Patience) -> ByteAutomaton:
    """Of what determinize.py writes. Raises Cancelled, Late."""
    values = np.frombuffer(done, "<i4")
    states, start, count = (int(value) for value in values[:3])
    source, byte, following = values[3 + count :].reshape(-1, 3).T
    table = np.full((states + 1, 256), states, np.int32)
    table[source, byte] = following
    accepting = np.zeros(states + 1, np.bool_)
    accepting[values[3 : 3 + count]] = True
    return smallest(table, accepting, start, patience)


def _determinized(regex: str, shown: tuple[str, str], patience: Patience) -> bytes:
    """What determinize.py writes; raises UsageError, Cancelled, Late."""
    if importlib.util.find_spec("outlines_core") is None:
        raise UsageError(*shown, f": needs package 'outlines-core'; {pip_install('structure')}")
    try:
        given = regex.encode()
    except UnicodeEncodeError:
        raise UsageError(*shown, ": is not valid Unicode text") from None
    status, written, said = in_a_program(_DETERMINIZE, given, shown, patience)
    if status == 0:
        return written
    if status == 3:
        raise UsageError(*shown, f": {_reason(said.decode(errors='replace'))}")
    raise UsageError(*shown, _TOO_LARGE)


def in_a_program(path: Path, given: bytes, shown: Sequence[str], patience: Patience) -> tuple[int, bytes, bytes]:
    """Exit status, output and errors of a program in Python, which has limits; `shown` begins errors.

    Raises UsageError, Cancelled, Late.
    """
    try:
        return _CHILDREN.run([sys.executable, "-P", str(_LIMITED), str(path)], given, patience)
    except OSError as error:
        raise UsageError(*shown, f": needs a second Python process, which cannot start ({error.strerror or error})") from None


def _reason(said: str) -> str:
    """Why the library refused an expression, in one line."""
    if "word boundaries" in said:
        return "has a word boundary, which is not supported for Unicode text; leave \\b out"
    if "start state" in said:
        return "has ^, $ or \\b inside; the whole answer is matched, so leave them out"
    if "incompatible" in said:
        return "a part of it matches no text; leave it out"
    return "is not a regular expression in Rust's syntax, which has no look-around and no backreferences; see docs.rs/regex"


def _bare(regex: str) -> str:
    """Without ^ before and $ behind all of it, which change nothing where the whole answer is matched."""
    bare = regex.removeprefix("^")
    if bare.endswith("$") and (len(bare) - 1 - len(bare[:-1].rstrip("\\"))) % 2 == 0:
        bare = bare[:-1]
    return bare


def _balanced(regex: str) -> bool:
    """Whether no parenthesis closes that none opened, so that the expression is a part of another as it stands."""
    depth = brackets = i = 0
    while i < len(regex):
        character, i = regex[i], i + 1
        if character == "\\":
            i += 1
        elif character == "[":
            brackets += 1
            first = regex[i : i + 2]
            i += 2 if first == "^]" else 1 if first[:1] in ("]", "^") else 0  # a bracket that comes first is itself
        elif brackets:
            brackets -= character == "]"
        elif character in "()":
            depth += 1 if character == "(" else -1
            if depth < 0:
                return False
    return depth == 0 and brackets == 0


def smallest(table: Array, accepting: Array, start: int, patience: Patience) -> ByteAutomaton:
    """The same language with no state too many. table [S + 1, 256] and accepting [S + 1], the last one dead.

    Raises Cancelled, Late.
    """
    narrow, of_byte = np.unique(table, axis=1, return_inverse=True)  # bytes that no state tells apart are one column
    of_byte = np.asarray(of_byte).reshape(-1)
    narrow, accepting, start = _trimmed(narrow, accepting, start, patience)
    dead = len(narrow) - 1
    mix = np.random.default_rng(0).integers(1, 1 << 62, narrow.shape[1] + 1, np.int64) | 1
    group, count = accepting.astype(np.int64), 0
    group[dead] = 2
    while True:  # states stay together as long as their next states are together
        patience.check()
        _, group = np.unique(group * mix[0] + (group[narrow] * mix[1:]).sum(1), return_inverse=True)
        if (found := int(group.max()) + 1) == count:
            break
        count = found
    first = np.empty(count, np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]
    rank = np.empty(count, np.int32)
    rank[np.argsort(first)] = np.arange(count)  # by their first states, so the dead one stays the last
    of_state, first = rank[group], np.sort(first)
    small = of_state[narrow[first]]
    assert np.array_equal(of_state[narrow], small[of_state])  # no two sums were equal by chance
    return ByteAutomaton(table=np.ascontiguousarray(small[:, of_byte]), accepting=accepting[first], start=int(of_state[start]))


def _trimmed(narrow: Array, accepting: Array, start: int, patience: Patience) -> tuple[Array, Array, int]:
    """Without states that no text reaches, or from which no text is reached; narrow [S + 1, C]."""
    dead = len(narrow) - 1
    reached = np.zeros(len(narrow), np.bool_)
    frontier = np.array([start])
    while frontier.size:
        patience.check()
        reached[frontier] = True
        following = np.unique(narrow[frontier])
        frontier = following[~reached[following]]
    useful = accepting & reached
    while (more := reached & ~useful & useful[narrow].any(1)).any():
        patience.check()
        useful |= more
    useful[dead] = False
    kept = np.flatnonzero(useful)
    if not len(kept):
        return np.zeros((1, narrow.shape[1]), np.int32), np.zeros(1, np.bool_), 0
    number = np.full(len(narrow), len(kept), np.int32)
    number[kept] = np.arange(len(kept))
    rows = np.append(kept, dead)
    return number[narrow[rows]], accepting[rows] & useful[rows], int(number[start])
