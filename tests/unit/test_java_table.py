"""`docs/java.md` lists every public class of the Java libraries and their tool once, and nothing that is not there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "android_demo" / module / "src/main/java/org/dgemma" for module in ("tokenizers", "runtime", "jvm")]
PUBLIC = re.compile(r"^public (?:final |abstract )*(?:class|interface|enum) (\w+)", re.M)


def rows(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Classes and modules of every row."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            yield re.findall(r"`([\w.]+)`", cells[0]), re.findall(r"`([\w./]+)`", cells[1])


def classes() -> dict[str, bool]:
    """Every class file's name below `org.dgemma`, and whether it is public."""
    found = {}
    for source in SOURCES:
        for path in source.rglob("*.java"):
            if path.stem != "package-info":
                public = PUBLIC.search(path.read_text(encoding="utf-8"))
                found[".".join(path.relative_to(source).with_suffix("").parts)] = public is not None
    return found


def problems(page: str) -> list[str]:
    """What is wrong with the table, one line each."""
    known = classes()
    listed = Counter(name for names, _ in rows(page) for name in names)
    found = [f"{name} is not listed" for name, public in known.items() if public and not listed[name]]
    found += [f"{name} is listed {count} times" for name, count in listed.items() if count > 1]
    found += [f"there is no class {name}" for name in listed if name not in known]
    modules = {module for _, modules in rows(page) for module in modules}
    return sorted(found + [f"there is no {module}" for module in modules if not (ROOT / module).is_file()])


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "java.md").read_text(encoding="utf-8")


def test_the_table_is_complete(page: str) -> None:
    assert sum(classes().values()) > 30
    assert problems(page) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("| `runtime.Session` |", "| `runtime.Chat` |", ["runtime.Chat is listed 2 times", "runtime.Session is not listed"]),
        ("runtime.Numbers", "runtime.Letters", ["there is no class runtime.Letters"]),
        ("runtime/prefix.py", "runtime/suffix.py", ["there is no runtime/suffix.py"]),
    ],
)
def test_what_is_wrong_is_found(page: str, old: str, new: str, said: list[str]) -> None:
    assert problems(page.replace(old, new, 1)) == said
