"""Links: those of a hub's cache are files like others, in bundles and in checkpoints; others are refused in bundles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import micro
import pytest
import torch
from fake_bundle import write_bundle

from dgemma.core.errors import BundleError, CheckpointError
from dgemma.core.manifest import read_manifest
from dgemma.core.sampler import SamplerConfig
from dgemma.model.checkpoint import load, random_weights, save
from dgemma.quantize.read_checkpoint import open_quantized
from dgemma.quantize.recipes import find
from dgemma.quantize.write_checkpoint import write_quantized
from dgemma.runtime.bundle import Bundle

NAME = "models--some--name"


def cached(folder: Path, cache: Path, *, name: str = NAME, below: str = "") -> Path:
    """Lay a folder out as huggingface_hub does: every file a relative link into the blobs of its repository."""
    root = cache / name
    snapshot = root / "snapshots" / "0f3c9" / below
    (root / "blobs").mkdir(parents=True)
    for number, source in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        source.rename(blob)
        link = snapshot / source.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("below", ["", "tiny.dgemma", "a/b"])
@pytest.mark.parametrize("name", [NAME, "datasets--some--name", "spaces--some--name"])
def test_a_bundle_of_a_cache_opens(tmp_path: Path, below: str, name: str) -> None:
    plain = write_bundle(tmp_path / "plain")
    digest = read_manifest(plain)[1]
    bundle = cached(plain, tmp_path / "hub", name=name, below=below)
    assert read_manifest(bundle)[1] == digest
    assert Bundle.open(bundle).file("onnx/encode.bin").is_file()
    (tmp_path / "mine").symlink_to(bundle, target_is_directory=True)  # a folder that is reached by a link lies where it is
    assert read_manifest(tmp_path / "mine")[1] == digest


def relink(bundle: Path, target: Path) -> None:
    file = bundle / "onnx" / "encode.bin"
    content = file.read_bytes()
    file.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    file.symlink_to(target)


ELSEWHERE: dict[str, Callable[[Path], Path]] = {
    "outside": lambda bundle: bundle.parents[4] / "outside",
    "another repository's blobs": lambda bundle: bundle.parents[3] / "models--other--name" / "blobs" / "a",
    "beside the blobs": lambda bundle: bundle.parents[2] / "refs" / "a",
    "a folder in the blobs": lambda bundle: bundle.parents[1] / "blobs" / "deeper" / "a",
    "the snapshot itself": lambda bundle: bundle / "onnx" / "other.bin",
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_links_that_leave_the_cache_are_refused(tmp_path: Path, place: str) -> None:
    bundle = cached(write_bundle(tmp_path / "plain"), tmp_path / "a" / "hub")
    relink(bundle, ELSEWHERE[place](bundle))
    assert "onnx/encode.bin: is a link; a bundle holds plain files only" in refused(bundle)


@pytest.mark.parametrize("root", ["models", "some--name", "Models--some--name"])
def test_the_same_links_elsewhere_are_refused_with_the_cure(tmp_path: Path, root: str) -> None:
    assert refused(cached(write_bundle(tmp_path / "plain"), tmp_path / "hub", name=root)).endswith("so copy it with cp -rL")


def test_folders_and_lost_blobs(tmp_path: Path) -> None:
    bundle = cached(write_bundle(tmp_path / "plain"), tmp_path / "hub")
    (bundle / "onnx" / "encode.bin").resolve().unlink()
    assert "encode.bin: is a link" in refused(bundle)
    plain = write_bundle(tmp_path / "again")
    (plain / "onnx").rename(bundle.parents[1] / "blobs" / "onnx")
    shutil.rmtree(bundle / "onnx")
    (bundle / "onnx").symlink_to("../../blobs/onnx", target_is_directory=True)
    assert "onnx: is a link" in refused(bundle)


def test_changed_blobs_are_found(tmp_path: Path) -> None:
    bundle = cached(write_bundle(tmp_path / "plain"), tmp_path / "hub")
    file = bundle / "onnx" / "encode.bin"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert "content differs" in refused(bundle)


def test_an_archive_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").write_bytes(b"PK")
    message = refused(tmp_path / "tiny.zip")
    assert message.endswith("tiny.zip: is a file, not a bundle made by `dgemma export`; unpack an archive and give the folder")


def test_checkpoints_of_a_cache_load(tmp_path: Path) -> None:
    model = random_weights(micro.CONFIG, 1)
    save(tmp_path / "plain", model, SamplerConfig())
    write_quantized(tmp_path / "plain", tmp_path / "store", find("w8"))
    folder = cached(tmp_path / "plain", tmp_path / "hub")
    assert all(torch.equal(load(folder).model.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    store = cached(tmp_path / "store", tmp_path / "hub", name="models--some--store")
    assert open_quantized(store).recipe.name == "w8"
    file = next(store.glob("*.safetensors"))
    blob = file.resolve()
    file.unlink()
    file.symlink_to(blob.rename(tmp_path / "elsewhere"))
    with pytest.raises(CheckpointError, match="cp -rL"):
        open_quantized(store)
