"""The grammar: what is told, as programs over a `Teller` that decides, or is told, how every choice falls.

A program says words and picks among them, each as likely as the others. Drawing, reading and enumerating texts are three
tellers of one program, so that they cannot disagree. Texts are words; `words` and `join` go between them and strings.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dgemma.train.story import world
from dgemma.train.story.world import pronoun

MOST_LEGS = 3
RULES = ("form", "prompt", "person", "pronoun", "place", "thing", "possession", "persona", "end")


class Teller(Protocol):
    """Takes a program through one text."""

    def say(self, text: str, rule: str = "form") -> None:
        """The next words are these; `rule` is what is broken where they are not."""

    def pick(self, options: Sequence[str], rule: str = "form") -> str:
        """The next word is one of these, each as likely."""


def words(text: str) -> list[str]:
    """Words and marks of a text: its tokens, but for the spaces that they begin with."""
    return re.findall(r"[^\s.,?]+|[.,?]|\n", text)


def join(parts: Sequence[str]) -> str:
    """The inverse of `words`."""
    return re.sub(r" ([.,?])", r"\1", " ".join(parts))


@dataclass
class Draw:
    """Draws a text; `log_likelihood` is its own, in nats."""

    rng: random.Random
    said: list[str] = field(default_factory=list)
    log_likelihood: float = 0.0

    def say(self, text: str, rule: str = "form") -> None:
        self.said += words(text)

    def pick(self, options: Sequence[str], rule: str = "form") -> str:
        choice = self.rng.choice(options)
        self.said.append(choice)
        self.log_likelihood -= math.log(len(options))
        return choice

    @property
    def text(self) -> str:
        return join(self.said)


class Broken(Exception):
    """A text is not one of the grammar's: the rule that its word number `at` breaks first, and what stands there."""

    def __init__(self, rule: str, at: int, found: str, wanted: Sequence[str]) -> None:
        few = " or ".join(wanted[:4]) + (" …" if len(wanted) > 4 else "")
        super().__init__(f"word {at + 1}: {found or 'the end'}, where the rule {rule!r} wants {few}")
        self.rule, self.at = rule, at


