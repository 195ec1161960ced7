"""The checkpoint that needs many steps: its stories, and the same trajectories in the reference, torch and both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgemma.benchmarks.studies import story as study
from dgemma.benchmarks.studies.same_tokens import compare
from dgemma.export.pipeline import export_bundle
from dgemma.model import checkpoint

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
PROMPTS = ("Tell a story.", "Tell a short story about Mia.", "Tell a story about a key.", "Hello, I am Tom. Who are you?")


def test_most_stories_are_of_the_grammar_and_take_many_steps() -> None:
    folder = CHECKPOINTS / "story"
    loaded, asked = checkpoint.load(folder), study.requests(16)
    text = study.Text(folder)
    found = study.told(study.diffusion(loaded.model, loaded.sampler), text, asked, loaded.config.canvas_length)
    assert found["valid"]["value"] >= 0.85 and found["distinct"] == 1.0
    assert 8 <= found["steps_per_canvas"] < 24


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stories_are_the_same_on_every_backend(tmp_path: Path) -> None:
    bundle = export_bundle(CHECKPOINTS / "story", tmp_path / "story.dgemma")
    report = compare(bundle, CHECKPOINTS / "story", PROMPTS, range(3))
    assert report.unexplained == 0, report.differences
    for backend in ("torch", "onnx/host", "onnx/graph", "executorch/host", "executorch/graph"):
        assert report.same_tokens[backend] >= 11, (backend, report.differences)
