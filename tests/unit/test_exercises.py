"""tiny's exercises as a source of rows: held-out operands never occur, solved tasks come less often, and states restore it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import micro
import pytest
from byte_chat import STOP, speak

from dgemma.model import causal
from dgemma.train import config as files
from dgemma.train.sources import GROUPS
from dgemma.train.tiny import causal as tiny_causal
from dgemma.train.tiny import conversations, tasks
from dgemma.train.tiny.source import Exercises

FOLDER = Path(__file__).parents[2] / "train" / "tiny"


def made(*, whole: bool = False) -> Exercises:
    return Exercises(speak, micro.CONFIG, 16, 3, whole=whole)


def test_rows_are_canvases_of_right_answers_and_depend_on_seed_and_step() -> None:
    source = made()
    rows = source.rows(5)
    assert len(rows) == 16 and rows == made().rows(5) != source.rows(6)
    assert all(1 <= len(row.canvas) <= micro.N and row.prefix[0] == 2 for row in rows)
    whole = [row for step in range(GROUPS) for row in made(whole=True).rows(step)]
    assert all(row.canvas[-1] == STOP and len(row.prefix) == row.prompt for row in whole)
    assert max(len(row.canvas) for row in whole) > micro.N


def test_operands_that_are_held_out_occur_only_there() -> None:
    prompts = {bytes(row.prefix[1 : row.prompt]) for row in made().held_out()}
    assert len(prompts) > 100
    trained = {bytes(row.prefix[1 : row.prompt]) for step in range(GROUPS) for row in made(whole=True).rows(step)}
    assert not prompts & trained
    published = {example.prompt.encode() for example in tasks.held_out(100)}
    assert len(prompts & published) < len(prompts) / 4, "another seed than that of the evaluation"


def test_what_is_solved_comes_less_often_from_the_next_dozen_on() -> None:
    source = made()
    names = list(tasks.TASKS)

    def share(round_: int) -> float:
        counts = Counter(row.file for step in range(GROUPS) for row in source.rows(round_ * GROUPS + step))
        return counts["reverse"] / counts.total()

    before = share(0)
    for _ in range(600):
        row = next(row for step in range(GROUPS) for row in source.rows(step) if row.file == "reverse")
        report = source.learned([row, row], [True, None])
    assert report["exact"]["reverse"] == pytest.approx(1 - 0.99**600, abs=1e-3)
    assert share(0) == before and share(1) < before / 2
    assert len(names) == len(report["exact"])


def test_a_state_restores_it_in_the_middle_of_a_dozen() -> None:
    source = made()
    for step in range(17):
        rows = source.rows(step)
        source.learned(rows, [True] * len(rows))
    other = made()
    other.restore(source.state())
    fresh = made()
    assert [other.rows(step) for step in range(17, 30)] == [source.rows(step) for step in range(17, 30)]
    assert [fresh.rows(step) for step in range(17, 24)] != [source.rows(step) for step in range(17, 24)]


def test_conversations_are_exercises_of_the_training_part(tmp_path: Path) -> None:
    found = [json.loads(text) for text in conversations.lines(500, 0)]
    assert (
        found
        == [json.loads(text) for text in conversations.lines(500, 0)]
        != [json.loads(text) for text in conversations.lines(500, 1)]
    )
    assert {one["task"] for one in found} == set(tasks.TASKS)
    asked = {one["messages"][0]["content"] for one in found}
    assert not asked & {example.prompt for example in tasks.held_out(100)}
    counts = Counter(one["task"] for one in found)
    assert counts["add"] < min(counts[task] for task in tasks.TASKS if task not in ("add", "sort_numbers"))


def test_the_causal_part_of_a_checkpoint_is_written_with_its_texts(tmp_path: Path) -> None:
    (micro.save(tmp_path / "denoiser") / "chat_template.jinja").write_text("template")
    tiny_causal.write(tmp_path / "denoiser", tmp_path / "causal")
    assert causal.is_causal(tmp_path / "causal") and (tmp_path / "causal" / "chat_template.jinja").is_file()
    config = files.read(FOLDER / "causal.toml")
    assert config.objective.is_causal and config.run.steps == 1800


@pytest.mark.parametrize("name", ["stage-1", "stage-2", "mixture"])
def test_the_files_of_tinys_runs_can_be_read(name: str) -> None:
    config = files.read(FOLDER / f"{name}.toml")
    assert config.data.tasks == "tiny" and config.sampler.steps == 16
    assert (config.objective.narrow_share > 0) == (name != "stage-1")
