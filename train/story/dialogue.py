"""Dialogues: an invented person who stays the same for ten turns, and questions about a story that was told before."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from dgemma.train.story import world
from dgemma.train.story.grammar import Draw, Facts, Read, Request, Teller, story, words

MOST_TURNS = 10


@dataclass(frozen=True)
class Persona:
    """Who the model said that it is, and who it speaks with."""

    name: str
    role: str
    home: str
    likes: str
    user: str


def hello(user: str) -> str:
    return f"Hello, I am {user}. Who are you?"


def introduction(tell: Teller, user: str) -> Persona:
    """The answer to `hello`."""
    tell.say("Hello")
    tell.say(user, "prompt")
    tell.say(", I am")
    name = tell.pick(world.HEROES, "person")
    tell.say(", a")
    role = tell.pick(world.ROLES)
    tell.say("from the")
    home = tell.pick(world.INSIDE)
    tell.say(", and I like the")
    likes = tell.pick(world.THINGS)
    tell.say(".")
    return Persona(name, role, home, likes, user)


def _fact(before: str, of: Callable[[Persona], str]) -> Callable[[Teller, Persona], None]:
    def answer(tell: Teller, persona: Persona) -> None:
        tell.say(before)
        tell.say(of(persona), "persona")
        tell.say(".")

    return answer


def _day(tell: Teller, _: Persona) -> None:
    """Free: others than who speak here, and not at home."""
    tell.say("I")
    tell.pick(world.MANNERS)
    tell.pick(world.GOES)
    tell.say("to the")
    tell.pick(world.OUTSIDE, "place")
    tell.say("and met")
    tell.pick(world.OTHERS[1] + world.OTHERS[2], "person")
    tell.say(".")


QUESTIONS: dict[str, Callable[[Teller, Persona], None]] = {
    "What is your name?": _fact("My name is", lambda p: p.name),
    "Where do you live?": _fact("I live in the", lambda p: p.home),
    "What do you like?": _fact("I like the", lambda p: p.likes),
    "What is your work?": _fact("I am a", lambda p: p.role),
    "Who am I?": _fact("You are", lambda p: p.user),
    "What did you do today?": _day,
}


def about(facts: Facts) -> dict[str, str]:
    """Questions about a story, and their only answers."""
    return {
        f"Who has the {facts.thing}?": f"Now {facts.holder} has the {facts.look} {facts.thing}.",
        f"Where is the {facts.thing}?": f"The {facts.look} {facts.thing} is in the {facts.place}.",
        "Who is the story about?": f"The story is about {facts.hero}.",
    }


Messages = list[dict[str, str]]


def turn(user: str, model: str) -> Messages:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": model}]


def draw_story(rng: random.Random, *, questions: int = 0) -> Messages:
    """A story, and questions about it."""
    request, tell = Request.draw(rng), Draw(rng)
    facts = story(tell, request)
    messages = turn(request.prompt, tell.text)
    for question, answer in rng.sample(sorted(about(facts).items()), questions):
        messages += turn(question, answer)
    return messages


def draw_dialogue(rng: random.Random, turns: int) -> Messages:
    """An introduction and `turns − 1` questions about what it said."""
    user, tell = rng.choice(world.OTHERS[0]), Draw(rng)
    persona = introduction(tell, user)
    messages = turn(hello(user), tell.text)
    for _ in range(turns - 1):
        question, tell = rng.choice(sorted(QUESTIONS)), Draw(rng)
        QUESTIONS[question](tell, persona)
        messages += turn(question, tell.text)
    return messages


def read(messages: Messages) -> float:
    """The log-likelihood of all answers of a conversation, in nats.

    Raises:
        Broken: at the first word that the grammar does not have there.
        ValueError: for a question that it does not know.
    """
    persona, facts, total = None, None, 0.0
    for asked, answered in zip(messages[::2], messages[1::2], strict=True):
        prompt, tell = asked["content"], Read(words(answered["content"]))
        request, greeting = Request.read(prompt), re.fullmatch(r"Hello, I am (\w+)\. Who are you\?", prompt)
        if request is not None:
            facts = story(tell, request)
        elif greeting:
            persona = introduction(tell, greeting[1])
        elif persona is not None and prompt in QUESTIONS:
            QUESTIONS[prompt](tell, persona)
        elif facts is not None and prompt in about(facts):
            tell.say(about(facts)[prompt], "thing")
        else:
            raise ValueError(f"the grammar knows no answer to {prompt!r} here")
        tell.finish()
        total += tell.log_likelihood
    return total
