"""compiled.json is what the Python runtime writes, refuses and answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import load

from dgemma.runtime.session import Session

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "compiled.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def make() -> Any:
    return load(HERE / "make_compiled_vectors.py")


@pytest.fixture(scope="module")
def held() -> dict[str, bytes]:
    return {name: base64.b64decode(data) for name, data, *_ in VECTORS["files"]}


def test_the_files_calls_and_refusals(make: Any, held: dict[str, bytes]) -> None:
    assert VECTORS["format"] == 1 and list(held) == list(make.STRUCTURES)
    with make.toy() as speaks:
        assert make.files(make.form(speaks)) == held
        assert [make.held(name, data, make.form(speaks)) for name, data in held.items()] == VECTORS["files"]
        calls = [make.call(speaks, held, seed, case) for seed, case in enumerate(make.CALLS)]
        assert json.loads(json.dumps(calls)) == VECTORS["calls"]
    assert list(make.damaged(held["sums"])) == VECTORS["damaged"]
    assert {call["tool_calls"][0][0] for call in VECTORS["calls"]} >= {"clock", "count", "f"}


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Iterator[Session]:
    with Session.load(tiny_bundle, engine="onnx", threads=1) as session:
        yield session


def test_the_runtime_gives_the_runs(make: Any, held: dict[str, bytes], tiny: Session) -> None:
    assert len(make.CASES) == len(VECTORS["runs"]) and len(make.REFUSED) == len(VECTORS["refused"])
    for seed, ((prompt, options), entry) in enumerate(zip(make.CASES, VECTORS["runs"], strict=True)):
        found = json.loads(json.dumps(make.run(tiny, held, prompt, seed, options)))
        near = ("logprobs", "entropies")
        for name in near:
            np.testing.assert_allclose(found.pop(name), entry[name], atol=2e-4)
        assert found == {name: value for name, value in entry.items() if name not in near}, options
    for case, entry in zip(make.REFUSED, VECTORS["refused"], strict=True):
        assert json.loads(json.dumps(make.refusal(tiny, held, *case))) == entry
