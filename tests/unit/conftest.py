"""Sessions of the toy model, for tests of the command line."""

from __future__ import annotations

from typing import Any

import pytest
from cli_checks import ANSWER
from fake_bundle import FakeEngine

from dgemma.runtime import session as session_module


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Sessions run the toy model; its answer may be changed in the dictionary that this returns."""
    options: dict[str, Any] = {"answer": ANSWER}
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: FakeEngine(bundle, **options))
    return options
