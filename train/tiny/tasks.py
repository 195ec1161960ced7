"""The tiny model's world: tasks with one right answer each, phrased in English in several ways.

Operands are held out, not only prompts: a word, number, grid or set of slots whose hash falls into the test part never
occurs in training, in any task and in any order. Nothing here knows of tokens or models.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
TEST_SHARE = 16  # one operand in 16 is held out


@dataclass(frozen=True, kw_only=True)
class Example:
    """One exercise: the user's prompt and its only right answer."""

    task: str
    prompt: str
    answer: str


def split_of(operand: str) -> Split:
    """Which part an operand belongs to; operands must be canonical (sorted where order does not matter)."""
    return "test" if hashlib.sha256(operand.encode()).digest()[0] % TEST_SHARE == 0 else "train"


NAMES = ("Anna Ben Carla David Emma Felix Grace Hugo Ivy Jonas Karin Leo Maria Nina Oscar Paula Rosa Simon Tina Victor").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
PLACES = "library garden station harbour museum kitchen office school market theatre".split()
EVENTS = "party concert meeting picnic lecture dinner workshop game wedding parade".split()
ITEMS = "cake bread lamp book chair guitar camera blanket ladder map".split()
COLOURS = "red blue green yellow black white purple orange".split()
CITIES = "Berlin Cairo Lima Oslo Paris Quito Rome Tokyo Vienna Zurich".split()

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_to_words(n: int) -> str:
    """0 … 999,999 in British English."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10] + (f" {_ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{_ONES[n // 100]} hundred" + (f" and {number_to_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    joint = " and " if 0 < rest < 100 else " "
    return f"{number_to_words(n // 1000)} thousand" + (joint + number_to_words(rest) if rest else "")


class Source:
    """Draws operands of one split."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng, self.split = rng, split

    def accept(self, draw: Callable[[], tuple[str, object]]) -> object:
        while True:
            operand, value = draw()
            if split_of(operand) == self.split:
                return value

    def word(self, low: int = 3, high: int = 8) -> str:
        """A pronounceable made-up word."""

        def draw() -> tuple[str, object]:
            length, letters = self.rng.randint(low, high), ""
            vowel = self.rng.random() < 0.4
            while len(letters) < length:
                letters += self.rng.choice("aeiou" if vowel else "bcdfghjklmnprstvwyz")
                vowel = not vowel if self.rng.random() < 0.85 else vowel
            return letters, letters

        return str(self.accept(draw))

    def number(self, low: int, high: int) -> int:
        def draw() -> tuple[str, object]:
            digits = self.rng.randint(len(str(low)), len(str(high)))
            n = self.rng.randint(max(low, 10 ** (digits - 1) if digits > 1 else 0), min(high, 10**digits - 1))
            return f"number {n}", n

        return int(str(self.accept(draw)))

    def pair(self, high: int) -> tuple[int, int]:
        """Two summands; the pair is held out in both orders."""

        def draw() -> tuple[str, object]:
            a, b = self.rng.randint(0, high), self.rng.randint(0, high)
            return f"sum {min(a, b)} {max(a, b)}", (a, b)

        return self.accept(draw)  # type: ignore[return-value]

    def slots(self, *pools: list[str]) -> list[str]:
        def draw() -> tuple[str, object]:
            chosen = [self.rng.choice(pool) for pool in pools]
            return "slots " + " ".join(sorted(chosen)), chosen

        return self.accept(draw)  # type: ignore[return-value]

    def names(self, count: int) -> list[str]:
        def draw() -> tuple[str, object]:
            chosen = self.rng.sample(NAMES, count)
            return "names " + " ".join(sorted(chosen)), chosen

        return self.accept(draw)  # type: ignore[return-value]

    def say(self, *phrasings: str) -> str:
        return self.rng.choice(phrasings)


Pair = tuple[str, str]  # prompt, answer


def reverse(s: Source) -> Pair:
    w = s.word()
    return s.say(f"Reverse the word {w}.", f"Write {w} backwards.", f"What is {w} read from the end?"), w[::-1]


def number_words(s: Source) -> Pair:
    n = s.number(0, 999_999)
    return s.say(f"Write {n} in words.", f"Spell the number {n}.", f"How do you say {n}?"), number_to_words(n)


