"""Folders with a tokenizer of `tests/vectors/tokenizers` and a chat template at any of its places, and texts to try."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro
from tokenizers import AddedToken, Tokenizer

from dgemma.export.chat import read_chat
from dgemma.export.tokenizer import read_tokenizer
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, marker_ids

FILES = Path(__file__).parents[1] / "vectors" / "tokenizers"
KINDS = ("gemma", "gpt2", "llama2", "llama3", "unigram", "words")
MARKERS = [
    "<BOS>",
    "<EOT>",
    "<TURN>",
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "[/INST]",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
]
TEXTS = [
    "hello", " hello", "hello ", "\thello\t", "\nhello\n", "\n\nhello\n\n\n", "\u00a0x\u00a0", "\u200bx\u200b", "\u0085x\u0085",
    "\u2028x\u2029", "👩\u200d👩\u200d👧 ok", "e\u0301 e", "שלום עולם", "你好，世界", " ", " \n\t ", "a\r\nb\r\n",
    "word " * 200, "<0x41> ▁x▁", "\x01\x02\x7f", "user\nmodel", "a  b   c", "'s it's", "<b>&\"\\", "\ufeffx", "ﬁ Å",
]  # fmt: skip


@cache
def _tokenizer_text(kind: str) -> str:
    return gzip.decompress((FILES / f"hf-{kind}.json.gz").read_bytes()).decode()


def make_folder(folder: Path, kind: str, template: str, where: str = "jinja") -> Path:
    made = Tokenizer.from_str(_tokenizer_text(kind))
    made.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    made.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "TokenizersBackend", "bos_token": "<BOS>", "eos_token": "<EOT>"}
    if where == "jinja":
        (folder / "chat_template.jinja").write_bytes(template.encode())
    elif where == "config":
        settings["chat_template"] = template
    elif where.startswith("additional"):
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
        (folder / "chat_template.jinja").write_bytes(template.encode())
        if where == "additional-default":
            (folder / "chat_template.jinja").rename(folder / "additional_chat_templates" / "default.jinja")
            (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    elif where == "both":
        (folder / "chat_template.jinja").write_bytes(template.encode())
        settings["chat_template"] = "{{ messages[0].content }}"
    else:
        settings["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "diffusion_gemma"}', encoding="utf-8")
    return folder


def read_folder(folder: Path) -> tuple[Any, HuggingFaceTokenizer]:
    found = read_tokenizer(folder)
    assert found is not None
    bos, stop = found.markers["<BOS>"], found.markers["<EOT>"]
    model = replace(micro.CONFIG, vocab_size=found.spec.vocab_size, bos_token_id=bos, eos_token_ids=(stop,))
    manifest = SimpleNamespace(model=model, chat=read_chat(folder, model, found)[0])
    assert manifest.chat is not None
    return manifest, HuggingFaceTokenizer(str(folder / "tokenizer.json"), marker_ids(manifest))  # type: ignore[arg-type]
