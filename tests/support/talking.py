"""A server of the toy model in the released form, whose answer the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import released_folder
from served import Served, serving
from speaking import STOP, Speaker, write_speaking, write_text

from dgemma.runtime import session as session_module


class Talker(Speaker):
    """Says `said`, which all of its kind share."""

    said: list[int] = []  # noqa: RUF012

    @property  # type: ignore[override]
    def answer(self) -> list[int]:
        return type(self).said

    @answer.setter
    def answer(self, value: list[int]) -> None: ...


@contextmanager
def talking(folder: Path) -> Iterator[Served]:
    """The model `talker`, served from a new bundle in a folder."""
    (folder / "text").mkdir()
    bundle = write_speaking(folder / "talker.dgemma", write_text(folder / "text", released_folder.template()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "open_engine", lambda bundle, *_: Talker(bundle, stop=STOP))
        with serving([bundle]) as found:
            yield found
