"""Ids where transformers builds a GemmaTokenizer of a folder: of a `tokenizer.json`, or of SentencePiece with added tokens."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from dgemma.core.errors import CheckpointError
from dgemma.export.tokenizer import read_tokenizer
from dgemma.runtime.tokenizer import HuggingFaceTokenizer

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "vectors" / "tokenizers"
TEXTS = [
    "hello", " hello", "hello ", "\thello\t", "\n\nhello\n\n\n", "\u00a0x\u00a0", "\u200bx", "👩\u200d👩\u200d👧 ok",
    "e\u0301 e",
    "שלום עולם", "你好，世界", "", " ", " \n\t ", "a\r\nb\r\n", "word " * 50, "<0x41> ▁x▁", "\x01\x02", "a  b   c", "'s it's",
    "<b>&\"", "ﬁ Å", "<|new|>", "x <|new|> y", "a<|new|><|word|>b", " <|wide|> x", "in<|one|>word <|one|> ", "<eos>a<bos>",
    "<start_of_turn>user\nx<end_of_turn>\n", "<mas", "Reverse the word table.", "4271 and 3,5",
]  # fmt: skip
SIZE = 618  # pieces of tiny's SentencePiece model
ADDED = {
    "<|new|>": {"special": True},
    "<|word|>": {},
    "<|wide|>": {"lstrip": True, "rstrip": True},
    "<|one|>": {"single_word": True},
}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _folder(folder: Path, settings: dict[str, Any] | None) -> Path:
    _write(folder / "config.json", {"model_type": "diffusion_gemma"})
    if settings is not None:
        _write(folder / "tokenizer_config.json", settings)
    return folder


def _sentencepiece(folder: Path, settings: dict[str, Any] | None) -> Path:
    shutil.copy(ROOT / "checkpoints" / "tiny" / "tokenizer.model", folder)
    return _folder(folder, settings)


def _decoder() -> dict[str, Any]:
    base = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    return {str(SIZE + n): base | {"content": name} | flags for n, (name, flags) in enumerate(ADDED.items())}


def _compare(folder: Path, out: Path) -> HuggingFaceTokenizer:
    """Ids of the bundle's file, of the export and of transformers."""
    found = read_tokenizer(folder)
    assert found is not None and found.spec.kind == "tokenizers"
    out.mkdir()
    found.save(out)
    ours = HuggingFaceTokenizer(str(out / found.spec.file), [])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == found.spec.vocab_size
    # transformers adds `<bos>` and its like to a vocabulary that lacks them, past the model's own; here they stay text
    absent = [name for name in ("<bos>", "<eos>") if ours._model.token_to_id(name) is None]
    for text in (text for text in TEXTS if not any(name in text for name in absent)):
        ids = list(theirs.encode(text, add_special_tokens=False))
        assert ours.encode(text) == found.encode(text) == ids, repr(text)
        shown = [i for i in ids if i not in ours._markers]
        assert ours.decode(ids) == theirs.decode(shown), repr(text)
    return ours


@pytest.mark.parametrize("name", [None, "GemmaTokenizer", "GemmaTokenizerFast"])
def test_sentencepiece_with_an_added_tokens_decoder(name: str | None, tmp_path: Path) -> None:
    settings = {"added_tokens_decoder": _decoder(), "bos_token": "<s>", "eos_token": "</s>"}
    folder = _sentencepiece(tmp_path, settings | ({"tokenizer_class": name} if name else {}))
    ours = _compare(folder, tmp_path / "out")
    assert ours.encode("a<|new|>")[-1] == SIZE


