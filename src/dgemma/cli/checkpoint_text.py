"""A checkpoint's conversations as ids, with the tokenizer and template that its bundle would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dgemma.core.errors import CheckpointError, UsageError
from dgemma.core.manifest import Manifest
from dgemma.core.messages import Message
from dgemma.core.roles import TRIMS


class CheckpointText:
    """What `Session` makes of messages, of a checkpoint folder; raises CheckpointError if that cannot be."""

    def __init__(self, folder: Path) -> None:
        from dgemma.export.chat import read_chat
        from dgemma.export.tokenizer import read_tokenizer
        from dgemma.model.checkpoint import read_config
        from dgemma.runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, marker_ids

        config, sampler = read_config(folder)
        if (found := read_tokenizer(folder)) is None:
            raise CheckpointError(f"{folder}: has no tokenizer; copy tokenizer.json or tokenizer.model there")
        if found.spec.vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{found.source}: has {found.spec.vocab_size} pieces, but the model has only {config.vocab_size} ids; copy the "
                "right tokenizer"
            )
        chat, self.notes = read_chat(folder, config, found)
        if chat is None:
            raise CheckpointError(f"{folder}: has no chat template; add chat_template.jinja")
        n, most = config.canvas_length, config.max_position_embeddings
        self.manifest = Manifest(
            engines={}, model=config, tokenizer=found.spec, chat=chat, canvas_length=n, steps=sampler.steps, context=most,
            chunk=n, sampler=sampler, noise={}, dims={}, graphs={}, quantization={}, tools={}, provenance={},
        )  # fmt: skip
        kind = SentencePieceTokenizer if found.spec.kind == "sentencepiece" else HuggingFaceTokenizer
        with TemporaryDirectory() as kept:
            found.save(Path(kept))
            self.tokenizer = kind(str(Path(kept) / found.spec.file), marker_ids(self.manifest))

    def exchanges(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[tuple[list[int], list[int]]]:
        """Of every assistant's message: the ids before it, and its own with the stop token.

        Raises:
            UsageError, TokenizerError: the template has no such turns; an answer calls tools, which is not trained on yet.
        """
        from dgemma.runtime.prompt import conversation_ids
        from dgemma.runtime.tokenizer import end_of_turn

        chat = self.manifest.chat
        assert chat is not None
        trim = TRIMS[chat.roles.turns["assistant"].trim] if chat.roles else str
        stop = end_of_turn(self.manifest, chat)
        found = []
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            if message.tool_calls or message.thinking:
                what = "calls tools" if message.tool_calls else "thinks"
                raise UsageError(f"message {number + 1}: {what}; only text answers can be trained on")
            text = trim(str(message.content))
            if not text:
                raise UsageError(f"message {number + 1}: the answer is empty; write one")
            if number == 0:
                raise UsageError("message 1: an answer has nothing before it; begin with a user's message")
            prompt = conversation_ids(self.manifest, self.tokenizer, messages[:number], tools=tools)
            before = prompt[-1] if prompt else None
            answer = self.tokenizer.encode_user(text, before=before, after=stop[0] if stop else None)
            found.append((prompt, [*answer, *stop]))
        return found
