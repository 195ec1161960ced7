"""The canvas on a terminal while it resolves: committed text, the canvas in the colours of its states, a line of figures.

A position is settled if the sampler accepted it, changed if its likeliest token differs from that of the step before, and
uncertain otherwise. Without colours, uncertain text is dim, and changed text underlined.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from dgemma.cli.terminal import folded, printable
from dgemma.core.errors import TokenizerError
from dgemma.runtime.result import StepEvent
from dgemma.runtime.session import Session

_THOUGHT = 70  # characters of a thought's end that are shown
SETTLED, CHANGED, UNCERTAIN = "settled", "changed", "uncertain"
# The terminal's own colours, which are legible on its ground, whatever that is.
COLOURS = {SETTLED: "bold", CHANGED: "bold underline magenta", UNCERTAIN: "yellow"}
PLAIN = {SETTLED: "bold", CHANGED: "underline", UNCERTAIN: "dim"}


@dataclass(kw_only=True)
class Frame:
    """One denoising step, as it is drawn.

    Args:
        committed: text of the canvases before.
        pieces: text of each position that is shown, and its state.
        thinking: the end of the thoughts so far.
        figures: a line about the step.
    """

    committed: str
    pieces: Sequence[tuple[str, str]]
    thinking: str = ""
    figures: str = ""

    def text(self, styles: dict[str, str]) -> Text:
        """Committed text, and the canvas where it goes on."""
        text = Text(printable(self.committed))
        for piece, state in self.pieces:
            text.append(printable(piece), style=styles[state])
        return text


@dataclass(kw_only=True)
class States:
    """States of a canvas's positions, from one step to the next."""

    canvas: int = -1
    before: list[int] = field(default_factory=list)

    def of(self, canvas: int, argmax: Sequence[int], accepted: Sequence[bool]) -> list[str]:
        """Of every position; `argmax` holds the likeliest ids after a step of this canvas."""
        known = self.before if canvas == self.canvas else list(argmax)
        self.canvas, self.before = canvas, list(argmax)
        return [
            CHANGED if i < len(known) and token != known[i] else SETTLED if sure else UNCERTAIN
            for i, (token, sure) in enumerate(zip(argmax, accepted, strict=True))
        ]


class View:
    """Draws frames in place, and leaves nothing behind. Before the first one it says what is waited for."""

    def __init__(self, console: Console | None = None, waiting: str = "") -> None:
        self.console = console or Console()
        colourless = self.console.no_color or self.console.color_system is None
        self.styles = PLAIN if colourless else COLOURS
        self._frame: Frame | None = None
        self._spinner = Spinner("dots", Text(waiting, style="dim"))
        self._live = Live(self, console=self.console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def draw(self, frame: Frame) -> None:
        self._frame = frame
        self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._frame is None:
            yield self._spinner
            return
        notes = Text(self._frame.figures, style="dim"), self.legend()
        foot = [line for note in notes for line in note.wrap(console, options.max_width)]
        if self._frame.thinking:
            foot.insert(0, Text(folded(self._frame.thinking, _THOUGHT), style="dim"))
        lines = self._frame.text(self.styles).wrap(console, options.max_width)
        room = max(1, console.height - 1 - len(foot))  # the end of a long answer is where something happens
        yield Text("\n").join([*lines[-room:], *foot])

    def legend(self) -> Text:
        """The states, each in its own style."""
        return Text(" ").join(Text(state, style=style) for state, style in self.styles.items())


class LiveCanvas(View):
    """An `on_step` callback that shows a session's generation."""

    def __init__(self, session: Session, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        if session.tokenizer is None:
            raise TokenizerError("a bundle without a tokenizer has no text to show; use --json")
        super().__init__(console, f"loading graphs for {session.engine} and reading the prompt")
        self._session, self._tokenizer = session, session.tokenizer
        self._states, self._clock, self._started = States(), clock, 0.0

    def __call__(self, event: StepEvent) -> None:
        self.draw(self.frame(event))

    def frame(self, event: StepEvent) -> Frame:
        """A step as text; tokens of thoughts are left out of it."""
        if not self._started:
            self._started = self._clock()
        committed, shown, kinds = event.committed, self._session.visible(event.argmax), event.kinds()
        states = self._states.of(event.canvas_index, event.argmax.tolist(), event.accepted.tolist())
        pieces = zip(self._tokenizer.pieces(shown), states, kinds[len(committed) :], strict=False)
        told = [i for i, kind in zip(committed, kinds, strict=False) if kind != "thought"]
        seconds = self._clock() - self._started
        rate = f", {len(committed) / seconds:.3g} tokens/s" if committed and seconds > 0 else ""
        return Frame(
            committed=self._tokenizer.decode(told),
            pieces=[(piece, state) for piece, state, kind in pieces if kind != "thought"],
            thinking=event.thinking()[-_THOUGHT:],
            figures=f"canvas {event.canvas_index + 1}, step {event.step} of {event.step + event.remaining - 1}, "
            f"{len(committed)} committed{rate}",
        )
