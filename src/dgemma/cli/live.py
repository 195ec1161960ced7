"""The canvas on a terminal, while it resolves: accepted positions bright, the others dim, markers hidden."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dgemma.cli.terminal import folded, printable
from dgemma.core.errors import TokenizerError
from dgemma.runtime.result import StepEvent
from dgemma.runtime.session import Session

_THOUGHT = 70  # characters of a thought's end that are shown


class LiveCanvas:
    """An `on_step` callback that redraws in place and leaves nothing behind."""

    def __init__(self, session: Session, console: Console | None = None) -> None:
        if session.tokenizer is None:
            raise TokenizerError("a bundle without a tokenizer has no text to show; use --json")
        self._session, self._tokenizer = session, session.tokenizer
        self._console = console or Console()
        self._live = Live(console=self._console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, event: StepEvent) -> None:
        lines = self.render(event).wrap(self._console, self._console.width)
        room = max(1, self._console.height - 1)  # the end of a long answer is where something happens
        self._live.update(Text("\n").join(lines[-room:]), refresh=True)

    def render(self, event: StepEvent) -> Text:
        """Thoughts on one dim line; committed text, then the argmax canvas piece by piece; where the denoising stands."""
        committed, shown, kinds = event.committed, self._session.visible(event.argmax), event.kinds()
        text = Text()
        if thinking := event.thinking():
            text.append(folded(thinking[-_THOUGHT:], _THOUGHT) + "\n", style="dim")
        told = [i for i, kind in zip(committed, kinds, strict=False) if kind != "thought"]
        text.append(printable(self._tokenizer.decode(told)))
        pieces = zip(self._tokenizer.pieces(shown), event.accepted, kinds[len(committed) :], strict=False)
        for piece, accepted, kind in pieces:
            if kind != "thought":
                text.append(printable(piece), style="bold" if accepted else "dim")
        return text.append(f"\ncanvas {event.canvas_index + 1}, step {event.step}", style="dim italic")
