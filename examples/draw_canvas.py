"""Draw a canvas while it resolves, as an SVG: one line a step, uncertain positions marked.

    python examples/draw_canvas.py BUNDLE -p "How do you say 40228?" --seed 1 --out canvas.svg

It made `docs/assets/canvas.svg`.
"""

import argparse
import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dgemma import DgemmaError, Session, UsageError

STYLES = {True: "bold #e6edf3", False: "#f0b429 underline"}  # by whether the sampler accepted a position


def draw(bundle: Path, prompt: str, seed: int = 0, width: int = 96) -> str:
    """The SVG of one answer."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(f'[#7ee787]$[/] dgemma run {bundle.stem} -p "{prompt}" --seed {seed}\n', highlight=False)
    with Session.load(bundle) as session:
        tokenizer = session.tokenizer
        if tokenizer is None:
            raise UsageError(f"{bundle}: has no tokenizer, so there is no text to draw")

        def show(event) -> None:  # type: ignore[no-untyped-def]
            line = Text(f"step {event.step:2d}  ", style="#8b949e")
            shown = session.visible(event.argmax)
            for piece, accepted in zip(tokenizer.pieces(shown), event.accepted, strict=False):
                line.append(piece.replace("\n", " "), style=STYLES[bool(accepted)])
            line.truncate(width - 1, overflow="ellipsis")
            console.print(line)

        result = session.generate(prompt, seed=seed, on_step=show)
    console.print(f"\n{result.text}", style="bold #7ee787", highlight=False)
    figures = f"{len(result.tokens)} tokens in {result.steps} steps"
    console.print(Text.assemble((figures, "#8b949e"), ("   uncertain", STYLES[False]), ("   accepted", STYLES[True])))
    svg = console.export_svg(title="dgemma", unique_id="canvas")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # the fonts would be fetched from elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a canvas while it resolves.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-p", "--prompt", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        options.out.write_text(draw(options.bundle, options.prompt, options.seed), encoding="utf-8")
    except (DgemmaError, OSError) as error:  # one line that says what is wrong
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
