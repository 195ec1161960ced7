"""The checkpoint that needs many steps: its stories, and the same trajectories in the reference, torch and both engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dgemma.benchmarks.studies import story as study
from dgemma.benchmarks.studies import story_quantized
from dgemma.benchmarks.studies.same_tokens import compare
from dgemma.export.pipeline import export_bundle
from dgemma.model import checkpoint
from dgemma.runtime.session import Session

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
PROMPTS = ("Tell a story.", "Tell a short story about Mia.", "Tell a story about a key.", "Hello, I am Tom. Who are you?")


def test_most_stories_are_of_the_grammar_and_take_many_steps() -> None:
    folder = CHECKPOINTS / "story"
    loaded, asked = checkpoint.load(folder), study.requests(16)
    text = study.Text(folder)
    found = study.told(study.diffusion(loaded.model, loaded.sampler), text, asked, loaded.config.canvas_length)
    assert found["valid"]["value"] >= 0.85 and found["distinct"] == 1.0
    assert 8 <= found["steps_per_canvas"] < 24


def test_the_distilled_checkpoint_tells_them_in_four_steps() -> None:
    """Its teacher, held to four steps, tells a third of them right."""
    text, asked, found = study.Text(CHECKPOINTS / "story-4"), study.requests(16), {}
    for name in ("story", "story-4"):
        loaded = checkpoint.load(CHECKPOINTS / name)
        policy = replace(loaded.sampler, steps=4)
        found[name] = study.told(study.diffusion(loaded.model, policy), text, asked, loaded.config.canvas_length)
    assert checkpoint.load(CHECKPOINTS / "story-4").sampler.steps == 4
    assert found["story-4"]["valid"]["value"] >= 0.7 > found["story"]["valid"]["value"]
    assert found["story-4"]["steps_per_canvas"] < 3.5 and found["story-4"]["spread"] > 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["story", "story-4"])
def test_stories_are_the_same_on_every_backend(name: str, tmp_path: Path) -> None:
    bundle = export_bundle(CHECKPOINTS / name, tmp_path / "story.dgemma")
    report = compare(bundle, CHECKPOINTS / name, PROMPTS, range(3))
    assert report.unexplained == 0, report.differences
    for backend in ("torch", "onnx/host", "onnx/graph", "executorch/host", "executorch/graph"):
        assert report.same_tokens[backend] >= 11, (backend, report.differences)
    with Session.load(bundle, engine="onnx", threads=1) as session:
        by_bundle = story_quantized.by_bundle(session, asked := study.requests(6))
    same = [a == b for a, b in zip(by_bundle, story_quantized.by_float(CHECKPOINTS / name, asked), strict=True)]
    assert sum(same) >= 5, same  # a near-tie may fall otherwise
