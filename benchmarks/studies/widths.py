"""What a step costs by the number of positions that run, beside a whole step, encoding a canvas, and a token.

    python -m dgemma.benchmarks.studies.widths BUNDLE [--engine E] [--prefix 512] [--widths 256,192,…] [--threads N] \
        [--out FILE]

Each call is timed with its copies of keys and values, as a session makes it. In `denoise_active` the positions that do not run
are committed. All of them take turns, once a round, every second round backwards, so that a busy minute slows every one; the
first round is dropped. What a model says does not matter, so bundles with random weights can be measured. It knows nothing of
how many positions run in which step: see `projection`. N canvas, A active positions, S prefix, D hidden.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks import report
from dgemma.benchmarks.bench import reliability
from dgemma.benchmarks.bench.fresh_process import filler
from dgemma.benchmarks.stats import quartiles
from dgemma.benchmarks.studies.bundle_facts import bundle_facts
from dgemma.core import machine
from dgemma.core.cost import CostModel, held_bits
from dgemma.core.errors import UsageError
from dgemma.core.manifest import Manifest
from dgemma.core.progress import progress
from dgemma.runtime import memory
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import open_engine
from dgemma.runtime.engines.base import Engine, Feeds
from dgemma.runtime.loops import ACTIVE, Loops
from dgemma.runtime.prefix import Prefix, input_dim

Json = dict[str, Any]
Call = Callable[[], None]
SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125, 0.0625, 0.03125)  # of a canvas, where no widths are asked for
FIXED = ("denoise", "encode", "token")  # calls that have no width
LOSS = 1.1  # how much more a position may cost than in a whole step before a narrow step counts as dearer
HEADER = ("positions", "ms [quartiles]", "ms per position", "ms per position / whole step's [quartiles]", "GFLOP/s")


@dataclass(frozen=True, kw_only=True)
class WidthsRequest:
    """What to measure; `widths` in positions, None for `SHARES`. Raises UsageError when a value cannot be used."""

    bundle: Path
    threads: int
    engine: str | None = None
    prefix: int = 512
    rounds: int = 15
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("threads", 1, 1024), ("prefix", 1, 10**7), ("rounds", 1, 10_000)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"--{name} {getattr(self, name)} must be between {low} and {high:,}")

    def widths_of(self, n: int) -> list[int]:
        """The widths to measure of a canvas of N positions, widest first; N is always one of them."""
        given = [max(1, int(share * n)) for share in SHARES] if self.widths is None else self.widths
        if wrong := [width for width in given if not 1 <= width <= n]:
            raise UsageError(f"--widths {wrong[0]} must be between 1 and the canvas of {n}")
        return sorted({n, *given}, reverse=True)


class Calls:
    """Calls of one engine after S tokens that have been encoded; nothing of them stays."""

    def __init__(self, engine: Engine, prefix: int) -> None:
        manifest = engine.bundle.manifest
        self._engine, self._n, self._s = engine, manifest.canvas_length, prefix
        self._ids = filler(manifest.model.vocab_size, prefix + self._n)
        self._prefix = Prefix(engine)
        self._prefix.extend(self._ids[:prefix])
        self._prefix.encode(lambda: False)
        self._canvas, words = Loops(engine).noise(0, 0)
        self._words = words[0]
        shape = (1, self._n, manifest.model.hidden_size)
        self._soft = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._scalars: Feeds = {"prefix_length": np.array([prefix]), "temperature": np.full(1, 0.8, np.float32)}

    def all(self, widths: Sequence[int]) -> dict[str, Call]:
        """By name: each width's, then those of `FIXED`."""
        fixed = zip(FIXED, (self._denoise(), self._encode, self._token()), strict=True)
        return {**{str(width): self._active(width) for width in widths}, **dict(fixed)}

    def _active(self, width: int) -> Call:
        """The canvas's last positions run."""
        rows, settled = np.arange(self._n - width, self._n), np.ones((1, self._n), np.bool_)
        settled[0, rows] = False
        feeds: Feeds = {
            **self._prefix.feeds(ACTIVE, self._n),
            **self._scalars,
            "positions": rows[None],
            "settled": settled,
            "canvas": self._canvas[:, rows],
            "soft": self._soft[:, rows],
            "words": np.ascontiguousarray(self._words[:, rows]),
        }
        return lambda: self._prefix.place(self._engine.run(ACTIVE, feeds), rows)

    def _denoise(self) -> Call:
        step = {"canvas": self._canvas, "soft": self._soft, "words": self._words}
        feeds: Feeds = {**self._prefix.feeds("denoise"), **self._scalars, **step}

        def call() -> None:
            self._engine.run("denoise", feeds)

        return call

    def _encode(self) -> None:
        """A canvas, in chunks."""
        self._prefix.extend(self._ids[self._s :])
        self._prefix.encode(lambda: False)
        self._prefix.truncate(self._s)

    def _token(self) -> Call:
        """The one after the prefix, whose last token is decoded again, in its place."""
        tokens = np.zeros((1, max(1, input_dim(self._engine, "decode", "tokens", 1)[0])), np.int64)
        tokens[0, 0] = self._ids[self._s - 1]
        scalars = {"start": np.array([self._s - 1], np.int64), "count": np.ones(1, np.int64)}
        feeds: Feeds = {**self._prefix.feeds("decode"), "tokens": tokens, **scalars}

        def call() -> None:
            out = self._engine.run("decode", feeds)
            self._prefix.truncate(self._s - 1)
            self._prefix.store(out, 1)
            self._prefix.extend(self._ids[self._s - 1 : self._s])

        return call


