"""android_demo/same_options.py without Java: its requests say all that was drawn."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from fake_bundle import fake_session
from program import load

from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.verify.options import Steered
from dgemma.verify.steer import drawn

FOLDER = Path(__file__).parents[2] / "android_demo"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return load(FOLDER / "same_options.py")


def test_requests_say_what_was_drawn(script: ModuleType, tmp_path: Path) -> None:
    manifest = fake_session(tmp_path / "b", [200]).bundle.manifest
    said = set()
    for number in range(80):
        steer = drawn(number, manifest, range(100, 300), candidates=True, guidance=True)
        one = Steered(number=number, ids=[2, 3], seed=2**64 - 1, most=70, steer=steer)
        asked = json.loads(json.dumps(script.request_of(one), allow_nan=False))
        options = GenerateOptions.of(
            seed=asked["seed"], max_new_tokens=asked["max_new_tokens"], **script.same_tokens.keywords_of(asked)
        )
        assert (options.sampler, options.guidance, options.min_tokens) == (steer.biased, steer.guidance, steer.min_tokens)
        assert (asked["prompt"], options.seed, options.max_new_tokens) == ([2, 3], 2**64 - 1, 70)
        said |= asked.keys() | asked["sampler"].keys()
    assert said >= {"guidance", "negative", "guidance_steps", "min_tokens", "schedule", "logit_bias", "top_k"}


def test_bad_input_is_said_in_one_line(script: ModuleType, tmp_path: Path) -> None:
    for more in (["--count", "0"], ["--threads", "0"], ["--jar", str(tmp_path / "none.jar")]):
        with pytest.raises(UsageError) as error:
            script.run(["b", "--checkpoint", "c", *more])
        assert "\n" not in str(error.value) and "--" in str(error.value)