@dataclass
class Read:
    """Follows a text that is given, and adds up its log-likelihood; raises Broken at the first word that cannot stand there."""

    given: list[str]
    at: int = 0
    log_likelihood: float = 0.0

    def say(self, text: str, rule: str = "form") -> None:
        for word in words(text):
            self._take((word,), rule)

    def pick(self, options: Sequence[str], rule: str = "form") -> str:
        choice = self._take(options, rule)
        self.log_likelihood -= math.log(len(options))
        return choice

    def finish(self) -> None:
        """Nothing may follow."""
        if self.at < len(self.given):
            raise Broken("end", self.at, self.given[self.at], ("the end",))

    def _take(self, options: Sequence[str], rule: str) -> str:
        found = self.given[self.at] if self.at < len(self.given) else ""
        if found not in options:
            raise Broken(rule if found else "end", self.at, found, options)
        self.at += 1
        return found


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a prompt asks of a story; None leaves the choice to the teller. `legs`: how often the thing is carried on."""

    hero: str | None = None
    thing: str | None = None
    legs: int | None = None

    @property
    def prompt(self) -> str:
        size = {None: "", 1: " short", MOST_LEGS: " long"}[self.legs]
        about = [self.hero, f"a {self.thing}"] if self.thing else [self.hero]
        named = " and ".join(part for part in about if part)
        return f"Tell a{size} story" + (f" about {named}." if named else ".")

    @staticmethod
    def draw(rng: random.Random) -> Request:
        hero = rng.choice(world.HEROES) if rng.random() < 0.5 else None
        thing = rng.choice(world.THINGS) if rng.random() < 0.5 else None
        return Request(hero=hero, thing=thing, legs=rng.choice((None, None, 1, MOST_LEGS)))

    @staticmethod
    def read(prompt: str) -> Request | None:
        """What a prompt asks for; None where it asks for no story."""
        found = re.fullmatch(r"Tell a( short| long)? story(?: about (?:([A-Z]\w+)(?: and a (\w+))?|a (\w+)))?\.", prompt)
        if not found:
            return None
        legs = {None: None, " short": 1, " long": MOST_LEGS}[found[1]]
        return Request(hero=found[2], thing=found[3] or found[4], legs=legs)


@dataclass(frozen=True)
class Facts:
    """What a story leaves behind, for questions about it."""

    hero: str
    thing: str
    look: str
    holder: str
    place: str


def pick_or(tell: Teller, asked: str | None, options: Sequence[str]) -> str:
    """The word that the prompt asks for, or any."""
    if asked is None:
        return tell.pick(options)
    tell.say(asked, "prompt")
    return asked


def story(tell: Teller, request: Request) -> Facts:
    """Somebody gets a thing somewhere and carries it on; whoever has it goes on; the last sentence says who has it where."""
    tell.pick(world.TIMES)
    tell.say(", a")
    tell.pick(world.ROLES)
    tell.say("called")
    hero = pick_or(tell, request.hero, world.HEROES)
    tell.say("was in the")
    place = tell.pick(world.PLACES)
    tell.say(".")
    tell.say(pronoun(hero).capitalize(), "pronoun")
    tell.pick(world.GETS)
    tell.say("a")
    look = tell.pick(world.LOOKS)
    thing = pick_or(tell, request.thing, world.THINGS)
    tell.say("there .")
    holder = hero
    for leg in range(1, MOST_LEGS + 1):
        if leg == 1 or request.legs == MOST_LEGS:
            tell.say("Then", "form" if leg == 1 else "prompt")
        elif request.legs == 1:
            break
        elif tell.pick(("Then", "Now")) == "Now":
            return _closing(tell, Facts(hero, thing, look, holder, place))
        holder, place = _leg(tell, holder, world.OTHERS[leg - 1], place, f"{look} {thing}")
    tell.say("Now", "prompt" if request.legs else "form")
    return _closing(tell, Facts(hero, thing, look, holder, place))


def _leg(tell: Teller, holder: str, others: Sequence[str], place: str, thing: str) -> tuple[str, str]:
    """Who has the thing goes elsewhere, meets one of the others and passes it on or shows it; (who has it then, where)."""
    tell.say(pronoun(holder), "pronoun")
    tell.pick(world.MANNERS)
    tell.pick(world.GOES)
    tell.say("to the")
    place = tell.pick(world.elsewhere(place), "place")
    tell.say("and met")
    other = tell.pick(others, "person")
    tell.say(".")
    tell.say(holder, "possession")
    passed = tell.pick(world.PASSES)
    tell.say(other, "person")
    tell.say("the")
    tell.say(thing, "thing")
    tell.say(".")
    tell.say(pronoun(other).capitalize(), "pronoun")
    tell.pick(world.CRIES)
    tell.pick(world.WAYS)
    tell.say("and felt")
    tell.pick(world.FEELINGS)
    tell.say(".")
    return (other if passed in world.GIVES else holder), place


def _closing(tell: Teller, facts: Facts) -> Facts:
    tell.say(facts.holder, "possession")
    tell.say("has the")
    tell.say(f"{facts.look} {facts.thing}", "thing")
    tell.say("in the")
    tell.say(facts.place, "place")
    tell.say(".")
    return facts


def every(program: Request) -> Iterator[tuple[str, float]]:
    """All stories of a request and their log-likelihoods; for worlds made small enough to count."""
    pending: list[list[int]] = [[]]
    while pending:
        tell = _Replay(pending.pop())
        story(tell, program)
        pending += tell.others
        yield join(tell.said), tell.log_likelihood


@dataclass
class _Replay:
    """Takes the given branches, then always the first; `others` are the branches that it passed by."""

    path: list[int]
    said: list[str] = field(default_factory=list)
    others: list[list[int]] = field(default_factory=list)
    log_likelihood: float = 0.0
    taken: list[int] = field(default_factory=list)

    def say(self, text: str, rule: str = "form") -> None:
        self.said += words(text)

    def pick(self, options: Sequence[str], rule: str = "form") -> str:
        depth = len(self.taken)
        branch = self.path[depth] if depth < len(self.path) else 0
        if depth >= len(self.path):
            self.others += [[*self.taken, i] for i in range(1, len(options))]
        self.taken.append(branch)
        self.said.append(options[branch])
        self.log_likelihood -= math.log(len(options))
        return options[branch]