def take_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` rounds, after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in progress(range(rounds + 1), "rounds"):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            calls[name]()
            if number:
                found[name].append(time.perf_counter() - started)
    return found


def summarize(seconds: Mapping[str, Sequence[float]], widths: Sequence[int], model: CostModel, prefix: int) -> Json:
    """Milliseconds with quartiles. `over_line`: a position's cost over what it has in a whole `denoise_active` of the same
    round; 1 where cost is a straight line through zero."""
    n = max(widths)
    rows: list[Json] = []
    for width in widths:
        own, whole = seconds[str(width)], seconds[str(n)]
        ms = quartiles([1e3 * s for s in own])
        operations = model.denoise(width, prefix + n - width).operations
        rows.append(
            {
                "width": width,
                "ms": asdict(ms),
                "position_ms": ms.median / width,
                "over_line": asdict(quartiles([n * a / (width * b) for a, b in zip(own, whole, strict=True)])),
                "gflop_per_s": operations / ms.median / 1e6,
            }
        )
    return {"widths": rows, **{f"{name}_ms": asdict(quartiles([1e3 * s for s in seconds[name]])) for name in FIXED}}


def check(request: WidthsRequest, manifest: Manifest, engine: Engine) -> list[int]:
    """The widths that will run; raises UsageError when the bundle cannot run them."""
    n = manifest.canvas_length
    if ACTIVE not in manifest.graphs[engine.name]:
        raise UsageError(f"{request.bundle}: was exported without {ACTIVE!r}, which runs a part of a canvas; export it again")
    if request.prefix + n > manifest.context:
        most = manifest.context - n
        raise UsageError(f"--prefix {request.prefix}: with a canvas it fills more than the context; give at most {most}")
    return request.widths_of(n)


def measure(request: WidthsRequest) -> Json:
    """JSON types. Raises BundleError, EngineError, UsageError."""
    bundle = Bundle.open(request.bundle, by_record=True)
    manifest = bundle.manifest
    engine = open_engine(bundle, request.engine, request.threads)
    try:
        widths = check(request, manifest, engine)
        memory.check(manifest, engine.name, request.bundle)
        facts, load, before = machine.facts(), machine.load_average(), reliability.calibrate()
        seconds = take_turns(Calls(engine, request.prefix).all(widths), request.rounds)
        after = reliability.calibrate()
    finally:
        engine.close()
    model = CostModel(config=manifest.model, bits=held_bits(manifest.quantization, engine.name), soft=manifest.sampler.soft)
    found = summarize(seconds, widths, model, request.prefix)
    spreads = {f"{row['width']} positions": reliability.spread(row["ms"]) for row in found["widths"]}
    spreads |= {name: reliability.spread(found[f"{name}_ms"]) for name in FIXED}
    return {
        "benchmark": "widths",
        "machine": facts,
        "bundle": bundle_facts(bundle),
        "options": {
            "engine": engine.name,
            "threads": request.threads,
            "prefix": request.prefix,
            "rounds": request.rounds,
            "widths": widths,
        },
        **found,
        "noise": {
            "calibration_before_s": before,
            "calibration_after_s": after,
            "load_average": load,
            "warnings": reliability.warnings(before, after, load, machine.usable_cores(), spreads),
        },
    }


def spread(ms: Mapping[str, float], digits: int = 1) -> str:
    """Median and quartiles."""
    return f"{ms['median']:.{digits}f} [{ms['q1']:.{digits}f} … {ms['q3']:.{digits}f}]"


def rows(values: Json) -> list[list[str]]:
    """Cells in the order of `HEADER`, of each width and of the calls that have none."""
    n = values["bundle"]["canvas"]
    found = [
        [
            str(row["width"]),
            spread(row["ms"]),
            f"{row['position_ms']:.3f}",
            spread(row["over_line"], 2),
            f"{row['gflop_per_s']:.0f}",
        ]
        for row in values["widths"]
    ]
    titles = {"denoise": f"{n}, by `denoise`", "encode": f"{n}, by `encode`", "token": "1, by `decode`"}
    for name, title in titles.items():
        ms = values[f"{name}_ms"]
        found.append([title, spread(ms), f"{ms['median'] / (1 if name == 'token' else n):.3f}", "–", "–"])
    return found


def notes(values: Json) -> list[str]:
    """What the widths say, and reasons to doubt."""
    bundle, options, (whole, *others) = values["bundle"], values["options"], values["widths"]
    shape = f"`{bundle['recipe']}`, {options['engine']}, canvas {bundle['canvas']}, prefix {options['prefix']}"
    found = [f"{shape}, {options['threads']} threads; medians of {options['rounds']} rounds"]
    least = whole["width"]
    for row in others:
        if row["over_line"]["median"] > LOSS:
            share, ms = row["width"] / whole["width"], row["ms"]["median"] / whole["ms"]["median"]
            found.append(
                f"A position costs more in steps below {least} positions: {row['width']} positions are {share:.1%} of the "
                f"canvas and take {ms:.1%} of its time"
            )
            break
        least = row["width"]
    else:
        found.append(f"A position costs at most {LOSS - 1:.0%} more in narrow steps, down to {least} positions")
    return found + [f"noise: {warning}" for warning in values["noise"]["warnings"]]


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.widths", description="A step's cost by its width."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--prefix", type=int, default=WidthsRequest.prefix, help="tokens before the canvas")
    parser.add_argument("--widths", help="positions, commas between; else shares of the canvas")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--rounds", type=int, default=WidthsRequest.rounds, help="measurements of each call")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    report.check_out(given.out)
    try:
        widths = None if given.widths is None else tuple(int(width) for width in given.widths.split(","))
    except ValueError:
        raise UsageError(f"--widths {given.widths} must be numbers separated by commas, such as 256,128,64") from None
    result = measure(
        WidthsRequest(
            bundle=given.bundle,
            engine=given.engine,
            prefix=given.prefix,
            widths=widths,
            threads=given.threads,
            rounds=given.rounds,
        )
    )
    report.table("A step by its width", HEADER, rows(result))
    for line in notes(result):
        print(line)
    if given.out:
        report.write_json(given.out, result)
        print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    report.main(run)
