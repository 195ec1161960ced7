"""Committed text, in pieces that are never taken back. It knows nothing of canvases and engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dgemma.runtime.answer import Answer
from dgemma.runtime.result import TextEvent

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what bytes of a character decode to whose others are still to come


class CommittedText:
    """Cuts an answer that grows into pieces.

    Args:
        read: the answer that ids say so far.
        trims: whether white space at the ends of the text is left out.
        kept: what of a text stays, whatever follows; None: all of it.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], Answer], *, trims: bool, kept: Callable[[str], str] | None = None
    ) -> None:
        self._read, self._trims, self._kept = read, trims, kept
        self._text, self._thinking = "", ""

    def more(self, tokens: Sequence[int]) -> TextEvent | None:
        """What is new and stays as it is, whatever follows; None where there is nothing."""
        answer = self._read(tokens)
        text = answer.text.rstrip(_UNFINISHED)
        text = text if self._kept is None else self._kept(text)
        thinking = self._thinking if answer.thinks else answer.thinking
        return self._event(tokens, text.strip() if self._trims else text, thinking)

    def rest(self, tokens: Sequence[int], answer: Answer) -> TextEvent | None:
        """What is left of the whole answer."""
        return self._event(tokens, answer.text.strip() if self._trims else answer.text, answer.thinking)

    def _event(self, tokens: Sequence[int], text: str, thinking: str) -> TextEvent | None:
        new = text.removeprefix(self._text) if text.startswith(self._text) else ""
        thought = thinking.removeprefix(self._thinking) if thinking.startswith(self._thinking) else ""
        self._text, self._thinking = self._text + new, self._thinking + thought
        return TextEvent(text=new, thinking=thought, tokens=tuple(tokens)) if new or thought else None
