"""How long an export still takes: by the plan, by the machine's pace, and by what has passed."""

from __future__ import annotations

import pytest

from dgemma.core.engines import ENGINES
from dgemma.export import countdown, request
from dgemma.export.countdown import Countdown
from dgemma.export.estimate import Estimate
from dgemma.export.stages import EXECUTORCH, GOLDEN, LOAD, ONNX, QUANTIZE, Reached

PLANNED_2B = Estimate(request=request.check("2b", engines=ENGINES, recipe="w8", random_weights=0), engines=ENGINES)


def said(slower: float, pace: float = 1.0, last: float = 0.0) -> tuple[list[str], float]:
    """The lines of a machine that takes `slower` times what is planned, and how long it took to the last line."""
    lines, now = list[str](), [0.0]
    left = Countdown(PLANNED_2B.plan, lines.append, lambda: now[0], lambda: now[0], pace=pace, last=last)
    for stage in PLANNED_2B.plan:
        left(Reached(stage.name))
        now[0] += slower * stage.seconds
    left(Reached(GOLDEN))
    return lines, now[0]


def shown(line: str) -> float:
    number, unit = line.split(" about ")[1].split(" ")[:2]
    return float(number) * (60 if unit == "min" else 1)


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_figure_never_rises(slower: float) -> None:
    lines, _ = said(slower)
    left = [shown(line) for line in lines if " about " in line]
    assert len(left) >= 3 and left == sorted(left, reverse=True)
    assert any(line.endswith("longer than planned") for line in lines) == (slower > 1)


def test_on_a_busy_machine_the_figure_follows_the_pace() -> None:
    """What other programs take is no fault of the plan. A half of the way, what is left is known."""
    lines, now = list[str](), [0.0]
    left = Countdown(PLANNED_2B.plan, lines.append, lambda: now[0], lambda: now[0] / 3)
    passed = []
    for stage in PLANNED_2B.plan:
        left(Reached(stage.name))
        passed.append(now[0])
        now[0] += 3 * stage.seconds
    figures = [shown(line) for line in lines]
    assert max(figures) > figures[0]
    half = [(figure, now[0] - at) for figure, at in zip(figures, passed, strict=True) if at > now[0] / 2]
    assert len(half) > 3 and all(0.6 * real < figure < 1.4 * real for figure, real in half), half


@pytest.mark.parametrize("slower", [0.4, 1.0, 3.0])
def test_a_machine_whose_pace_is_known_needs_no_more_than_is_shown_and_not_much_less(slower: float) -> None:
    lines, took = said(slower, pace=slower)
    assert not any("longer" in line for line in lines)
    assert took * 0.95 < shown(lines[0]) <= took * 1.1 + 30  # a tenth more, rounded to minutes


def test_what_follows_the_plan_is_counted() -> None:
    lines, _ = said(1.0, last=20.0)
    assert shown(lines[-1]) == pytest.approx(22) and " about " not in said(1.0)[0][-1]


def test_the_pace_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.0 + 20 * countdown._PROBE_SECONDS])
    monkeypatch.setattr(countdown.time, "perf_counter", lambda: next(ticks))
    assert countdown.pace() == pytest.approx(2.0)


def advanced(left: Countdown, reached: Reached) -> float:
    left.advance(reached)
    return left.done


def test_the_parts_of_a_stage_are_counted() -> None:
    left = Countdown(PLANNED_2B.plan, [].append, lambda: 0.0)
    parts = [advanced(left, request._quantizing(f"{n} of 4  layers.{n}")) for n in range(5)]
    planned = next(stage.seconds for stage in PLANNED_2B.plan if stage.name == QUANTIZE)
    assert parts == sorted(parts) and parts[4] - parts[0] == pytest.approx(planned)


def test_stages_are_planned_in_the_order_that_they_come_in() -> None:
    assert [stage.name for stage in PLANNED_2B.plan] == [LOAD, QUANTIZE, *ONNX.values(), *EXECUTORCH.values()]
    left = Countdown(PLANNED_2B.plan, [].append, lambda: 0.0)
    stack, head, graphs = (advanced(left, Reached(ONNX[part])) for part in ("stack", "head", "graphs"))
    assert stack < head < graphs
    assert advanced(left, Reached(GOLDEN)) == pytest.approx(sum(stage.seconds for stage in PLANNED_2B.plan))
    assert str(request._quantizing("calibration 16 of 64 prompts")) == "quantize: calibration 16 of 64 prompts"
    assert request._quantizing("calibration 16 of 64 prompts").share == 0 and request._quantizing("1 of 4  x").share == 0.25


def test_engines_at_once_take_as_long_as_the_slower_one() -> None:
    parts = {engine: [stage for stage in PLANNED_2B.plan if stage.engine == engine] for engine in (None, *ENGINES)}
    took = {engine: sum(stage.seconds for stage in of_engine) for engine, of_engine in parts.items()}
    fast, slow = sorted(ENGINES, key=took.__getitem__)
    assert 0 < took[fast] < took[slow]
    left = Countdown(PLANNED_2B.plan, [].append, lambda: 0.0, at_once=True)
    assert advanced(left, Reached(parts[slow][0].name)) == pytest.approx(took[None])
    assert advanced(left, Reached(parts[fast][-1].name)) == pytest.approx(took[None]), "the slower one has just begun"
    last = parts[slow][-1]
    assert advanced(left, Reached(last.name)) == pytest.approx(took[None] + took[slow] - last.seconds)
    assert advanced(left, Reached(GOLDEN)) == pytest.approx(took[None] + took[slow])
