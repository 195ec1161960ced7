"""Writes `chat.json`: ids of users' turns with the tokenizers of `tokenizers/`, which other languages are held to.

    python tests/vectors/make_chat_vectors.py

A case is a tokenizer file, the model's special ids, the manifest's `chat`, and `turns`: [text, ids before, ids appended].
"""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dgemma.core.manifest import ChatTemplate
from dgemma.core.roles import TRIMS
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, chat_ids, marker_ids

HERE = Path(__file__).parent
TEXTS = (
    "hello", " hello ", "\thello\t", "\n\nhello\n\n", "\u00a0x\u00a0", "\u200bx\u200b", "\u0085x\u0085",
    "\u2028x\u2029", "\ufeffx",
    "👩\u200d👩\u200d👧 ok", "e\u0301 e", "שלום עולם", "你好，世界", "", " ", " \n\t ", "a\r\nb\r\n", "word " * 99,
    "<0x41> ▁x▁",
    "\x1c\x01\x7f\x1f", "<s>x</s>", "<pad>", "<start_of_turn>user\nx<end_of_turn>\n", "[MASK]<unk>",
)  # fmt: skip


def cases() -> list[dict[str, Any]]:
    models = json.loads(gzip.decompress((HERE / "tokenizers" / "vectors.json.gz").read_bytes()))["models"]
    made = []
    for number, entry in enumerate(models[name] for name in sorted(models)):
        if not entry["file"].endswith(".gz"):
            continue
        first, last = entry["markers"][0], entry["markers"][-1]
        for trim, (lead, tail) in zip(TRIMS, (("user\n", "\n"), ("", ""), ("Q: ", ""), ("", " A:")), strict=True):
            chat = ChatTemplate(
                start=(first,),
                user_prefix=(last,) if number % 2 else (),
                user_suffix=(last,),
                model_prefix=(),
                model_suffix=(),
                user_lead=lead,
                user_tail=tail,
                trim=trim,
            )
            made.append(_case(entry, chat, first, last))
    return made


def _case(entry: dict[str, Any], chat: ChatTemplate, bos: int, stop: int) -> dict[str, Any]:
    model = SimpleNamespace(pad_token_id=bos, bos_token_id=bos, eos_token_ids=(stop,))
    manifest: Any = SimpleNamespace(model=model, chat=chat)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / entry["file"].removesuffix(".gz")
        path.write_bytes(gzip.decompress((HERE / "tokenizers" / entry["file"]).read_bytes()))
        kind = SentencePieceTokenizer if entry["kind"] == "sentencepiece" else HuggingFaceTokenizer
        tokenizer = kind(str(path), marker_ids(manifest))
    befores: list[list[int]] = [[], [bos, stop], [bos, tokenizer.vocab_size - 1]]
    turns = [[text, before, chat_ids(manifest, tokenizer, text, before)] for text in TEXTS for before in befores]
    return {
        "file": entry["file"],
        "kind": entry["kind"],
        "pad": bos,
        "bos": bos,
        "stops": [stop],
        "chat": {key: value for key, value in asdict(chat).items() if key != "roles"},
        "turns": turns,
    }


def text() -> str:
    lines = (json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases())
    return '{"format":1,"cases":[\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    (HERE / "chat.json").write_text(text(), encoding="utf-8")
