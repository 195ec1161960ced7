"""Sessions of the toy model, for tests of the command line; and the shipped bundle, served and by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from cli_checks import ANSWER
from fake_bundle import FakeEngine

from dgemma.runtime import session as session_module
from dgemma.runtime.session import Session

if TYPE_CHECKING:
    import openai
    from served import Served


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Sessions run the toy model; its answer may be changed in the dictionary that this returns."""
    options: dict[str, Any] = {"answer": ANSWER}
    monkeypatch.setattr(session_module, "open_engine", lambda bundle, *_: FakeEngine(bundle, **options))
    return options


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server of tiny; modules that serve another bundle have a fixture of this name."""
    from served import serving

    with serving(["tiny"]) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's client of that server."""
    import openai

    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def alone() -> Iterator[Session]:
    """tiny without a server."""
    with Session.load("tiny") as found:
        yield found
