"""The grammar of the stories: what it draws it reads, every rule is caught when it is broken, and likelihoods sum to 1."""

from __future__ import annotations

import json
import math
import random

import pytest

from dgemma.train.story import data, dialogue, world
from dgemma.train.story.dialogue import Messages, draw_dialogue, draw_story, turn
from dgemma.train.story.grammar import Broken, Draw, Read, Request, every, join, story, words

ANY = Request()
STORY = (
    "Today, a baker called Mia was in the market. She won a red key there. "
    "Then she slowly ran to the mill and met Ben. Mia gave Ben the red key. He sang twice and felt glad. "
    "Then he quickly rode to the garden and met Otto. Ben showed Otto the red key. He smiled loudly and felt calm. "
    "Now Ben has the red key in the garden."
)
INTRODUCED = turn("Hello, I am Tom. Who are you?", "Hello Tom, I am Mia, a baker from the mill, and I like the key.")


def read(text: str, request: Request = ANY) -> float:
    tell = Read(words(text))
    story(tell, request)
    tell.finish()
    return tell.log_likelihood


def test_texts_go_through_words_and_back() -> None:
    assert join(words(STORY)) == STORY
    assert words("Hello Tom, who?") == ["Hello", "Tom", ",", "who", "?"]


def test_what_is_drawn_is_read_with_its_own_likelihood() -> None:
    rng = random.Random(1)
    for _ in range(100):
        request, tell = Request.draw(rng), Draw(rng)
        story(tell, request)
        assert Request.read(request.prompt) == request
        assert read(tell.text, request) == pytest.approx(tell.log_likelihood)
        dialogue.read(data.conversation(rng))


def test_a_storys_likelihood_is_that_of_its_choices() -> None:
    leg = 1 / (4 * 4 * 5 * 4 * 4 * 4 * 4 * 6)
    want = 1 / (4 * 8 * 4 * 10 * 4 * 8 * 12) * leg * (1 / 2) * leg * (1 / 2)
    assert read(STORY) == pytest.approx(math.log(want))
    assert read(STORY, Request(hero="Mia", thing="key")) == pytest.approx(math.log(want * 4 * 12))


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("form", "slowly ran to", "slowly to"),
        ("form", "a baker called", "a dragon called"),
        ("pronoun", "She won", "He won"),
        ("pronoun", "Then he quickly", "Then she quickly"),
        ("pronoun", "He sang twice and felt glad", "She sang twice and felt glad"),
        ("place", "to the mill", "to the harbour"),
        ("place", "Now Ben has the red key in the garden", "Now Ben has the red key in the mill"),
        ("person", "met Otto", "met Ben"),
        ("person", "showed Otto", "showed Mia"),
        ("thing", "Ben the red key", "Ben the blue key"),
        ("thing", "Ben has the red key", "Ben has the red cup"),
        ("possession", "Ben showed", "Mia showed"),
        ("possession", "Now Ben has", "Now Otto has"),
        ("end", "in the garden.", "in the garden"),
        ("end", "in the garden.", "in the garden. Then"),
    ],
)
def test_every_broken_rule_is_named(rule: str, old: str, new: str) -> None:
    assert STORY.count(old) == 1
    read(STORY)
    with pytest.raises(Broken) as caught:
        read(STORY.replace(old, new))
    assert caught.value.rule == rule


@pytest.mark.parametrize("asked", [Request(hero="Emma"), Request(thing="cup"), Request(legs=1), Request(legs=3)])
def test_a_story_that_is_not_what_the_prompt_asks_for_is_caught(asked: Request) -> None:
    with pytest.raises(Broken) as caught:
        read(STORY, asked)
    assert caught.value.rule in ("prompt", "form")


def test_likelihoods_of_a_small_world_sum_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMES", "ROLES", "GETS", "LOOKS", "THINGS", "MANNERS", "GOES", "CRIES", "WAYS", "FEELINGS"):
        monkeypatch.setattr(world, name, getattr(world, name)[:1])
    monkeypatch.setattr(world, "PLACES", ("mill", "market"))
    monkeypatch.setattr(world, "HEROES", ("Mia", "Leo"))
    monkeypatch.setattr(world, "OTHERS", (("Ben", "Lena"), ("Zoe",), ("Max",)))
    monkeypatch.setattr(world, "PASSES", ("gave", "showed"))
    for request in (Request(), Request(hero="Mia", legs=1)):
        found = dict(every(request))
        assert len(found) > 10 and sum(map(math.exp, found.values())) == pytest.approx(1.0)
        for text, likelihood in list(found.items())[:50]:
            assert read(text, request) == pytest.approx(likelihood)


@pytest.mark.parametrize(
    ("rule", "question", "answer"),
    [
        ("persona", "What is your name?", "My name is Emma."),
        ("persona", "Where do you live?", "I live in the tower."),
        ("persona", "What do you like?", "I like the cup."),
        ("persona", "What is your work?", "I am a miner."),
        ("persona", "Who am I?", "You are Mia."),
        ("place", "What did you do today?", "I slowly ran to the mill and met Otto."),
        ("person", "What did you do today?", "I slowly ran to the garden and met Mia."),
    ],
)
def test_a_persona_that_changes_is_caught(rule: str, question: str, answer: str) -> None:
    between = turn("What did you do today?", "I slowly ran to the garden and met Otto.")
    dialogue.read(INTRODUCED + between)
    with pytest.raises(Broken) as caught:
        dialogue.read(INTRODUCED + between + turn(question, answer))
    assert caught.value.rule == rule


def test_questions_about_a_story_have_one_answer() -> None:
    told = turn("Tell a story.", STORY)
    dialogue.read(told + turn("Who has the key?", "Now Ben has the red key."))
    with pytest.raises(Broken):
        dialogue.read(told + turn("Who has the key?", "Now Otto has the red key."))
    with pytest.raises(ValueError, match="knows no answer"):
        dialogue.read(told + turn("Who has the cup?", "Now Ben has the red cup."))


def test_the_writer_is_seeded_and_its_seeds_differ() -> None:
    first, again, other = data.lines(40, 3), data.lines(40, 3), data.lines(40, data.HELD_OUT_SEED)
    assert first == again and first != other
    conversations: list[Messages] = [json.loads(line)["messages"] for line in first.splitlines()]
    assert {len(c) // 2 for c in conversations} >= {1, 2}
    assert len(draw_dialogue(random.Random(0), 10)) == 20 and len(draw_story(random.Random(0), questions=2)) == 6
