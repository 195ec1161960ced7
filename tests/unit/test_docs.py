"""What the strict build of the site does not see: links as they stand in the repository, and names repeated from the code."""

from __future__ import annotations

import re
from pathlib import Path

from dgemma.cli import COMMANDS
from dgemma.core.manifest import read_manifest

PAGES = ("README.md", "CONTRIBUTING.md", "examples/README.md", "reference/README.md", "android_demo/README.md")
_LINK = re.compile(r"""(?:\]\(|src=")(?!https?:|#)([^)#"]+)""")


def test_links_and_pictures_lead_to_files_of_the_repository(repo_root: Path) -> None:
    """Where a host of the repository shows the pages; in the site, docs/site.py leads pictures of other folders there."""
    pages = [*(repo_root / name for name in PAGES), *(repo_root / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    assert len([link for _, link in links if link.endswith((".png", ".svg"))]) >= 8
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def test_the_readme_is_short_and_its_commands_exist(repo_root: Path) -> None:
    text = (repo_root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    named = set(re.findall(r"^dgemma ([a-z]+)", text, re.MULTILINE))
    assert len(named) >= 8 and named <= set(COMMANDS)
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in set(re.findall(r"make ([a-z-]+)", text)))


def test_the_page_of_graphs_names_every_graph_and_tensor(repo_root: Path, tiny_bundle: Path) -> None:
    page = (repo_root / "docs" / "reference" / "graphs.md").read_text(encoding="utf-8")
    manifest, _ = read_manifest(tiny_bundle, check_files=False)
    for graphs in manifest.graphs.values():
        for name, graph in graphs.items():
            tensors = {re.sub(r"_\d+$", "_I", tensor.name) for tensor in (*graph.inputs, *graph.outputs)}
            assert not [word for word in {name, *tensors} if f"`{word}`" not in page]
