"""Profiles: read as they were written, overruled by what is typed, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgemma.cli.generation import ComputeFlags, SamplerFlags
from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import DgemmaWarning, UsageError
from dgemma.core.profile import NO_PROFILE, Profile, read_profile
from dgemma.core.sampler_options import SamplerOptions

OPTIONS = {"temperature": [0.5, 0.2], "schedule": "cosine", "confidence": 0.01, "early_commit": 0.001, "start_width": "auto"}


def test_a_profile_says_options(tmp_path: Path) -> None:
    written = Profile(name="quick", options=OPTIONS, bundle="d" * 64, evidence={"n": 3})
    path = tmp_path / "p.json"
    path.write_text(written.to_json())
    read = read_profile(path)
    assert read == written
    assert read.sampler() == SamplerOptions(temperature=(0.5, 0.2), schedule="cosine", confidence=0.01)
    assert read.compute() == ComputePolicy(early_commit=0.001, start_width="auto")
    toml = tmp_path / "p.toml"
    toml.write_text('version = 1\nname = "quick"\n[options]\nstability = 0\n')
    assert read_profile(toml).sampler() == SamplerOptions(stability=0)
    assert read_profile(None).sampler() == SamplerOptions() and NO_PROFILE.compute() is None


def test_what_is_typed_takes_its_place() -> None:
    profile = Profile(name="quick", options=OPTIONS)
    said = SamplerFlags(temperature="1", steps=3, stability=0).options(profile)
    assert said == SamplerOptions(temperature=1, max_steps=3, schedule="cosine", confidence=0.01, stability=0)
    computed = ComputeFlags(early_commit=0.5, recheck=True).policy(profile)
    assert computed == ComputePolicy(early_commit=0.5, start_width="auto", recheck=True)
    assert ComputeFlags().policy(profile) == profile.compute()
    with pytest.raises(UsageError, match=r"early_commit 0\.0 must be a positive number"):
        ComputeFlags(early_commit=0.0).policy(profile)


def test_another_bundle_is_told() -> None:
    profile = Profile(name="quick", options={}, bundle="a")
    profile.warn_unless_for("a")
    with pytest.warns(DgemmaWarning, match="profile quick was found for another bundle"):
        profile.warn_unless_for("b")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (None, r"profile .*p.json: is not a profile \(Expecting"),
        ([], r"is not a profile \(not an object\)"),
        ({"version": 2}, "is not a profile of version 1; make one with `dgemma tune`"),
        ({"more": 1}, "has an unknown key 'more'; choose from name, options, bundle, evidence"),
        ({"name": None}, "p.json: name must be one line of text"),
        ({"options": 3}, "p.json: options must be an object"),
        ({"options": {"top_k": 3}}, "p.json has an unknown option 'top_k'; choose from temperature, max_steps, "),
        ({"options": {"stability": -1}}, "p.json: stability -1 must be an integer, 0 or more"),
        ({"options": {"schedule": {"x": [1]}}}, "p.json: schedule has an unknown key 'x'"),
    ],
    ids=str,
)
def test_bad_files_are_one_line(tmp_path: Path, changes: Any, says: str) -> None:
    good = json.loads(Profile(name="quick", options={}).to_json())
    path = tmp_path / "p.json"
    path.write_text("{" if changes is None else json.dumps(changes if changes == [] else good | changes))
    with pytest.raises(UsageError, match=says) as error:
        read_profile(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
