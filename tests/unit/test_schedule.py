"""Schedules: shapes between two ends, tables of every step, where traces say what bounds there were, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import BOS, START, STEPS, fake_session

from dgemma.cli.generation import SamplerFlags
from dgemma.core.errors import UsageError
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import GREEDY, SamplerOptions
from dgemma.core.schedule import SHAPES, ScheduleTable
from dgemma.core.trajectory import Trajectory

CONFIG = SamplerConfig(steps=4)
PROMPT = [BOS, 50, 51, START]
ANSWER = list(range(200, 240))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_goes_from_one_end_to_the_other(shape: str) -> None:
    s = SHAPES[shape]
    assert s(1) == 1 and s(0) == 0 and s(0.5) == pytest.approx(0.5)
    assert all(s(i / 10) < s((i + 1) / 10) for i in range(10))


@pytest.mark.parametrize(
    ("given", "temperatures", "bounds"),
    [
        ({"schedule": "linear"}, [0.8, 0.7, 0.6, 0.5], [0.1] * 4),
        (
            {"schedule": "cosine", "temperature": "1:0"},
            [(1 - math.cos(math.pi * x)) / 2 for x in (1, 0.75, 0.5, 0.25)],
            [0.1] * 4,
        ),
        ({"entropy_bound": "1:0.2"}, [0.8, 0.7, 0.6, 0.5], [1.0, 0.8, 0.6, 0.4]),
        ({"schedule": "cosine", "entropy_bound": (2, 1), "max_steps": 2}, [0.8, 0.6], [2.0, 1.5]),
        ({"schedule": {"temperature": [1, 0.001, 0.5]}}, [1, GREEDY, 0.5], [0.1] * 3),
        ({"schedule": {"entropy_bound": [1, 2]}, "temperature": "1:0"}, [1.0, 0.5], [1.0, 2.0]),
        ({"schedule": ScheduleTable(temperature=(1, 2), entropy_bound=(3, 4)), "max_steps": 2}, [1, 2], [3, 4]),
    ],
    ids=str,
)
def test_every_step_has_its_values(given: dict[str, Any], temperatures: list[float], bounds: list[float]) -> None:
    options = SamplerOptions(**given)
    assert options.temperatures(CONFIG) == pytest.approx(temperatures) and options.bounds(CONFIG) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"schedule": "x"}, "schedule 'x' must be linear or cosine, or a table of temperature and entropy_bound"),
        ({"schedule": {}}, "schedule has no values; give temperature, entropy_bound or both"),
        ({"schedule": {"steps": 3}}, "schedule has an unknown key 'steps'; choose from temperature, entropy_bound"),
        ({"schedule": {"temperature": 1}}, "schedule: temperature must be a list of numbers from 0 to 100"),
        ({"schedule": {"temperature": [True]}}, "schedule: temperature must be a list"),
        ({"schedule": {"entropy_bound": [0]}}, "schedule: entropy_bound must be a list of positive numbers of nats"),
        ({"schedule": {"temperature": [1, 1], "entropy_bound": [1]}}, "schedule has lists of different lengths"),
        ({"schedule": {"temperature": [1] * 5000}}, "schedule has 5000 steps; at most 4096 are possible"),
        (
            {"schedule": {"temperature": [1]}, "temperature": 1},
            "temperature is also in the table of schedule; leave one out",
        ),
        (
            {"schedule": {"temperature": [1]}, "max_steps": 2},
            "max_steps 2 differs from schedule, whose table has 1 step; leave",
        ),
        ({"entropy_bound": "1:2:3"}, "entropy_bound '1:2:3' must be a positive number of nats, or A:B"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_schedules_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SamplerOptions(**wrong)
    SamplerOptions(schedule={"temperature": [1]}, entropy_bound=0.1, max_steps=1)


def from_file(path: Path | str) -> SamplerOptions:
    return SamplerFlags(schedule=str(path)).options()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '{"temperature": [1, 0.5]}', None),
        ("a.toml", "temperature = [1, 0.5]", None),
        ("a.json", "[1]", r"schedule .*a.json: cannot be read \(not an object\)"),
        ("a.json", "{", r"schedule .*a.json: cannot be read \(Expecting"),
        ("a.json", "[" * 100_000, r"schedule .*a.json: cannot be read \(nested too deeply\)"),
        ("a.toml", "temperature = [", r"schedule .*a.toml: cannot be read \("),
        ("a.toml", "temperatur = [1]", "schedule .*a.toml has an unknown key 'temperatur'; choose"),
        ("a.toml", "temperature = ['x']", "schedule .*a.toml: temperature must be a list"),
    ],
)
def test_tables_are_read_from_files(tmp_path: Path, name: str, text: str, says: str | None) -> None:
    path = tmp_path / name
    path.write_text(text)
    if says is None:
        assert from_file(path).table == ScheduleTable(temperature=(1, 0.5))
        return
    with pytest.raises(UsageError, match=says) as error:
        from_file(path)
    assert "\n" not in str(error.value)


def test_traces_say_the_bounds_where_they_are_others(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", ANSWER[:5])
    table = {"temperature": [2, 1, 0.5], "entropy_bound": [0.1, 0.05, 0.025]}
    found = session.generate(PROMPT, trace=True, schedule=table, adaptive=False).trajectory
    assert found is not None and found.entropy_bound is not None
    assert found.temperature[:3].tolist() == [2, 1, 0.5] and found.entropy_bound[:3].tolist() == [0.1, 0.05, 0.025]
    found.save(tmp_path / "t.npz")
    again = Trajectory.load(tmp_path / "t.npz")
    assert again.entropy_bound is not None and np.array_equal(again.entropy_bound, found.entropy_bound)
    plain = session.generate(PROMPT, trace=True, schedule="cosine").trajectory
    assert plain is not None and plain.entropy_bound is None
    with pytest.raises(UsageError, match=f"schedule has {STEPS + 1} steps and must be at most the exported {STEPS}"):
        session.generate(PROMPT, schedule={"temperature": [1] * (STEPS + 1)})


def test_a_wider_bound_of_one_step_needs_draws() -> None:
    assert SamplerOptions(schedule={"entropy_bound": [0.1, 0.2]}).needs_candidates(CONFIG) == ("schedule",)
    assert SamplerOptions(entropy_bound="0.2:0.1").needs_candidates(CONFIG) == ("entropy_bound",)
    assert SamplerOptions(entropy_bound="0.1:0.01").needs_candidates(CONFIG) == ()
