"""What can be said of guidance, and what it cannot go with."""

from __future__ import annotations

from typing import Any

import pytest

from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.guidance import Guidance


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"guidance": -1}, "guidance -1 must be a number from 0 to 100"),
        ({"guidance": float("nan")}, "guidance nan must be"),
        ({"guidance": True}, "guidance True must be"),
        ({"guidance": 2, "negative": ""}, "negative must be non-empty text, or ids"),
        ({"guidance": 2, "negative": [3, -1]}, "negative must be non-empty text"),
        ({"negative": "x"}, "negative needs guidance; give it as well"),
        ({"guidance_steps": "1:2"}, "guidance_steps needs guidance"),
        ({"guidance": 2, "guidance_steps": "2:1"}, "must be the first and the last step"),
        ({"guidance": 2, "guidance_steps": "a"}, "'a' must be A:B"),
        ({"guidance": 2, "guidance_steps": (0, 3)}, "must be the first and the last step"),
        ({"guidance": 2, "loop": "graph"}, "guidance needs decoder diffusion and loop host"),
        ({"guidance": 2, "decoder": "autoregressive"}, "guidance needs decoder diffusion"),
        ({"guidance": 2, "early_commit": 0.1}, "leave early_commit out"),
    ],
)
def test_what_cannot_be_is_refused(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        GenerateOptions.of(**keywords)


def test_steps_that_are_guided() -> None:
    assert Guidance.of() is None
    guidance = Guidance.of(guidance=2, guidance_steps="2:3")
    assert guidance is not None and [guidance.guides(step) for step in (1, 2, 3, 4)] == [False, True, True, False]
    assert Guidance.of(guidance=2, guidance_steps="3") == Guidance(scale=2.0, steps=(3, 3))
    assert not Guidance(scale=1.0).guides(1) and Guidance(scale=0).guides(1)
