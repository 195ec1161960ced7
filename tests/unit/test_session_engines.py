"""What a session's engine checks before native code, and how engines are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import (
    BOS,
    CONTEXT,
    START,
    FakeEngine,
    N,
    fake_engine,
    fake_session,
    write_bundle,
)

from dgemma.core.errors import (
    BundleError,
    EngineError,
    UsageError,
)
from dgemma.runtime import engines
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session

SHORT = list(range(200, 210))

PROMPT = [BOS, 50, 51, START]


def test_native_failures_are_one_line_and_leave_the_session_usable(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    fake_engine(session).fail_on = "denoise"
    with pytest.raises(EngineError, match=r"unhappy$"):
        session.generate(PROMPT)
    assert list(session.prefix_ids) == PROMPT
    fake_engine(session).fail_on = None
    assert list(session.generate(PROMPT).tokens) == SHORT


def test_a_fused_graph_that_commits_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    honest = FakeEngine._generate
    monkeypatch.setattr(FakeEngine, "_generate", lambda self, feeds: [honest(self, feeds)[0] + 1, *honest(self, feeds)[1:]])
    with pytest.raises(EngineError, match="did not commit"):
        session.generate(PROMPT, loop="graph")


def denoise_feeds(slots: int = 64) -> dict[str, Any]:
    feeds: dict[str, Any] = {
        "canvas": np.zeros((1, N), np.int64),
        "soft": np.zeros((1, N, 8), np.float32),
        "words": np.zeros((2, N), np.int64),
        "temperature": np.ones(1, np.float32),
        "prefix_length": np.zeros(1, np.int64),
    }
    for kind in ("key", "value"):
        feeds[f"prefix_{kind}_0"] = np.zeros((1, slots, 2, 2), np.float32)
        feeds[f"prefix_{kind}_1"] = np.zeros((1, slots, 1, 4), np.float32)
    return feeds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"canvas": np.zeros((1, N), np.int32)}, "canvas"),
        ({"canvas": [[0] * N]}, "canvas"),
        ({"canvas": np.zeros((1, N + 1), np.int64)}, "canvas"),
        ({"canvas": np.zeros(N, np.int64)}, "canvas"),
        ({"prefix_value_1": np.zeros((1, 63, 1, 4), np.float32)}, "prefix_value_1"),
        ({"prefix_key_0": np.zeros((1, 128, 2, 2), np.float32)[:, ::2]}, "contiguous"),
        ({"extra": np.zeros(1)}, "extra"),
    ],
)
def test_feeds_are_checked_before_native_code(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    session = fake_session(tmp_path / "b", SHORT)
    engine = fake_engine(session)
    engine.answer = [200] * N
    with pytest.raises(EngineError, match=says):
        engine.run("denoise", {**denoise_feeds(), **change})
    assert "denoise" not in engine.calls
    with pytest.raises(EngineError, match="missing"):
        engine.run("denoise", {k: v for k, v in denoise_feeds().items() if k != "soft"})
    with pytest.raises(EngineError, match="L = 193"):
        engine.run("denoise", denoise_feeds(CONTEXT + 1))
    with pytest.raises(BundleError, match="no onnx graph 'dance'"):
        engine.run("dance", {})


def test_engines_are_chosen_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Bundle.open(write_bundle(tmp_path / "both", ("executorch", "onnx")))
    one = Bundle.open(write_bundle(tmp_path / "one", ("executorch",)))
    installed: dict[str, str | None] = {"onnxruntime": "1.32.0", "executorch": "1.5.1+cpu"}
    monkeypatch.setattr(engines, "installed_version", installed.get)
    assert engines.choose(both, None) == ("onnx", "1.32.0")
    assert engines.choose(both, "executorch") == ("executorch", "1.5.1+cpu")
    assert engines.choose(one, None)[0] == "executorch"
    for bundle, name, says in ((both, "tflite", "onnx, executorch"), (one, "onnx", "it has: executorch")):
        with pytest.raises(EngineError, match=says):
            engines.choose(bundle, name)
    installed["onnxruntime"] = None
    with pytest.raises(EngineError, match=r"'onnx' is not installed; pip install .*\[onnx\]'"):
        engines.choose(both, "onnx")
    assert engines.choose(both, None)[0] == "executorch"
    installed["executorch"] = "0.9.9"
    with pytest.raises(EngineError, match=r"0\.9\.9 is older than 1\.0"):
        engines.choose(both, None)
    installed["executorch"] = None
    with pytest.raises(EngineError, match="no engine"):
        engines.choose(both, None)


def test_threads_are_checked(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(UsageError, match="threads"):
            Session.load(path, threads=wrong)  # type: ignore[arg-type]
