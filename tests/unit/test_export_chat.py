"""Chat templates rendered once and split into ids, and templates that cannot be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dgemma.core.config import ModelConfig
from dgemma.core.errors import CheckpointError
from dgemma.core.manifest import ChatTemplate
from dgemma.core.roles import WHITESPACE
from dgemma.export.chat import read_chat
from dgemma.export.template import read_template
from dgemma.export.tokenizer import read_tokenizer
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, chat_ids
from dgemma.train.tiny.vocabulary import TEMPLATE

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
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    return tmp_path


def split(folder: Path, template: str) -> list[tuple[int, ...]]:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = read_tokenizer(folder)
    assert found is not None and found.spec.kind == "tokenizers" and found.spec.vocab_size == len(PIECES) + 94
    chat = read_chat(folder, CONFIG, found)[0]
    assert chat is not None
    return [chat.start, chat.user_prefix, chat.user_suffix, chat.model_prefix, chat.model_suffix]


def test_tokenizer_json(folder: Path) -> None:
    assert split(folder, TEMPLATE) == [(2,), (4, 7, 6), (5, 6), (4, 8, 6), (6,)]


def test_tokenizer_json_comes_before_sentencepiece(folder: Path, tiny_checkpoint: Path) -> None:
    shutil.copy(tiny_checkpoint / "tokenizer.model", folder)
    found = read_tokenizer(folder)
    assert found is not None and found.spec.kind == "tokenizers"
    (folder / "tokenizer.json").unlink()
    found = read_tokenizer(folder)
    assert found is not None and found.spec.kind == "sentencepiece" and found.spec.vocab_size > 256
    assert "".join(map(found.piece, found.encode("lamp"))).replace("▁", "") == "lamp"


def test_a_template_without_a_bos_and_one_without_a_stop(folder: Path) -> None:
    assert split(folder, TEMPLATE.replace("{{ bos_token }}", ""))[0] == ()
    assert split(folder, TEMPLATE.replace("<end_of_turn>", ""))[4] == (6,)


def test_no_template_and_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    found = read_tokenizer(folder)
    assert found is not None and read_chat(folder, CONFIG, found)[0] is None
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
        ("{% for m in messages %}{{ loop.index }}{{ m.content }}|{% endfor %}", "does not open like the first"),
        ("{% for m in messages %}{{ m.content }}{{ '' if add_generation_prompt else '|' }}{% endfor %}>", "is not supported"),
    ],
)
def test_templates_that_cannot_be_split(template: str, says: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as raised:
        split(folder, template)
    assert "chat_template.jinja" in str(raised.value) and "\n" not in str(raised.value)


def test_a_template_that_is_no_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    found = read_tokenizer(folder)
    assert found is not None
    with pytest.raises(CheckpointError, match="cannot be rendered"):
        read_chat(folder, CONFIG, found)[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("added_tokens.json", '{"<|new|>": 900}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"900": {"content": "<|new|>"}}}'),
    ],
)
def test_added_tokens_that_the_tokenizer_lacks(name: str, text: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copy(tiny_checkpoint / "tokenizer.model", tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"tokenizer.model: lacks the added token '<\|new\|>' \(id 900\); .*save_pretrained"
    ):
        read_tokenizer(tmp_path)


def test_places_of_a_template(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None
    (tmp_path / "chat_template.json").write_text('{"chat_template": "c"}', encoding="utf-8")
    assert read_template(tmp_path) == (tmp_path / "chat_template.json", "c")
    processor = tmp_path / "processor_config.json"
    processor.write_text('{"chat_template": "p"}', encoding="utf-8")
    assert read_template(tmp_path) == (processor, "p")
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": [{"name": "rag", "template": "r"}]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="none is named default"):
        read_template(tmp_path)
    config.write_text('{"chat_template": [{"name": "default", "template": "b"}]}', encoding="utf-8")
    assert read_template(tmp_path) == (config, "b")
    named = tmp_path / "additional_chat_templates"
    named.mkdir()
    (named / "rag.jinja").write_text("r", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"additional_chat_templates: has several .* none is named default"):
        read_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("a", encoding="utf-8")
    assert read_template(tmp_path) == (tmp_path / "chat_template.jinja", "a")
    (named / "default.jinja").write_text("d", encoding="utf-8")
    assert read_template(tmp_path) == (named / "default.jinja", "d")
    config.write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: cannot be read as JSON"):
        read_tokenizer_beside(tmp_path)


def read_tokenizer_beside(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(Tokenizer(models.BPE({"a": 0}, [])).to_str(), encoding="utf-8")
    read_tokenizer(folder)


def test_what_trim_takes_away() -> None:
    assert set(WHITESPACE) == {chr(c) for c in range(0x110000) if chr(c).isspace()}


def test_trim_and_text_beside_the_content(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<start_of_turn>Q: {{ m.content | trim }}!<end_of_turn>{% endfor %}", encoding="utf-8"
    )
    found = read_tokenizer(folder)
    assert found is not None
    chat = read_chat(folder, CONFIG, found)[0]
    assert chat == ChatTemplate(
        start=(), user_prefix=(4,), user_suffix=(5,), model_prefix=(), model_suffix=(),
        user_lead="Q: ", user_tail="!", trim="both",
    )  # fmt: skip


def test_a_model_without_a_stop_token(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    found = read_tokenizer(folder)
    assert found is not None
    model = replace(CONFIG, eos_token_ids=())
    chat = read_chat(folder, model, found)[0]
    assert chat is not None and chat.user_suffix == (5, 6) and chat.model_suffix == (5, 6)
    manifest: Any = SimpleNamespace(model=model, chat=chat)
    tokenizer = HuggingFaceTokenizer(str(folder / "tokenizer.json"), [2, 4, 5])
    first = chat_ids(manifest, tokenizer, "x", [])
    assert chat_ids(manifest, tokenizer, "x", [*first, 7]) == [5, 6, *first[1:]]  # the template's own end of a turn


def test_another_trim_in_later_turns(folder: Path) -> None:
    later = "{% for m in messages %}<start_of_turn>{{ m.content | trim if loop.first else m.content }}<end_of_turn>{% endfor %}"
    with pytest.raises(CheckpointError, match="changes the user's text in a way that a bundle cannot carry"):
        split(folder, later)
    assert split(folder, later.replace("if loop.first else m.content", "if true else 1"))[1] == (4,)


def test_notes(folder: Path, tmp_path: Path) -> None:
    def said(config: ModelConfig = CONFIG) -> tuple[str, ...]:
        found = read_tokenizer(folder)
        return read_chat(folder, config, found)[1] if found else ()

    exact = replace(CONFIG, vocab_size=len(PIECES) + 94)
    assert said(exact) == ("no chat template: prompts need --raw, and `dgemma chat` is not available",)
    template = folder / "chat_template.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    assert said(exact) == ()
    assert said() == ("tokenizer.json: ids 103 to 299 of the model have no text",)
    template.write_text(TEMPLATE.replace("<end_of_turn>", ""), encoding="utf-8")
    without = "chat_template.jinja: no stop token ends an answer, so answers may run to their full length"
    assert said(exact) == (without,)
    assert said(replace(exact, eos_token_ids=())) == ()  # the model's own configs say that
    (folder / "chat_template.json").write_text('{"chat_template": "other"}', encoding="utf-8")
    ignored = "chat_template.json: its chat template, which transformers' processors take, is ignored for chat_template.jinja"
    assert said(exact) == (without, ignored)
    (folder / "tokenizer.json").unlink()
    assert said() == ()
