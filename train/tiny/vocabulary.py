"""The tiny model's SentencePiece vocabulary: characters, whole words of the task phrasings, bytes for everything else."""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece as spm

from dgemma.train.tiny import tasks

START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
WORDS = 220  # most frequent words of at least three letters


def user_turn(prompt: str) -> str:
    """A single user turn up to where the answer begins, without bos; the same as the shipped chat template renders."""
    return f"{START_OF_TURN}user\n{prompt}{END_OF_TURN}\n{START_OF_TURN}model\n"


def prompt_ids(sp: Any, prompt: str) -> list[int]:
    """A single user turn as in training; 2 is bos."""
    return [2, *sp.encode(user_turn(prompt))]


def _frequent_words(samples: int = 400) -> list[str]:
    """Words that many prompts and answers share, with their leading space; text-initial ones without as well."""
    rng, spaced, initial = random.Random(0), Counter[str](), Counter[str]()
    for task in tasks.TASKS:
        for _ in range(samples):
            example = tasks.make(task, rng, "train")
            for text in (example.prompt, example.answer):
                found = re.findall(r" ?[A-Za-z]{3,}", text)
                spaced.update({w for w in found if w.startswith(" ")})
                if found and text.startswith(found[0]) and found[0][0].isupper():
                    initial[found[0]] += 1
    common = [w.replace(" ", "▁") for w, _ in spaced.most_common(WORDS)]
    return common + [w for w, count in initial.most_common() if count >= samples // 100]


def build(path: Path, words: Sequence[str] | None = None) -> None:
    """Write a SentencePiece `.model` with these words, or tiny's; ids: pad 0, eos 1, bos 2, unk 3."""
    characters = [chr(c) for c in range(33, 127)]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["".join(characters) + " " * (len(characters) - 1)] * 2),
        model_writer=model,
        model_type="char",
        vocab_size=1000,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        control_symbols=[],
        user_defined_symbols=[START_OF_TURN, END_OF_TURN, "\n", *dict.fromkeys(_frequent_words() if words is None else words)],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
