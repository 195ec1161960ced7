"""The registry of studies: every result has one study, every study a page and a command that can start."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from dgemma.benchmarks.studies import __main__ as studies
from dgemma.benchmarks.studies import older, pages, registry
from dgemma.benchmarks.studies.registry import STUDIES, Study
from dgemma.core.errors import UsageError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty results and pages of a checkout of its own, with one study."""
    for name in ("RESULTS", "ROOT"):
        for module in (registry, studies):
            monkeypatch.setattr(module, name, tmp_path)
    monkeypatch.setattr(older, "RESULTS", tmp_path)
    study = Study(name="one", page="page", results=("one-*.json",), commands=("python make.py --out one-a.json",))
    monkeypatch.setattr(registry, "STUDIES", (study,))
    monkeypatch.setattr(studies, "STUDIES", (study,))
    monkeypatch.setattr(older, "CURRENT", ("one-sizes.json",))
    monkeypatch.setattr(pages, "stale", list)
    monkeypatch.setattr(pages, "write", lambda: None)
    (tmp_path / "one-sizes.json").write_text('{"bundles": [{"digest": "today"}]}')
    return tmp_path


def test_what_is_committed_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.main(["check"]) == 0, capsys.readouterr().out


def test_names_are_unique_and_every_page_has_a_study() -> None:
    assert len({study.name for study in STUDIES}) == len(STUDIES)
    assert {study.page for study in STUDIES} == set(pages.PAGES)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_runs_programs_and_modules_that_exist(study: Study, repo_root: Path) -> None:
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    for line in study.commands:
        program, *arguments = line.split()
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE), line
        elif arguments[0] == "-m":
            path = repo_root.joinpath(*arguments[1].split(".")[1:])
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), line
        else:
            assert program == "dgemma" or (repo_root / arguments[0]).is_file(), line


def test_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(study.name in shown for study in STUDIES)


def test_run_measures_and_gives_the_status_of_what_failed(checkout: Path) -> None:
    (checkout / "make.py").write_text("import sys; open(sys.argv[2], 'w').write('{}'); sys.exit(3 * ('bad' in sys.argv))")
    assert studies.main(["run", "one"]) == 0
    assert (checkout / "one-a.json").read_text() == "{}"
    (checkout / "make.py").write_text("raise SystemExit(3)")
    assert studies.main(["run", "one"]) == 3


def test_run_refuses_what_it_does_not_know_and_what_needs_a_value() -> None:
    with pytest.raises(UsageError, match="'ones' is unknown; choose one of evaluate, gate"):
        studies.main(["run", "ones"])
    with pytest.raises(UsageError, match="'peers' needs a value for FOLDER; put it in and run: python -m"):
        studies.main(["run", "peers"])


def test_check_finds_results_of_nobody_older_bundles_and_stale_pages(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, digest in (("one-new.json", "today"), ("one-old.json", "yesterday"), ("other.json", "today")):
        (checkout / name).write_text(json.dumps({"runs": [{"digest": digest}]}))
    monkeypatch.setattr(pages, "stale", lambda: ["page.md"])
    assert studies.main(["check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one-old.json: measured on an older bundle"
    assert [line.split(":")[0] for line in lines[1:]] == ["page.md", "other.json"]


def test_a_page_that_differs_or_is_missing_or_nobodys_is_stale(tmp_path: Path) -> None:
    pages.write(tmp_path)
    assert pages.stale(tmp_path) == []
    (tmp_path / "quality.md").write_text("other")
    (tmp_path / "speed.md").unlink()
    (tmp_path / "nobody.md").write_text("")
    assert pages.stale(tmp_path) == ["nobody.md", "quality.md", "speed.md"]


def test_programs_are_those_of_this_environment() -> None:
    assert all(command[0] == sys.executable for command in studies.PROGRAMS.values())
