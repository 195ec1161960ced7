"""Bundles that must not load: edited, missing, truncated, newer, unknown keys, links, paths that leave the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import write_bundle

from dgemma.core.errors import BundleError, DgemmaError, TokenizerError
from dgemma.core.manifest import FORMAT_VERSION, MANIFEST, digest, list_files
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.session import Session
from dgemma.runtime.tokenizer import load_tokenizer

FILES = ["tokenizer.model", "onnx/encode.bin", "onnx/denoise.bin", "onnx/generate.bin", "onnx/decode.bin"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy.dgemma")


def refused(bundle: Path, *says: str) -> None:
    """Loading raises one line that names the file."""
    with pytest.raises(BundleError) as caught:
        Session.load(bundle)
    message = str(caught.value)
    assert "\n" not in message
    for text in says:
        assert text in message, message


def edit(bundle: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Change the manifest, and give it a digest that fits again unless told otherwise."""
    path = bundle / MANIFEST
    values = json.loads(path.read_text())
    change(values)
    if sign:
        values["digest"] = digest(values)
    path.write_text(json.dumps(values))


def test_a_good_bundle_opens(bundle: Path) -> None:
    opened = Bundle.open(str(bundle))
    assert sorted(opened.manifest.files) == sorted(FILES)
    assert opened.digest == json.loads((bundle / MANIFEST).read_text())["digest"]
    edit(bundle, lambda values: None)  # signing again changes nothing
    assert Bundle.open(bundle).digest == opened.digest


def test_the_list_of_files_is_complete(bundle: Path) -> None:
    assert sorted(list_files(bundle)) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["edited", "truncated", "longer", "empty", "missing", "folder", "link"])
def test_every_file_is_checked(bundle: Path, name: str, damage: str, tmp_path: Path) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    if damage == "edited":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage in ("truncated", "longer", "empty"):
        path.write_bytes({"truncated": content[:-1], "longer": content + b"x", "empty": b""}[damage])
    else:
        elsewhere = tmp_path / "elsewhere"
        shutil.move(path, elsewhere)
        if damage == "folder":
            path.mkdir()
        elif damage == "link":
            path.symlink_to(elsewhere)
    refused(bundle, path.name, "link" if damage == "link" else "again")


def test_every_byte_of_the_manifest_counts(bundle: Path) -> None:
    """An edit makes it no JSON, another digest, or the same values (white space outside strings)."""
    path = bundle / MANIFEST
    content = path.read_bytes()
    values = json.loads(content)
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            same = json.loads(damaged) == values
        except ValueError:
            same = False
        if not same:
            refused(bundle, MANIFEST)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"format_version": "1"}', b"[" * 100_000])
def test_what_is_no_manifest(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    refused(bundle, MANIFEST, "export the bundle again")


def test_edited_values_without_a_new_digest(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(steps=7), sign=False)
    refused(bundle, MANIFEST, "digest")


def test_newer_version(bundle: Path) -> None:
    edit(bundle, lambda values: values.update(format_version=FORMAT_VERSION + 1))
    refused(bundle, f"format version {FORMAT_VERSION + 1}", "upgrade dgemma")


@pytest.mark.parametrize(
    "where",
    [
        lambda v: v,
        lambda v: v["model"],
        lambda v: v["sampler"],
        lambda v: v["chat"],
        lambda v: v["tokenizer"],
        lambda v: v["files"]["tokenizer.model"],
        lambda v: v["graphs"]["onnx"]["encode"],
        lambda v: v["graphs"]["onnx"]["encode"]["inputs"][0],
    ],
)
def test_unknown_keys(bundle: Path, where: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    edit(bundle, lambda values: where(values).update(surprise=[]))
    refused(bundle, MANIFEST, "surprise")


@pytest.mark.parametrize("key", ["engines", "model", "tokenizer", "chat", "steps", "sampler", "dims", "graphs", "files"])
def test_missing_keys(bundle: Path, key: str) -> None:
    edit(bundle, lambda values: values.pop(key))
    if key != "files":
        refused(bundle, MANIFEST)
    else:
        with pytest.raises(DgemmaError, match="manifest"):
            Session.load(bundle)


@pytest.mark.parametrize(
    "change", [{"steps": "6"}, {"steps": 0}, {"steps": 7}, {"context": 16}, {"chunk": None}, {"canvas_length": True}]
)
def test_lengths_that_do_not_fit(bundle: Path, change: dict[str, Any]) -> None:
    edit(bundle, lambda values: values.update(change))
    refused(bundle, MANIFEST, "export the bundle again")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "onnx/../../outside", "a\\b", "C:evil", "", "."])
def test_paths_that_leave_the_bundle(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"x")
    edit(bundle, lambda values: values["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    refused(bundle, "bundle" if name == "." else "leaves the bundle")


def test_linked_folders(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "onnx", tmp_path / "elsewhere")
    (bundle / "onnx").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    refused(bundle, "onnx", "link")


def test_files_that_are_not_listed_are_not_used(bundle: Path) -> None:
    edit(bundle, lambda values: values["files"].pop("onnx/encode.bin"))
    refused(bundle, "onnx/encode.bin", "not listed")


def test_empty_graphs_are_refused_before_the_engine(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    (path / "onnx" / "encode.bin").write_bytes(b"")
    entry = {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    edit(path, lambda values: values["files"].update({"onnx/encode.bin": entry}))
    with pytest.raises(BundleError, match=r"encode\.bin: is empty"):
        Bundle.open(path).file("onnx/encode.bin")


@pytest.mark.parametrize("kind", ["missing", "file", "not a bundle"])
def test_what_is_no_bundle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.dgemma"
    if kind == "file":
        path.write_text("hello")
    elif kind == "not a bundle":
        path.mkdir()
    refused(path, "x.dgemma", "dgemma export")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs permissions that bind")
def test_unreadable_files(bundle: Path) -> None:
    (bundle / "tokenizer.model").chmod(0)
    refused(bundle, "permissions")


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    """The hashes fit, but the content is no tokenizer, or not the one that the manifest describes."""
    path = write_bundle(tmp_path / "b")
    edit(path, lambda values: values["tokenizer"].update(vocab_size=617))
    with pytest.raises(TokenizerError, match="618 pieces, not 617"):
        load_tokenizer(Bundle.open(path))
    edit(path, lambda values: values["tokenizer"].update(vocab_size=618, kind="words"))
    with pytest.raises(TokenizerError, match="sentencepiece or tokenizers"):
        load_tokenizer(Bundle.open(path))
    for kind, content in (("sentencepiece", b"garbage"), ("tokenizers", b"{}"), ("tokenizers", b"\xff")):
        (path / "tokenizer.model").write_bytes(content)
        entry = list_files(path)["tokenizer.model"]
        edit(path, lambda values, e=entry: values["files"].update({"tokenizer.model": vars(e)}))  # type: ignore[misc]
        edit(path, lambda values, k=kind: values["tokenizer"].update(kind=k))  # type: ignore[misc]
        with pytest.raises(TokenizerError, match=r"tokenizer\.model: cannot be read") as caught:
            load_tokenizer(Bundle.open(path))
        assert "\n" not in str(caught.value)
