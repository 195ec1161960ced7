"""Languages as automata: over bytes, over ids, and the likeliest canvas, beside naive twins."""

from __future__ import annotations

import itertools
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgemma.core.errors import EngineError, UsageError
from dgemma.runtime.structure import byte_automaton, patience, token_automaton
from dgemma.runtime.structure.byte_automaton import compile_regex
from dgemma.runtime.structure.patience import Patience
from dgemma.runtime.structure.token_automaton import NEVER, ByteTree, TokenAutomaton, lift
from dgemma.runtime.structure.viterbi import Canvas, Scores, likeliest
from dgemma.runtime.structure.vocabulary import Vocabulary

PAD, STOP, OTHER_STOP = 0, 1, 2
PIECES = (b"", b"", b"", b"a", b"b", b"ab", b"ba", b"\xc3", b"\xa9", "é".encode(), b"aaa", b"a", b'"', b"1", b" a")
MATCHED = ["", "a", "b", "ab", "ba", "aab", "é", "aé", "aaaa", "bb", "\n", "É", "a\\", "😀", "a b", "]", "^", "ｂ"]


def vocabulary(pieces: tuple[bytes, ...] = PIECES, first: tuple[bytes, ...] | None = None) -> Vocabulary:
    return Vocabulary(first=first or pieces, later=pieces, rank=np.arange(len(pieces)))


@cache
def lifted(regex: str, pieces: tuple[bytes, ...] = PIECES, first: tuple[bytes, ...] | None = None) -> TokenAutomaton:
    words = vocabulary(pieces, first)
    later = ByteTree(words.later, words.rank)
    return lift(compile_regex(regex), words, (ByteTree(words.first, words.rank), later), "regex", Patience())


@pytest.mark.parametrize(
    "regex",
    [
        "a|ab", "a*?", "^a$", "", "[^\"\n]*", "(a|b)*a(a|b)", "é|ü", "(?i)é", r"a\\", "[]a]+", "[^]]", "a{2,}", ".", "(😀|a)+",
        r"[\^]", "a??b",
    ],
)  # fmt: skip
def test_an_automaton_matches_what_python_matches(regex: str) -> None:
    automaton = compile_regex(regex)
    assert [text for text in MATCHED if automaton.matches(text)] == [text for text in MATCHED if re.fullmatch(regex, text)]
    assert automaton.accepting.any()


def test_states_that_are_alike_are_one() -> None:
    assert compile_regex("(ac|bc)*(ac|bc)").states == compile_regex("([ab]c)+").states == 3
    assert compile_regex("(a|b)*a(a|b){5}").states == 64  # as many as there must be
    assert compile_regex("ab|ab[^\\w\\W]{0}").states == 3


@pytest.mark.parametrize(
    ("regex", "says"),
    [
        ("(?=a)a", "no look-around"),
        (r"(a)\1", "no backreferences"),
        ("(", "unbalanced"),
        ("a)(b", "unbalanced"),
        ("[a", "unbalanced"),
        (r"\ba", "word boundary"),
        (r"[^\s\S]", "matches no text"),
        ("a^b", "matches no text"),
        ("a\ud800", "not valid Unicode"),
        ("a" * (1 << 21), "make it shorter"),
    ],
)
def test_what_is_no_language_is_refused(regex: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        compile_regex(regex)
    assert str(caught.value).startswith("regex ") and "\n" not in str(caught.value)


def test_huge_automata_are_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 3.0)
    for regex in ("(a|b)*a(a|b){30}", "(((a{1000}){1000}){1000})"):
        with pytest.raises(UsageError, match="use fewer, or smaller ones"):
            compile_regex(regex)
    monkeypatch.setattr(byte_automaton, "MOST_STATES", 10)
    with pytest.raises(UsageError, match="too many states"):
        compile_regex("a{20}")
    monkeypatch.setattr(token_automaton, "MOST_EDGES", 10)
    with pytest.raises(UsageError, match="regex is too large for this vocabulary"):
        lifted("[ab]{0,9}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit what they can")
def test_programs_have_limits_of_memory_and_of_time(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import resource, sys\nassert __name__ == '__main__' and sys.stdin.read() == 'given'\n"
        "print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU))\nbytearray(3 << 30)"
    )
    status, written, said = byte_automaton.in_a_program(program, b"given", ("it",), Patience())
    assert written.split(b"\n")[0] == b"(2147483648, 2147483648) (20, 20)"
    assert status == 1 and said.strip().endswith(b"MemoryError")


