"""Options of the sampler: what they make of a bundle's, what each loop does with them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_bundle import BOS, START, STEPS, N, fake_session

from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.sampler import SamplerConfig
from dgemma.core.sampler_options import GREEDY, SamplerOptions
from dgemma.runtime.session import Session

PROMPT = [BOS, 50, 51, START]
ANSWER = list(range(200, 240))
CONFIG = SamplerConfig(steps=4)


def test_without_options_the_sampler_is_the_bundles() -> None:
    options = SamplerOptions()
    assert options.given == () and options.applied(CONFIG) == CONFIG
    assert options.temperatures(CONFIG) == [CONFIG.temperature(r) for r in (4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("given", "temperatures"),
    [
        ({"temperature": "1:0.2"}, [1.0, 0.8, 0.6, 0.4]),
        ({"temperature": (0.2, 1)}, [0.2, 0.4, 0.6, 0.8]),  # it may rise
        ({"temperature": 0.5}, [0.5] * 4),
        ({"temperature": 0}, [GREEDY] * 4),
        ({"temperature": "1:0", "max_steps": 2}, [1.0, 0.5]),
        ({"temperature": (0.02, 0)}, [0.02, 0.015, 0.01, GREEDY]),  # 0.005 is below the coldest
        ({"max_steps": 2}, [0.8, 0.6]),  # the schedule of two steps, not the first two of four
    ],
    ids=str,
)
def test_temperatures_fall_from_one_end_towards_the_other(given: dict[str, Any], temperatures: list[float]) -> None:
    assert SamplerOptions(**given).temperatures(CONFIG) == pytest.approx(temperatures)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": "a"}, "temperature 'a' must be A or A:B"),
        ({"temperature": "1:2:3"}, "temperature '1:2:3' must be"),
        ({"temperature": "nan"}, "temperature 'nan' must be"),
        ({"temperature": -1}, "temperature -1 must be"),
        ({"temperature": (1, 1000)}, "numbers from 0 to 100"),
        ({"max_steps": 0}, "max_steps 0 must be an integer, 1 or more"),
        ({"max_steps": True}, "max_steps True must be"),
        ({"stability": -1}, "stability -1 must be an integer, 0 or more"),
        ({"confidence": 0}, "confidence 0 must be a positive number of nats"),
        ({"confidence": float("inf")}, "confidence inf must be"),
        ({"entropy_bound": 10**400}, "entropy_bound 10+ must be a positive number of nats"),
        ({"logit_bias": {5: -(10**400)}}, "of id 5: -10+ must be a number from -1e.100 to 1e.100, or -inf"),
        ({"logit_bias": [(5, 1.0), (6, 1.0), (5, -1.0)]}, "logit_bias has an id twice"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SamplerOptions(**wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    given = SamplerOptions(
        max_steps=np.int64(3),
        top_k=np.int32(2),
        top_p=np.float32(0.5),
        temperature=np.float32(0.5),
        logit_bias={np.int64(4): 1.0},
    )  # type: ignore[arg-type]  # what callers have
    assert given == SamplerOptions(max_steps=3, top_k=2, top_p=0.5, temperature=0.5, logit_bias={4: 1.0})
    assert type(given.max_steps) is int and type(given.top_p) is float
    with pytest.raises(UsageError, match="top_k"):
        SamplerOptions(top_k=np.float64(2))  # type: ignore[arg-type]


def test_the_loop_runs_by_them(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", ANSWER[:5])
    plain = session.generate(PROMPT, trace=True).trajectory
    assert plain is not None and len(plain.step) == 4  # of the toy: still since the third step, so the fourth is the last
    hot = session.generate(PROMPT, trace=True, temperature="2:1", max_steps=5).trajectory
    assert hot is not None and hot.step.tolist() == [5, 4, 3, 2]
    np.testing.assert_allclose(hot.temperature, [2, 1.8, 1.6, 1.4], rtol=1e-6)
    assert hot.entropy[0].max() == np.float32(2)  # the toy's entropy where a position has not settled
    assert session.generate(PROMPT, stability=2).steps == 5
    assert session.generate(PROMPT, stability=0, confidence=1.0, max_new_tokens=N).steps == 1
    assert session.generate(PROMPT, max_steps=2, max_new_tokens=N).steps == 2
    assert session.generate(PROMPT).steps == 4  # nothing stays of the options before


def test_what_a_bundle_cannot_do_is_refused(tmp_path: Path) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    with pytest.raises(UsageError, match=f"max_steps {STEPS + 1} must be at most the exported {STEPS}; export with more steps"):
        session.generate(PROMPT, max_steps=STEPS + 1)
    with pytest.raises(UsageError, match=r"had inputs for temperature and max_steps \(temperatures, bounds, "):
        session.generate(PROMPT, max_steps=2, temperature=1, loop="graph")
    with pytest.raises(UsageError, match="temperature needs decoder diffusion: autoregressive decoding is greedy"):
        session.generate(PROMPT, temperature=1, decoder="autoregressive")
    assert session.prefix_ids == ()


def test_keywords_build_them() -> None:
    built = GenerateOptions.of(temperature="1:0.5", max_steps=3, early_commit=0.1, stop="x")
    assert built.sampler == SamplerOptions(temperature=(1.0, 0.5), max_steps=3) and built.stop == ("x",)
    assert GenerateOptions.of().sampler == SamplerOptions() == replace(GenerateOptions()).sampler


@pytest.mark.parametrize("most", [1, N - 1, N, N + 1, 2 * N])
def test_the_limit_is_exact_at_any_number(tmp_path: Path, most: int) -> None:
    session = fake_session(tmp_path / "b", ANSWER)
    assert session.generate(PROMPT, max_new_tokens=most).tokens == tuple(ANSWER[:most])
    assert session.prefix_ids == (*PROMPT, *ANSWER[:most])


@pytest.mark.parametrize("options", [{}, {"early_commit": 0.01}], ids=str)
def test_temperature_0_takes_the_likeliest_id(tmp_path: Path, options: dict[str, Any]) -> None:
    """Whatever a graph has drawn, which near 0 hangs on the last bit of its logits: here, always another id."""
    with Session.load("tiny") as session:
        run = type(session._engine).run

        def draw_others(engine: Any, graph: str, feeds: Any) -> Any:
            out = run(engine, graph, feeds)
            return {**out, "next_canvas": (out["argmax"] + 1) % 500} if "next_canvas" in out else out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(session._engine), "run", draw_others)
            greedy = session.generate("Spell out the word ugezueras.", temperature=0, trace=True, **options).trajectory
            drawn = session.generate("Spell out the word ugezueras.", temperature=0.01, trace=True, **options).trajectory
    assert greedy is not None and drawn is not None
    assert greedy.accepted.all() and (greedy.canvas_out == greedy.argmax).all()
    assert options or (drawn.canvas_out != drawn.argmax).any()  # with an early commit, all have left after the first step
