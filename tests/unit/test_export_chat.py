"""Chat templates rendered once and split into ids, and templates that cannot be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import micro
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dgemma.core.errors import CheckpointError
from dgemma.export.chat import chat_template, read_tokenizer
from dgemma.model.tiny.publish import TEMPLATE

CONFIG = replace(micro.CONFIG, eos_token_ids=(1, 5))
PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n", "user", "model"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with a `tokenizer.json` of words and characters."""
    letters = {chr(c): i for i, c in enumerate(range(33, 127), len(PIECES))}
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(PIECES)} | letters, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(PIECES)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def split(folder: Path, template: str) -> list[tuple[int, ...]]:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = read_tokenizer(folder)
    assert found is not None and found[0].kind == "tokenizers" and found[0].vocab_size == len(PIECES) + 94
    chat = chat_template(folder, CONFIG, found[1], found[2])
    assert chat is not None
    return [chat.start, chat.user_prefix, chat.user_suffix, chat.model_prefix, chat.model_suffix]


def test_tokenizer_json(folder: Path) -> None:
    assert split(folder, TEMPLATE) == [(2,), (4, 7, 6), (5, 6), (4, 8, 6), (6,)]


def test_sentencepiece_comes_first(folder: Path, tiny_checkpoint: Path) -> None:
    shutil.copy(tiny_checkpoint / "tokenizer.model", folder)
    found = read_tokenizer(folder)
    assert found is not None and found[0].kind == "sentencepiece"
    spec, encode, piece = found
    assert "".join(map(piece, encode("lamp"))).replace("▁", "") == "lamp" and spec.vocab_size > 256


def test_a_template_without_a_bos_and_one_without_a_stop(folder: Path) -> None:
    assert split(folder, TEMPLATE.replace("{{ bos_token }}", ""))[0] == ()
    assert split(folder, TEMPLATE.replace("<end_of_turn>", ""))[4] == (6,)


def test_no_template_and_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    found = read_tokenizer(folder)
    assert found is not None and chat_template(folder, CONFIG, found[1], found[2]) is None
    (tmp_path / "none").mkdir()
    assert read_tokenizer(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "every message once"),
        ("hello", "every message once"),
        ("{% for m in messages %}", "cannot be rendered"),
        ("{{ messages[7].content.x.y }}", "cannot be rendered"),
        ("{{ raise_exception('no') }}", "cannot be rendered"),
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}|{% endfor %}", "opens unlike the first"),
        ("{% for m in messages %}{{ m.content }}{{ '' if add_generation_prompt else '|' }}{% endfor %}>", "cannot be split"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_split(template: str, says: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as raised:
        split(folder, template)
    assert "chat_template.jinja" in str(raised.value) and "\n" not in str(raised.value)


def test_a_template_that_is_no_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    found = read_tokenizer(folder)
    assert found is not None
    with pytest.raises(CheckpointError, match="cannot be rendered"):
        chat_template(folder, CONFIG, found[1], found[2])
