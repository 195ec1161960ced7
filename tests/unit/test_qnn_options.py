"""What a session of the NPU's library is opened with, recorded in tests/vectors/qnn.json, which Java's tests read as well."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from dgemma.export.qnn import lower
from dgemma.runtime.engines import qnn_sessions

VECTORS = Path(__file__).parents[1] / "vectors" / "qnn.json"


class _Asked:
    """Stands for onnxruntime's options of a session."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.provider: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: list[str], options: dict[str, str]) -> None:
        assert devices == ["the NPU"]
        self.provider = options


@pytest.mark.parametrize("shared", [False, True])
def test_sessions_are_opened_with_what_is_recorded(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = SimpleNamespace(get_qnn_htp_path=lambda: "/libraries/libQnnHtp.so")
    monkeypatch.setattr(qnn_sessions, "import_module", lambda name: package)
    monkeypatch.setattr(qnn_sessions, "_device", lambda: "the NPU")
    monkeypatch.setattr(onnxruntime, "SessionOptions", _Asked)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, asked: (path, asked))
    path, asked = qnn_sessions.open_graph(Path("graph.onnx"), lower._options("SM8650"), shared=shared)
    recorded = json.loads(VECTORS.read_text())
    assert path == "graph.onnx"
    assert asked.entries == recorded["context" if shared else "source"]
    assert asked.provider == recorded["provider"]
