"""A checkpoint whose embedding has more rows than its tokenizer has pieces: it exports, answers, and decodes every id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dgemma import Session
from dgemma.export.pipeline import export_bundle
from dgemma.export.request import check, notes

EXTRA = 64


@pytest.mark.slow
def test_ids_without_text_decode_to_nothing_and_answers_stay_right(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "padded"
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    (name,) = [key for key in weights if key.endswith("embed_tokens.weight")]
    table = weights[name]
    pieces, width = table.shape
    weights[name] = table.new_zeros(pieces + EXTRA, width)
    weights[name][:pieces] = table
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    part = config if "vocab_size" in config else config["text_config"]
    assert part["vocab_size"] == pieces
    part["vocab_size"] += EXTRA
    (folder / "config.json").write_text(json.dumps(config))

    said = notes(check(folder, engines=("onnx",), recipe="w8"))
    assert any(f"ids {pieces} to {pieces + EXTRA - 1} of the model have no text" in line for line in said), said
    bundle = export_bundle(folder, tmp_path / "padded.dgemma", engines=("onnx",), recipe="w8")
    with Session.load(bundle, engine="onnx") as session:
        assert session.manifest.model.vocab_size == pieces + EXTRA
        assert session.tokenizer is not None
        assert session.tokenizer.decode([pieces, pieces + EXTRA - 1]) == ""
        for loop in ("host", "graph"):
            answers = [session.generate(f"Reverse the word {word}.", loop=loop).text for word in ("table", "lemon")]
            assert answers == ["elbat", "nomel"]