def test_a_missing_library_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs package 'outlines-core'; pip install .*\[structure\]"):
        compile_regex("a")


def test_ids_lead_where_their_bytes_do() -> None:
    automaton = lifted("(ab|é)*b?")
    for state in range(automaton.dead):
        edges = slice(automaton.row[state], automaton.row[state + 1])
        found = dict(zip(automaton.target[edges].tolist(), automaton.id[edges].tolist(), strict=True))
        naive: dict[int, int] = {}
        for token, piece in enumerate(PIECES):
            to = automaton.automaton.after(piece, state) if piece else automaton.dead
            if to != automaton.dead:
                naive.setdefault(to, token)  # the lowest id
        assert found == naive
    number, source, target = automaton.moves([*range(len(PIECES)), -1, 99])
    moves = {(int(n), int(s)): int(t) for n, s, t in zip(number, source, target, strict=True)}
    assert moves == {
        (token, state): automaton.step(state, token)
        for token in range(len(PIECES))
        for state in range(automaton.dead)
        if automaton.step(state, token) != automaton.dead
    }


def test_the_first_id_may_write_something_else() -> None:
    first = tuple(b"a" if piece == b" a" else piece for piece in PIECES)
    automaton = lifted("a( a)*", PIECES, first)
    assert automaton.accepting[automaton.after([14, 14])] and not automaton.accepting[automaton.after([3, 3])]
    assert automaton.after([]) == automaton.begin and automaton.after([13, 3]) == automaton.dead
    path, _ = likeliest(automaton, scores(np.random.default_rng(0), 4), Canvas(**at(automaton, room=4)))
    assert automaton.accepting[automaton.after(answer(path))]


@pytest.mark.parametrize(("regex", "least"), [("a{7}", 3), ("é", 1), ("(ab){3}|b", 1), ("", 0), ("z", NEVER)])
def test_distances_count_ids(regex: str, least: int) -> None:
    automaton = lifted(regex)
    assert automaton.distance[automaton.begin] == least


def scores(rng: np.random.Generator, n: int, k: int = 5, spread: float = 3.0) -> Scores:
    ids = np.stack([rng.permutation(len(PIECES))[:k] for _ in range(n)])
    log_probs = -np.sort(rng.exponential(spread, (n, k))) - 1.7
    return Scores.of(ids, log_probs.astype(np.float32), len(PIECES))


def at(automaton: TokenAutomaton, *, room: int, after: int = 0, state: int | None = None) -> dict[str, object]:
    return {
        "state": automaton.begin if state is None else state,
        "room": room,
        "after": after,
        "stops": (STOP, OTHER_STOP),
        "pad": PAD,
    }


def answer(path: np.ndarray) -> list[int]:
    ids = path.tolist()
    return ids[: next((i for i, token in enumerate(ids) if token in (STOP, OTHER_STOP)), len(ids))]


def naive(automaton: TokenAutomaton, given: Scores, room: int, after: int) -> float:
    """The best sum over all canvases there are."""
    n = len(given.ids)

    def score(i: int, token: int) -> float:
        here = np.flatnonzero(given.ids[i] == token)
        return float(given.log_probs[i, here[0]]) if len(here) else float(given.floor[i])

    best = -np.inf
    for length in range(min(room, n) + 1):
        for ids in itertools.product(range(3, len(PIECES)), repeat=length):
            state = automaton.after(ids)
            ends = length < n and bool(automaton.accepting[state])
            goes_on = length == n and automaton.distance[state] <= after
            if not ends and not goes_on:
                continue
            total = sum(score(i, token) for i, token in enumerate(ids))
            if ends:
                total += max(score(length, STOP), score(length, OTHER_STOP))
                total += sum(max(score(i, t) for t in (PAD, STOP, OTHER_STOP)) for i in range(length + 1, n))
            best = max(best, total)
    return best


