"""Profiles: named options of a generation with the bundle that they were found for, and what showed that they are worth it.

A file of JSON or TOML. It knows nothing of how a profile is found.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dgemma.core.compute_policy import ComputePolicy
from dgemma.core.errors import DgemmaWarning, Param, UsageError
from dgemma.core.sampler_options import IN_GRAPH, SamplerOptions
from dgemma.core.schedule import parse_table

VERSION = 1
COMPUTE = ("early_commit", "start_width", "recheck")
OPTIONS = (*IN_GRAPH, *COMPUTE)  # what a profile may say


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One profile.

    Args:
        name: what it is called.
        options: keywords of `Session.generate` among `OPTIONS`; JSON types.
        bundle: digest of the bundle that it was found for; None: any.
        evidence: what showed it, JSON types; for people.
    Raises:
        UsageError.
    """

    name: str
    options: Mapping[str, Any]
    bundle: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise UsageError(Param("profile"), ": name must be one line of text")
        for part in ("options", "evidence"):
            if not isinstance(getattr(self, part), Mapping):
                raise UsageError(Param("profile"), f": {part} must be an object")
        if self.bundle is not None and not isinstance(self.bundle, str):
            raise UsageError(Param("profile"), ": bundle must be a bundle's digest")
        if unknown := sorted(set(self.options) - set(OPTIONS)):
            raise UsageError(Param("profile"), f" has an unknown option {unknown[0]!r}; choose from {', '.join(OPTIONS)}")
        self.sampler(), self.compute()  # they check the values

    def sampler(self, **given: Any) -> SamplerOptions:
        """Its options of the sampler, with those of `given` that are not None in their place. Raises UsageError."""
        own = {name: value for name, value in self.options.items() if name in IN_GRAPH}
        return SamplerOptions(**own | {name: value for name, value in given.items() if value is not None})

    def compute(self, **given: Any) -> ComputePolicy | None:
        """As `sampler`, of what is computed."""
        own = {name: value for name, value in self.options.items() if name in COMPUTE}
        return ComputePolicy.of(
            **own | {name: value for name, value in given.items() if value is not None and value is not False}
        )

    def warn_unless_for(self, digest: str) -> None:
        """Warn where the bundle is not the one that it was found for."""
        if self.bundle not in (None, digest):
            other = f"profile {self.name} was found for another bundle, so its evidence does not apply to this one"
            warnings.warn(f"{other}; `dgemma tune` makes one that does", DgemmaWarning, stacklevel=2)

    def to_json(self) -> str:
        """What `read_profile` reads."""
        values = {"version": VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


NO_PROFILE = Profile(name="none", options={})


def read_profile(path: Path | None) -> Profile:
    """The profile of a file, TOML if its name ends so and else JSON, or an empty one; raises UsageError naming the file."""
    if path is None:
        return NO_PROFILE
    try:
        values = dict(parse_table(path.read_text(encoding="utf-8-sig"), toml=path.suffix == ".toml"))
    except OSError as error:
        raise UsageError(Param("profile"), f" {path}: cannot be read ({error.strerror or error}); name a file") from None
    except ValueError as error:
        why = f" {path}: is not a profile ({str(error)[:120]}); make one with `dgemma tune`"
        raise UsageError(Param("profile"), why) from None
    if values.pop("version", None) != VERSION:
        raise UsageError(Param("profile"), f" {path}: is not a profile of version {VERSION}; make one with `dgemma tune`")
    known = [f.name for f in fields(Profile)]
    try:
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(Param("profile"), f" has an unknown key {unknown[0]!r}; choose from {', '.join(known)}")
        if missing := [name for name in ("name", "options") if name not in values]:
            raise UsageError(Param("profile"), f" has no {missing[0]}")
        return Profile(**values)
    except UsageError as error:
        parts = error.parts[1:] if error.parts[:1] == ("profile",) else (": ", *error.parts)
        raise UsageError(Param("profile"), f" {path}", *parts) from None
