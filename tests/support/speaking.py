"""The toy model of `fake_bundle` with tokenizer and chat template of the released form: it thinks and calls tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import released_folder
from fake_bundle import MODEL_CONFIG, graph_specs, write_bundle
from fake_structured import StructuredFake, with_candidates

from dgemma.core.config import ModelConfig
from dgemma.core.manifest import ChatTemplate, TokenizerSpec, list_files, read_manifest, write_manifest
from dgemma.export.chat import read_chat
from dgemma.export.tokenizer import read_tokenizer

MODEL: ModelConfig = replace(MODEL_CONFIG, vocab_size=released_folder.VOCAB, eos_token_ids=(1, 106, 50), bos_token_id=2)
THINK, END, CALL, CALLED, QUOTE, TURN, STOP, RESPONDED = 100, 101, 48, 49, 52, 105, 106, 51


def write_text(folder: Path, template: str) -> Path:
    """Tokenizer and template of a folder in the released form, without its weights."""
    settings = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer.json").write_text(json.dumps(released_folder.tokenizer_json()), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "diffusion_gemma"}', encoding="utf-8")
    return folder


def read_template(folder: Path) -> ChatTemplate:
    """What a bundle takes of the folder's template."""
    found = read_tokenizer(folder)
    assert found is not None
    chat = read_chat(folder, MODEL, found)[0]
    assert chat is not None and chat.roles is not None
    return chat


def write_speaking(path: Path, text: Path) -> Path:
    """A bundle with tokenizer and template of the folder `text`, whose steps put out candidates."""
    graphs = graph_specs("onnx")
    graphs["denoise"] = with_candidates(graphs["denoise"])
    dims = {"S": (1, 512), "L": (1, 512), "C": (1, 24)}
    write_bundle(path, graphs={"onnx": graphs}, model=MODEL, chat=read_template(text), context=512, dims=dims)
    manifest, _ = read_manifest(path)
    (path / "tokenizer.model").unlink()
    (path / "tokenizer.json").write_bytes((text / "tokenizer.json").read_bytes())
    spec = TokenizerSpec(file="tokenizer.json", kind="tokenizers", vocab_size=released_folder.PIECES)
    write_manifest(path, replace(manifest, tokenizer=spec, files=list_files(path)))
    return path


class Speaker(StructuredFake):
    """Gives its answer where the prompt ends: after `begin` tokens, or after the last turn's opening where that is None."""

    begin: int | None = None

    def following(self, ids: Sequence[int]) -> int:
        at = len(ids) - (self._opened(ids) if self.begin is None else self.begin)
        return self.answer[at] if at < len(self.answer) else self.stop if at == len(self.answer) else 0

    def _opened(self, ids: Sequence[int]) -> int:
        turn = len(ids) - list(reversed(ids)).index(TURN)
        opened = turn + len(MODEL_TURN)
        empty = len(EMPTY_THOUGHT)
        return opened + empty if list(ids[opened : opened + empty]) == EMPTY_THOUGHT else opened


class Agent(StructuredFake):
    """Calls a tool, and says something once it has the tool's result."""

    call: Sequence[int] = ()
    after: Sequence[int] = ()

    def following(self, ids: Sequence[int]) -> int:
        speaker = Speaker(self.bundle, list(self.call), stop=STOP)
        if RESPONDED in ids:
            speaker.answer, speaker.begin = list(self.after), len(ids) - list(reversed(ids)).index(RESPONDED)
        return speaker.following(ids)


def _ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_str(json.dumps(released_folder.tokenizer_json())).encode(text, add_special_tokens=False).ids)


MODEL_TURN, EMPTY_THOUGHT = _ids("model\n"), _ids("<|channel>thought\n<channel|>")
