"""What tests of the command line over the toy model share."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_bundle import fake_session

from dgemma.cli import dispatch

ANSWER = list(range(200, 220))


def fails(capsys: pytest.CaptureFixture[str], args: list[str], *says: str, status: int = 2) -> None:
    """The command exits with `status`, nothing on stdout, and one line on stderr."""
    capsys.readouterr()
    assert dispatch(args) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    for text in says:
        assert text in err


def text_of(ids: list[int], path: Path) -> str:
    session = fake_session(path)
    assert session.tokenizer is not None
    return session.tokenizer.decode(ids)