@pytest.mark.parametrize(("room", "after"), [(3, 0), (3, 2), (2, 0)])
@pytest.mark.parametrize("regex", ["a*", "(ab|é){1,2}", "a{5}|1", '"[^"]*"?'])
def test_the_path_is_the_best_of_all_paths(regex: str, room: int, after: int) -> None:
    automaton, rng = lifted(regex), np.random.default_rng(len(regex) + room)
    for _ in range(3):
        given_scores = scores(rng, 3)
        expected = naive(automaton, given_scores, room, after)
        path, total = likeliest(automaton, given_scores, Canvas(**at(automaton, room=room, after=after)))
        assert total == pytest.approx(expected)
        ids = answer(path)
        state = automaton.after(ids)
        assert automaton.accepting[state] if len(ids) < 3 else automaton.distance[state] <= after


def test_a_worse_path_is_told_from_the_best() -> None:
    """The comparison above fails for a path that is not the best."""
    automaton, given_scores = lifted("a*"), scores(np.random.default_rng(1), 3)
    best = naive(automaton, given_scores, 3, 0)
    shuffled = Scores(ids=given_scores.ids[::-1], log_probs=given_scores.log_probs, floor=given_scores.floor)
    assert likeliest(automaton, shuffled, Canvas(**at(automaton, room=3)))[1] != pytest.approx(best)


def test_ties_go_to_the_lowest_id() -> None:
    automaton = lifted("a|b|1")
    even = Scores(ids=np.full((2, 1), -1), log_probs=np.zeros((2, 1)), floor=np.full(2, -3.0))
    assert likeliest(automaton, even, Canvas(**at(automaton, room=2)))[0].tolist() == [3, STOP]
    one = Scores(ids=np.array([[11], [-1]]), log_probs=np.full((2, 1), -3.0), floor=np.full(2, -3.0))
    assert likeliest(automaton, one, Canvas(**at(automaton, room=2)))[0].tolist() == [3, STOP]


def test_pinned_ids_stay() -> None:
    automaton, rng = lifted("(a|b){4}"), np.random.default_rng(3)
    free = scores(rng, 6)
    path, _ = likeliest(automaton, free, Canvas(**at(automaton, room=6)))
    other = scores(rng, 6).pinned(np.array([True, False] * 3), path)
    again, _ = likeliest(automaton, other, Canvas(**at(automaton, room=6)))
    assert again[::2].tolist() == path[::2].tolist() and automaton.accepting[automaton.after(answer(again))]


def test_a_canvas_without_an_answer_is_an_error() -> None:
    automaton = lifted("a{9}")
    with pytest.raises(EngineError, match="no canvas leaves the answer"):
        likeliest(automaton, scores(np.random.default_rng(0), 2), Canvas(**at(automaton, room=2)))


def test_a_floor_is_below_every_candidate() -> None:
    log_probs = np.log(np.array([[0.5, 0.25], [0.9, 0.1 - 1e-9], [1.0, 0.0]], np.float64) + 1e-300).astype(np.float32)
    found = Scores.of(np.zeros((3, 2), np.int64), log_probs, 12)
    assert found.floor[0] == pytest.approx(np.log(0.25 / 10)) and np.isfinite(found.floor).all()
    assert (found.floor <= found.log_probs.min(1)).all()
    cold = Scores.of(np.zeros((1, 2), np.int64), np.array([[0.0, -np.inf]], np.float32), 12)
    assert np.isfinite(cold.floor).all() and np.isfinite(cold.log_probs).all()


CHARACTERS = 'ab1é😀 "\\'
LITERALS = st.sampled_from([re.escape(c) for c in CHARACTERS] + ["[ab]", "[^a]", '[^"\\\\]', ".", "[a-c1]", "\\d"])
REGEXES = st.recursive(
    LITERALS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "*?"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(regex=REGEXES, seed=st.integers(0, 1000))
def test_random_languages_give_answers_that_python_matches(regex: str, seed: int) -> None:
    pieces = (*PIECES, *(bytes([byte]) for byte in range(256)))
    automaton, rng = lifted(regex, pieces), np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    canvas = Canvas(**at(automaton, room=n))
    ids = np.stack([rng.permutation(len(pieces))[:8] for _ in range(n)])
    given_scores = Scores.of(ids, -np.sort(rng.exponential(3, (n, 8))).astype(np.float32) - 2, len(pieces))
    if automaton.distance[automaton.begin] > n:
        with pytest.raises(EngineError):
            likeliest(automaton, given_scores, canvas)
        return
    path, _ = likeliest(automaton, given_scores, canvas)
    text = b"".join(pieces[token] for token in answer(path)).decode()
    assert re.fullmatch(regex, text), (regex, text)
