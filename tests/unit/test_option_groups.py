"""Groups of options: typer sees their fields, the command gets them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dgemma.cli.groups import grouped


@dataclass(frozen=True, kw_only=True)
class Inner:
    many: Annotated[list[str] | None, typer.Option("--many")] = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    needed: Annotated[int, typer.Option("--needed")]
    inner: Inner
    switch: Annotated[bool, typer.Option("--on/--off")] = True


@grouped
def run(name: Annotated[str, typer.Argument()], *, outer: Outer, last: Annotated[float, typer.Option("--last")] = 0.5) -> None:
    print(name, outer, last)


def invoke(*args: str) -> tuple[int, str]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(run)
    found = CliRunner().invoke(app, args)
    return found.exit_code, found.output


def test_fields_are_options() -> None:
    inner, outer = Inner(many=["a", "b"]), Outer(needed=3, inner=Inner())
    assert invoke("x", "--needed", "3") == (0, f"x {outer} 0.5\n")
    outer = Outer(needed=3, inner=inner, switch=False)
    assert invoke("--many", "a", "--off", "--needed", "3", "--many", "b", "x", "--last", "2") == (0, f"x {outer} 2.0\n")


def test_a_field_without_a_default_must_be_given() -> None:
    status, said = invoke("x")
    assert status == 2 and "Missing option '--needed'" in said


def test_their_order_is_that_of_the_parameters() -> None:
    _, said = invoke("--help")
    places = [said.index(option) for option in ("--needed", "--many", "--on", "--last")]
    assert places == sorted(places)


def test_a_name_stands_for_one_option() -> None:
    with pytest.raises(ValueError, match="duplicate parameter name: 'many'"):

        @grouped
        def twice(*, one: Inner, many: Annotated[int, typer.Option("--other")] = 0) -> None: ...