@pytest.mark.parametrize("extra", [[], ["<|new|>"]])
def test_sentencepiece_with_added_tokens_json(extra: list[str], tmp_path: Path) -> None:
    folder = _sentencepiece(tmp_path, {"additional_special_tokens": extra} if extra else None)
    _write(folder / "added_tokens.json", {name: SIZE + n for n, name in enumerate(ADDED)})
    assert _compare(folder, tmp_path / "out").encode("<|word|>") == [SIZE + 1]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_other_sentencepiece_models(kind: str, tmp_path: Path) -> None:
    """With a normalizer, a space put before the text and symbols of its own, which GemmaTokenizer leaves out or adds."""
    import sentencepiece

    lines = [line for line in (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines() if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type=kind,
        vocab_size=450,
        byte_fallback=True,
        control_symbols=["<start_of_turn>"],
        user_defined_symbols=["\n", "<|word|>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).vocab_size()
    _folder(tmp_path, {"unk_token": "<unk>", "bos_token": "<s>"})
    _write(tmp_path / "added_tokens.json", {"<|new|>": size})
    _compare(tmp_path, tmp_path / "out")


def test_special_tokens_map(tmp_path: Path) -> None:
    folder = _sentencepiece(tmp_path, {"mask_token": "<|word|>"})
    _write(folder / "added_tokens.json", {name: SIZE + n for n, name in enumerate(ADDED)})
    token = {"content": "<|new|>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    _write(folder / "special_tokens_map.json", {"mask_token": token, "pad_token": "<pad>"})
    _compare(folder, tmp_path / "out")


@pytest.mark.parametrize("decoder", [{"618": 7}, {"x": {"content": "y"}}])
def test_tokens_that_are_none(decoder: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^[^\n]*tokenizer_config.json: names an invalid token [^\n]*correct it$"):
        read_tokenizer(_sentencepiece(tmp_path, {"added_tokens_decoder": decoder}))


def test_ids_that_the_added_tokens_cannot_have(tmp_path: Path) -> None:
    """transformers gives such a token the next free id, which is another than the file says."""
    folder = _sentencepiece(tmp_path, None)
    _write(folder / "added_tokens.json", {"<|new|>": SIZE + 7})
    with pytest.raises(CheckpointError, match=r"tokenizer.model: lacks the added token '<\|new\|>' \(id 625\)"):
        read_tokenizer(folder)


def test_sentencepiece_alone_stays_as_it_is(tmp_path: Path) -> None:
    found = read_tokenizer(_sentencepiece(tmp_path, None))
    assert found is not None and found.spec.kind == "sentencepiece" and found.spec.vocab_size == SIZE and found.rebuilt is None


def test_what_differs_where_there_is_sentencepiece_alone(tmp_path: Path) -> None:
    """SentencePiece reads it as the model was trained. transformers never finds the trainer's own symbols that begin with a
    space, and adds `<bos>`, `<eos>` and `<mask>` past the vocabulary, where a padded model has rows."""
    folder = _sentencepiece(tmp_path, None)
    found, theirs = read_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert found is not None
    differ = [text for text in TEXTS if found.encode(text) != list(theirs.encode(text, add_special_tokens=False))]
    assert differ == ["word " * 50, "<eos>a<bos>", "Reverse the word table.", "4271 and 3,5"]
    assert found.encode("Reverse the word")[1:] == [7, 79]  # `▁the` and `▁word`
    assert (len(theirs), found.spec.vocab_size) == (SIZE + 3, SIZE)


def _json(folder: Path, kind: str, settings: dict[str, Any] | None) -> Path:
    (folder / "tokenizer.json").write_bytes(gzip.decompress((FILES / f"hf-{kind}.json.gz").read_bytes()))
    return _folder(folder, settings)


@pytest.mark.parametrize("kind", ["gemma", "gpt2", "llama2", "llama3", "words"])
@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "GemmaTokenizer"}, {"added_tokens_decoder": {}}])
def test_a_tokenizer_json(settings: dict[str, Any] | None, kind: str, tmp_path: Path) -> None:
    folder = _json(tmp_path, kind, settings)
    found = read_tokenizer(folder)
    assert found is not None
    assert (found.note is None) == (found.rebuilt is None)
    if kind == "gpt2":
        assert found.note is not None and "pre_tokenizer" in found.note and "tokenizer.json" in found.note
    _compare(folder, tmp_path / "out")


def test_a_file_of_gemmas_form_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = _json(tmp_path, "gemma", {"tokenizer_class": "GemmaTokenizer"})
    made = transformers.AutoTokenizer.from_pretrained(folder)
    made.save_pretrained(folder)
    found = read_tokenizer(folder)
    assert found is not None and found.rebuilt is None and found.note is None
    _compare(folder, tmp_path / "out")


def test_a_model_that_is_no_bpe(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer.json: is not a BPE model, as GemmaTokenizer needs"):
        read_tokenizer(_json(tmp_path, "unigram", None))


def test_another_class_takes_the_file_as_it_is(tmp_path: Path) -> None:
    folder = _json(tmp_path, "gpt2", {"tokenizer_class": "TokenizersBackend"})
    found = read_tokenizer(folder)
    assert found is not None and found.rebuilt is None
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a  b", add_special_tokens=False).ids
    assert found.encode("a  b") == ids
    _compare(folder, tmp_path / "out")


def test_a_class_that_may_build_another_pipeline_is_named(tmp_path: Path) -> None:
    found = read_tokenizer(_json(tmp_path, "llama2", {"tokenizer_class": "LlamaTokenizerFast"}))
    assert found is not None and found.rebuilt is None
    assert found.note == (
        "tokenizer.json is read as it is; for tokenizer_class 'LlamaTokenizerFast' transformers may put parts of its own in"
    )
