"""tiny for a Snapdragon's NPU without contexts, which only Qualcomm's compiler makes, and what Python makes of the sources.

    python tests/support/npu_bundle.py OUT.dgemma fp32|w8a16|contexts

Java's tests run the same sources. Beside golden trajectories, `golden.npz` has tokens and steps of decoding, of a generation
that commits positions early, and of one with speculation, so that every graph of the engine is compared. It needs
build/tiny.dgemma for fp32. `contexts` needs onnxruntime-qnn and build/tiny-npu-w8a16.dgemma: graphs of one width and length,
each in a context of its own, for the emulator crashes on a context with several.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import static_bundle

from dgemma import Session
from dgemma.cli.export import GOLDEN_PROMPTS
from dgemma.core.manifest import list_files, read_manifest, write_manifest
from dgemma.core.trajectory import write_npz
from dgemma.export import static
from dgemma.export.qnn import contexts, lower
from dgemma.runtime.bundle import Bundle
from dgemma.runtime.engines import choose
from dgemma.verify import golden
from dgemma.verify.static_graphs import TappedEngine

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Write 4271 in words."


def session_of(path: Path) -> Session:
    """The NPU's sources on the processor."""
    bundle = Bundle.open(path)
    return Session(bundle, TappedEngine(bundle, version=choose(bundle, "onnx")[1], threads=1, sources=True))


def finish(stage: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden.Session, "load", lambda path, threads: session_of(path))
        golden.write(stage, None, GOLDEN_PROMPTS)
    with np.load(stage / golden.FILE) as file:
        arrays = dict(file)
    with session_of(stage) as session:
        for name, speculate in (("active", False), ("checked", True)):
            result = session.generate(PROMPT, max_new_tokens=64, seed=5, early_commit=0.1, speculate=speculate)
            arrays[f"{name}_tokens"] = np.array(result.tokens)
            arrays[f"{name}_counts"] = np.array([result.steps, result.position_forwards])
            session.reset()
        arrays["decoded_tokens"] = np.array(session.decode_greedy(PROMPT, max_new_tokens=64).tokens)
    write_npz(stage / golden.FILE, dict(sorted(arrays.items())))


def compile_contexts(source: Path, out: Path) -> None:
    """A copy of a bundle with contexts for the canvas behind a prefix of 128 slots, and no other graphs."""
    shutil.copytree(source, out)
    shutil.rmtree(out / lower.FOLDER / "SM8650")
    manifest = read_manifest(source)[0]
    (name, spec), rows = next(iter(manifest.targets.items())), manifest.canvas_length
    kept = [replace(g, file="", binary="") for g in spec.graphs if g.rows == rows and g.slots in (0, 128)]
    compiler = lower.Chip(name="SM8650", stage=out, kept=None)
    found = compiler.compile([[graph] for graph in kept], 1, lambda *_: None)
    versions = {**spec.versions, "qairt": lower.qairt()}
    made = replace(spec, graphs=tuple(found), versions=versions)
    write_manifest(out, replace(manifest, targets={name: made}, files=list_files(out)))


if __name__ == "__main__":
    out, recipe = Path(sys.argv[1]), sys.argv[2]
    if recipe == "contexts":
        compile_contexts(ROOT / "build/tiny-npu-w8a16.dgemma", out)
    else:
        plain = ROOT / ("build/tiny.dgemma" if recipe == "fp32" else "src/dgemma/bundles/tiny.dgemma")
        with pytest.MonkeyPatch.context() as patch:
            if recipe == "fp32":  # as in large models, spans of layers, some of one kind, and tiles of the head
                patch.setattr(contexts, "split", lambda *_: [(0, 2), (2, 5), (5, 6)])
                patch.setattr(static, "HEAD_TILE", 256)
            static_bundle.beside(plain, ROOT / "checkpoints/tiny", out, recipe, finish)
