"""The Python runtime gives the committed vectors of tokenizers, which other languages are held to."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from program import load

from dgemma.runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer

HERE = Path(__file__).parent
HEAD = json.loads(gzip.decompress((HERE / "tokenizers" / "vectors.json.gz").read_bytes()))


def generator() -> Any:
    return load(HERE / "make_tokenizer_vectors.py")


@pytest.fixture(params=sorted(HEAD["models"]))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Any]:
    entry = HEAD["models"][request.param]
    path = HERE.parents[1] / entry["file"]
    if entry["file"].endswith(".gz"):
        path = tmp_path / entry["file"].removesuffix(".gz")
        path.write_bytes(gzip.decompress((HERE / "tokenizers" / entry["file"]).read_bytes()))
    kinds: dict[str, Any] = {"sentencepiece": SentencePieceTokenizer, "tokenizers": HuggingFaceTokenizer}
    return entry, kinds[entry["kind"]](str(path), entry["markers"])


def test_examples_and_checksums(model: tuple[dict[str, Any], Any]) -> None:
    make = generator()
    entry, tokenizer = model
    ranges = HEAD[entry["ranges"]]
    assert HEAD["format"] == 1 and HEAD["fragments"] == make.FRAGMENTS and tokenizer.vocab_size == entry["vocab_size"]
    for text, ids, shown, pieces in entry["examples"]:
        assert (tokenizer.encode(text), tokenizer.decode(ids), tokenizer.pieces(ids)) == (ids, shown, pieces)
    seed = entry["seed"] << 32
    for i in (0, len(entry["blocks"]) - 1):
        assert make.block(tokenizer, make.Random(seed + i), ranges) == entry["blocks"][i]
    assert make.block(tokenizer, make.Random(seed + 1), ranges) != entry["blocks"][0]  # the checksum tells strings apart
    assert make.long_text(tokenizer, make.Random(seed), ranges) == entry["long"]


def test_there_are_enough_strings() -> None:
    assert sum(len(entry["blocks"]) for entry in HEAD["models"].values()) * HEAD["block"] >= 10_000