def upper(s: Source) -> Pair:
    w = " ".join(s.word() for _ in range(s.rng.randint(1, 3)))
    return s.say(f"Write {w} in capital letters.", f"Put {w} in upper case.", f"Capitals, please: {w}"), w.upper()


def spell(s: Source) -> Pair:
    w = s.word(4, 9)
    return s.say(f"Spell {w}.", f"Spell out the word {w}.", f"Which letters are in {w}?"), "-".join(w)


def sort_letters(s: Source) -> Pair:
    w = s.word(3, 7)
    return (
        s.say(f"Sort the letters of {w}.", f"Put the letters of {w} in order.", f"Letters of {w} from a to z?"),
        "".join(sorted(w)),
    )


def next_letters(s: Source) -> Pair:
    w = s.word()
    shifted = "".join(chr((ord(c) - 96) % 26 + 97) for c in w)
    return s.say(f"Replace each letter of {w} by the next one.", f"Shift the letters of {w} by one."), shifted


def template(s: Source) -> Pair:
    name, item, colour, city = s.slots(NAMES, ITEMS, COLOURS, CITIES)
    return (
        s.say(
            f"Make a sentence: name {name}, item {item}, colour {colour}, city {city}.",
            f"Say who bought what. {name}; {colour} {item}; {city}.",
        ),
        f"{name} bought a {colour} {item} in {city}.",
    )


def _record(name: str, city: str, age: int) -> str:
    return f'{{"name": "{name}", "city": "{city}", "age": {age}}}'


def to_json(s: Source) -> Pair:
    (name, city), age = s.slots(NAMES, CITIES), s.number(1, 99)
    return s.say(f"As JSON: {name} from {city}, age {age}.", f"Give {name}, {city}, {age} as JSON."), _record(name, city, age)


def add(s: Source) -> Pair:
    a, b = s.pair(s.rng.choice([99, 999]))
    return s.say(f"What is {a} + {b}?", f"Add {a} and {b}.", f"{a} plus {b}?"), str(a + b)


def sort_numbers(s: Source) -> Pair:
    def draw() -> tuple[str, object]:
        chosen = [s.rng.randint(10, 99) for _ in range(s.rng.randint(3, 6))]
        return "sorted " + " ".join(map(str, sorted(chosen))), chosen

    numbers: list[int] = s.accept(draw)  # type: ignore[assignment]
    text = " ".join(map(str, numbers))
    return s.say(f"Sort the numbers {text}.", f"Put {text} in order."), " ".join(map(str, sorted(numbers)))


def _sudoku_grid(rng: random.Random) -> list[int]:
    rows = [[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]]
    if rng.random() < 0.5:
        rows = [[0, 1, 2, 3], [2, 3, 0, 1], [1, 2, 3, 0], [3, 0, 1, 2]]
    for band in (0, 2):
        if rng.random() < 0.5:
            rows[band], rows[band + 1] = rows[band + 1], rows[band]
    if rng.random() < 0.5:
        rows = rows[2:] + rows[:2]
    if rng.random() < 0.5:
        rows = [list(column) for column in zip(*rows, strict=True)]
    digits = rng.sample("1234", 4)
    return [int(digits[cell]) for row in rows for cell in row]


