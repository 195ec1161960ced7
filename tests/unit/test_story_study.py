"""The study of stories, asked of the grammar itself instead of a model: all is valid, and what is broken is counted."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dgemma.benchmarks.studies import story as study
from dgemma.benchmarks.studies import story_account, story_quantized, story_table
from dgemma.benchmarks.studies.tables import read
from dgemma.train.rollout import Canvas, Generated
from dgemma.train.story import dialogue
from dgemma.train.story.grammar import Draw, Read, Request, story, words


class Said:
    """Stands in for the tokenizer: a conversation is one id, and so is an answer."""

    def __init__(self) -> None:
        self.asked: list[dialogue.Messages] = []
        self.texts: list[str] = []

    def ids(self, messages: dialogue.Messages) -> list[int]:
        self.asked.append(messages)
        return [len(self.asked) - 1]

    def decode(self, tokens: Sequence[int]) -> str:
        return self.texts[tokens[0]]


class Grammar:
    """Answers as the grammar does; `spoil` changes an answer."""

    def __init__(self, said: Said, old: str = "", new: str = "") -> None:
        self.said, self.old, self.new = said, old, new

    def __call__(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Generated]:
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            messages, tell = self.said.asked[prompt[0]], Draw(random.Random(seed))
            asked = messages[-1]["content"]
            if (request := Request.read(asked)) is not None:
                story(tell, request)
            elif asked.startswith("Hello"):
                dialogue.introduction(tell, words(asked)[4])
            else:
                persona = dialogue.introduction(Read(words(messages[1]["content"])), words(messages[0]["content"])[4])
                dialogue.QUESTIONS[asked](tell, persona)
            self.said.texts.append(tell.text.replace(self.old, self.new) if self.old else tell.text)
            found.append(Generated([len(self.said.texts) - 1], [Canvas((), (), (), 7)], stopped=True))
        return found


def test_the_grammars_own_stories_are_valid_and_spread() -> None:
    said = Said()
    found = study.told(Grammar(said), said, study.requests(300), 32)
    assert found["valid"]["value"] == found["coherent"]["value"] == found["distinct"] == 1.0
    assert found["spread"] > 0.97 and found["steps_per_canvas"] == 7 and not found["broken"]
    assert -60 < found["nats_per_story"] < -30


def test_what_is_broken_is_counted_where_it_is() -> None:
    said = Said()
    first = study.told(Grammar(said, " there.", " here."), said, study.requests(20), 32)
    assert first["valid"]["value"] == 0 and first["broken"] == {"form": 20} and first["coherent"]["high"] == 1.0
    later = study.told(Grammar(said, "Now ", "Now Nobody "), said, study.requests(20), 32)
    assert later["valid"]["value"] == later["coherent"]["value"] == 0 and later["broken"] == {"possession": 20}
    same = study.told(lambda prompts, seeds: Grammar(said)(prompts, [0] * len(seeds)), said, [Request()] * 20, 32)
    assert same["distinct"] == 1 / 20 and same["spread"] == 0


def test_personas_are_followed_to_the_tenth_turn() -> None:
    said = Said()
    kept = study.personas(Grammar(said), said, 8)
    assert kept["kept"]["value"] == 1.0 and kept["kept_by_turn"] == [1.0] * 10
    lost = study.personas(Grammar(said, "I live in the", "I stay in the"), said, 8)
    assert lost["kept_by_turn"][0] == 1.0 and lost["kept"]["value"] < 1


@pytest.mark.parametrize(("valid", "spread", "verdict"), [(0.97, 0.98, "met"), (0.9, 0.98, "missed"), (0.97, 0.8, "missed")])
def test_a_distilled_checkpoint_is_judged_by_its_teachers_best(valid: float, spread: float, verdict: str) -> None:
    def row(share: float, steps: float, varied: float = 1.0) -> dict[str, Any]:
        return {"valid": {"value": share}, "steps_per_canvas": steps, "spread": varied}

    teacher = {"by_steps": {"4": row(0.4, 3.8), "12": row(0.985, 9.2), "48": row(0.975, 10.0)}}
    student = {"sampler": {"steps": 4}, "by_steps": {"4": row(valid, 2.9, spread), "12": row(0.99, 5.0)}}
    said = story_table._distilled(student, teacher)
    assert f"takes 2.9 steps per canvas, and {100 * valid:.1f} %" in said and f"The goal is {verdict}" in said.replace("*", "")
    assert "40.0 % with that T, and 98.5 % at its best" in said


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    said = Said()
    row = study.told(Grammar(said), said, study.requests(4), 32)
    one = {"by_steps": {"1": row, "4": row}, "autoregressive": {"1.0": row, "0.6": row}}
    story_table.draw({"checkpoints": {"story": one}}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(row)


def test_the_account_is_what_plan_says_for_both_numbers_of_steps(tmp_path: Path) -> None:
    few, many = story_account.steps()
    assert 1 < few < 4 < many < 16
    assert story_account.main(["--out", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["models"]
    assert found == read(story_table.ACCOUNT)["models"]  # the committed one is that of today's plan
    for p in (one for rows in found.values() for one in rows):
        slow, fast = p["diffusion_tokens_per_s"]
        wins = {few: fast > p["autoregressive_tokens_per_s"], many: slow > p["autoregressive_tokens_per_s"]}
        assert p["fits"] and all(won == (p["break_even_steps"] > steps) for steps, won in wins.items())


def grammars(asked: Sequence[Request]) -> list[story_quantized.Told]:
    found = []
    for seed, request in enumerate(asked):
        tell = Draw(random.Random(seed))
        story(tell, request)
        found.append(story_quantized.Told(tell.text, 10))
    return found


@pytest.mark.parametrize(
    ("recipe", "spoiled", "steps", "passed"),
    [("w8", 1, 10, True), ("w8", 2, 10, False), ("w4-mixed", 4, 10, True), ("w4-mixed", 5, 10, False), ("w8", 0, 11, False)],
)
def test_a_bundles_stories_are_judged_by_the_limits_of_its_recipe(recipe: str, spoiled: int, steps: int, passed: bool) -> None:
    asked = study.requests(200)
    there = grammars(asked)
    here = [story_quantized.Told(f"{one.text} No." if i < spoiled else one.text, steps) for i, one in enumerate(there)]
    found = story_quantized.compared(recipe, there, here, asked)
    assert found["valid"]["float"]["value"] == 1.0 and found["lost"]["value"] == pytest.approx(spoiled / 200)
    assert found["same_text"] == pytest.approx(1 - spoiled / 200) and found["step_inflation"]["value"] == steps / 10
    assert found["passed"] is passed
    json.dumps(found)
