"""The bytes of a tokenizer's ids: joined, they are what it decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_bundle import BOS, END_OF_TURN, EOS, PAD, START_OF_TURN, TOKENIZER

from dgemma.core.errors import UsageError
from dgemma.runtime.structure.vocabulary import Vocabulary, read_vocabulary
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

MARKERS = {PAD, EOS, BOS, START_OF_TURN, END_OF_TURN}
SPECIALS = ["<pad>", "</s>", "<s>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def byte_level(path: Path) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "Ġa"]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
    made.save(str(path / "tokenizer.json"))
    return HuggingFaceTokenizer(str(path / "tokenizer.json"), MARKERS)


def of_bytes_and_words(path: Path, strips: bool) -> Tokenizer:
    """As Gemma's `tokenizer.json`, or with the space stripped that Llama's begins with."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b", "ab", "é", "▁▁", "\n"]
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strips else [])])
    made.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
    made.save(str(path / "tokenizer.json"))
    return HuggingFaceTokenizer(str(path / "tokenizer.json"), MARKERS)


def with_a_first_space(path: Path) -> Tokenizer:
    """SentencePiece as it trains by default: a space before every text, which decoding drops."""
    import sentencepiece

    (path / "text").write_text("\n".join(["the cat sat on a mat", "a bat and a hat", "é and ü"] * 40))
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "text"), model_prefix=str(path / "t"), vocab_size=300, byte_fallback=True, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(str(path / "t.model"), {0, 1, 2})


TOKENIZERS = {
    "tiny": lambda path: SentencePieceTokenizer(str(TOKENIZER), MARKERS),
    "first space": with_a_first_space,
    "byte level": byte_level,
    "gemma": lambda path: of_bytes_and_words(path, False),
    "llama": lambda path: of_bytes_and_words(path, True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bytes_joined_are_the_text(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name](tmp_path)
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocab_size + 5)
    usable = [i for i, text in enumerate(vocabulary.later) if text]
    starts = [i for i, text in enumerate(vocabulary.first) if text]
    assert len(usable) > 200 and not set(usable) & tokenizer._markers.keys() and max(usable) < tokenizer.vocab_size
    assert vocabulary.is_even == (name not in ("first space", "llama"))
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(400):
        ids = [int(rng.choice(starts)), *map(int, rng.choice(usable, int(rng.integers(0, 5))))]
        said = written(vocabulary, ids)
        try:
            text = said.decode()
        except UnicodeDecodeError:
            continue  # no automaton accepts it
        compared += 1
        assert tokenizer.decode(ids) == text, ids
    assert compared > 20
    for text in ("a b", "é a\n", " a"):
        ids = tokenizer.encode(text)
        if all(vocabulary.later[i] for i in ids):
            assert written(vocabulary, ids).decode() == tokenizer.decode(ids)


def written(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    return vocabulary.first[ids[0]] + b"".join(vocabulary.later[i] for i in ids[1:])


def test_pieces_stand_for_single_bytes() -> None:
    tokenizer = SentencePieceTokenizer(str(TOKENIZER), MARKERS)
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocab_size)
    alike = [i for i, text in enumerate(vocabulary.later) if text == b"a"]
    assert len(alike) == 2  # the letter, and the byte 0x61
    assert tokenizer._piece(min(alike, key=lambda i: int(vocabulary.rank[i]))) == "a"
    assert sorted(vocabulary.rank.tolist()) == list(range(tokenizer.vocab_size))


def test_decoders_that_look_at_neighbours_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="decoder 'WordPiece'"):
        read_vocabulary(HuggingFaceTokenizer(str(tmp_path / "tokenizer.json"), ()), 3)