def _sudoku_solutions(cells: list[int]) -> list[list[int]]:
    if 0 not in cells:
        return [cells]
    i, found = cells.index(0), []
    r, c = divmod(i, 4)
    for digit in range(1, 5):
        clash = any(
            cells[j] == digit and (j // 4 == r or j % 4 == c or (j // 8 == r // 2 and j % 4 // 2 == c // 2)) for j in range(16)
        )
        if not clash:
            found += _sudoku_solutions([*cells[:i], digit, *cells[i + 1 :]])
            if len(found) > 1:
                break
    return found


def sudoku(s: Source) -> Pair:
    """4 × 4 with one solution; solved grids are held out, whatever cells are hidden."""

    def draw() -> tuple[str, object]:
        grid = _sudoku_grid(s.rng)
        return "sudoku " + "".join(map(str, grid)), grid

    grid: list[int] = s.accept(draw)  # type: ignore[assignment]
    cells = list(grid)
    for i in s.rng.sample(range(16), s.rng.randint(4, 9)):
        cells[i] = 0
        if len(_sudoku_solutions(cells)) > 1:
            cells[i] = grid[i]
    lines = [cells[i : i + 4] for i in range(0, 16, 4)]
    text = " ".join("".join(str(c) if c else "." for c in line) for line in lines)
    answer = " ".join("".join(map(str, grid[i : i + 4])) for i in range(0, 16, 4))
    return s.say(f"Solve the sudoku {text}", f"Fill the grid {text}"), answer


def letter(s: Source) -> Pair:
    """Fills a canvas."""
    (guest, host, event), (place, day, item) = s.slots(NAMES, NAMES, EVENTS), s.slots(PLACES, DAYS, ITEMS)
    hour = s.rng.randint(1, 11)
    return (
        s.say(
            f"Write a letter to {guest} from {host}: {event}, {place}, {day}, {hour}, {item}.",
            f"Invite {guest} to the {event} in the {place} on {day} at {hour}. Ask for the {item}. Sign as {host}.",
        ),
        f"Dear {guest}, you are welcome at the {event} in the {place} on {day} at {hour}. Please bring the {item} with you, "
        f"and tell me before {day} if you can not come. There will be food and music for everyone. Yours, {host}",
    )


def spell_list(s: Source) -> Pair:
    """Fills a canvas."""
    words = [s.word(4, 7)]
    while sum(2 * len(w) + 1 for w in words) < 49:
        words.append(s.word(4, 7))
    text = " ".join(words)
    return s.say(f"Spell the words {text}.", f"Spell each of {text}."), " ".join("-".join(w) for w in words)


def numbers_list(s: Source) -> Pair:
    """Fills most of a canvas."""
    numbers = [s.number(100, 999) for _ in range(9)]
    text = " ".join(map(str, numbers))
    return s.say(f"Write the numbers {text} in words.", f"In words: {text}"), ", ".join(number_to_words(n) for n in numbers)


def upper_list(s: Source) -> Pair:
    """Fills most of a canvas."""
    words = [s.word(3, 7)]
    while sum(len(w) + 1 for w in words) < 52:
        words.append(s.word(3, 7))
    text = " ".join(words)
    return s.say(f"Write {text} in capital letters.", f"Put {text} in upper case."), text.upper()


def invitations(s: Source) -> Pair:
    """Several canvases: one short letter for each guest."""
    guests, (event, place, day), hour = s.names(s.rng.randint(3, 5)), s.slots(EVENTS, PLACES, DAYS), s.rng.randint(1, 11)
    text = " ".join(guests)
    return (
        s.say(
            f"Invite each of {text} to the {event} in the {place} on {day} at {hour}.",
            f"Write to {text}: {event}, {place}, {day}, {hour}.",
        ),
        " ".join(
            f"Dear {guest}, please come to the {event} in the {place} on {day} at {hour}, and tell me before {day} if you can "
            f"not come."
            for guest in guests
        ),
    )


def spell_many(s: Source) -> Pair:
    """Several canvases."""
    words = [s.word(4, 7) for _ in range(s.rng.randint(8, 12))]
    text = " ".join(words)
    return s.say(f"Spell the words {text}.", f"Spell each of {text}."), " ".join("-".join(w) for w in words)


TASKS: dict[str, Callable[[Source], Pair]] = {
    f.__name__: f
    for f in (
        reverse,
        number_words,
        upper,
        spell,
        sort_letters,
        next_letters,
        template,
        to_json,
        add,
        sort_numbers,
        sudoku,
        letter,
        spell_list,
        numbers_list,
        upper_list,
        invitations,
        spell_many,
    )
}


def make(task: str, rng: random.Random, split: Split) -> Example:
    """One random example of a task from one split."""
    prompt, answer = TASKS[task](Source(rng, split))
    return Example(task=task, prompt=prompt, answer=answer)


def held_out(per_task: int, seed: int = 0) -> list[Example]:
    """The evaluation set: `per_task` different held-out prompts of every task, in a fixed order."""
    examples: list[Example] = []
    for task in TASKS:
        rng, seen = random.Random(f"{seed} {task}"), set[str]()
        while len(seen) < per_task:
            example = make(task, rng, "test")
            if example.prompt not in seen:
                seen.add(example.prompt)
                examples.append(example)
    return examples
