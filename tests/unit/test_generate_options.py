"""Options of a generation: built from keywords, old names of these included, and checked where they are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.scalars import is_int


def test_keywords_build_a_policy_or_none() -> None:
    assert GenerateOptions.of() == GenerateOptions() and GenerateOptions().compute is None
    built = GenerateOptions.of(seed=3, early_commit=0.5, start_width=4, recheck=True, loop="host")
    assert built == GenerateOptions(seed=3, compute=ComputePolicy(early_commit=0.5, start_width=4, recheck=True))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"settle": 0.5}, {"early_commit": 0.5}),
        ({"canvas": "auto", "seed": 1}, {"start_width": "auto", "seed": 1}),
        ({"repair": True, "early_commit": 0.1}, {"recheck": True, "early_commit": 0.1}),
    ],
)
def test_old_keywords_work_with_a_warning(old: dict[str, Any], new: dict[str, Any]) -> None:
    with pytest.warns(DeprecationWarning, match=f"{next(iter(old))} is now called {next(iter(new))}"):
        assert GenerateOptions.of(**old) == GenerateOptions.of(**new)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be an integer, 1 or more"),
        ({"max_new_tokens": True}, "max_new_tokens True"),
        ({"seed": 1.0}, "seed 1.0 must be an integer"),
        ({"seed": 1 << 64}, "between 0 and 2"),
        ({"loop": "spiral"}, "choose one of host, graph"),
        ({"loop": "graph", "compute": ComputePolicy(early_commit=0.1)}, "early_commit needs loop host"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(GenerateOptions(), **wrong)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"max_tokens": 3}, r"unknown keyword max_tokens; did you mean max_new_tokens\?"),
        ({"zzz": 3}, "unknown keyword zzz; choose from max_new_tokens, seed, "),
        ({"settle": 0.1, "early_commit": 0.1}, "settle is the old name of early_commit; give only early_commit"),
    ],
)
def test_unknown_keywords_and_two_names_of_one(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        GenerateOptions.of(**keywords)


def test_integers_are_those_of_python_and_numpy() -> None:
    assert is_int(np.int64(3), 3, 3) and not is_int(4, 0, 3) and not is_int(True) and not is_int(3.0)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"strength": 0.3}, "give draft as well"),
        ({"strength": 0.3, "template": "{{3}}"}, "give draft as well"),
        ({"decoder": "autoregressive", "loop": "graph"}, "loop needs decoder diffusion"),
        ({"decoder": "autoregressive", "adaptive": False}, "adaptive needs decoder diffusion"),
    ],
)
def test_nothing_is_ignored(options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(UsageError, match=phrase):
        GenerateOptions(**options)
