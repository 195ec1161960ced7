"""Stop strings: where the text of an answer ends early, however it is divided into tokens and canvases.

It knows the text of the ids so far, and nothing of how they were generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopStrings:
    """The first stop string in one answer.

    Args:
        strings: any of them ends it.
        read: the text of ids, with white space at its ends.

    Attributes:
        found: the stop string that the answer ended before; None as long as there is none.
        text: what stands before it.
    """

    def __init__(self, strings: Sequence[str], read: Callable[[Sequence[int]], str]) -> None:
        self._strings, self._read = tuple(strings), read
        self.found: str | None = None
        self.text = ""

    def __call__(self, tokens: Sequence[int]) -> int | None:
        """How many of the tokens stay: those whose text ends before the stop string; None where there is none."""
        text = self._read(tokens)
        places = [(at, string) for string in self._strings if (at := text.find(string)) >= 0]
        if not places:
            return None
        at, self.found = min(places, key=lambda place: place[0])
        self.text = text[:at]
        return next(k for k in range(len(tokens), -1, -1) if len(self._read(tokens[:k])) <= at)

    def kept(self, text: str) -> str:
        """What of a text that may go on is sure to stand before a stop string."""
        most = max((len(string) - 1 for string in self._strings), default=0)
        held = next((n for n in range(min(most, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self._strings)), 0)
        return text[: len(text) - held]
