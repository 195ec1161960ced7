"""Writes `tokenizers/`: small tokenizer files of every kind, and what the Python runtime makes of seeded strings with them.

    python tests/vectors/make_tokenizer_vectors.py [FOLDER]

Another language generates the same strings (`Random`, `make_string`) and compares checksums, block by block; the format is in
tokenizers/README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCK = 64
EXAMPLES = 40
MASK = (1 << 64) - 1

SENTENCES = (
    "The quick brown fox jumps over the lazy dog. It's 10:45 o'clock, isn't it? We'll see; they'd say I'm late.",
    "Der schnelle braune Fuchs springt über den faulen Hund; Straße, Größe, Übermut, naïve façade, señor, čaj, žluťoučký.",
    "Ο γρήγορος σκύλος. Съешь же ещё этих мягких французских булок. नमस्ते दुनिया। สวัสดีชาวโลก مرحبا بالعالم שלום עולם",
    "敏捷的棕色狐狸跳过了懒狗。素早い茶色の狐がのろまな犬を飛び越える。빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "def f(x: int) -> int:\n    return x * 2  # twice\n\nfor (int i = 0; i < 10; i++) { sum += a[i]; }\n<b>1234567890</b>",
)
# Joined at random: scripts, combining marks, emoji sequences, controls, spaces of all kinds, markers and what resembles them.
FRAGMENTS = (
    "the| quick|brown |fox|ing|ation|I'm|we'll|'S|’s|don't|HELLO|Wörter|Größe|e\u0301|o\u0308\u0301|\u0301|ﬁ|ﬀ|①|Ａ|"
    "＜|½|ß|İ|ı|ſ|K|Å|ΑΣ|Σ|ς|ά|Ж|ещё|مرحبا|ا\u064b|ש\u05b8\u05c1|नमस\u094dत\u0947|क\u094dष\u093f|สว\u0e31สด\u0e35|"
    "ท\u0e35\u0e48|漢字|「|」|。|、|ひらがな|カタカナ|ｶﾞ|한글|한|🙂|👨\u200d👩\u200d👧\u200d👦|👍🏽|🇩🇪|🇯🇵🇫|❤\ufe0f|"
    "1\ufe0f⃣|🏴\U000e0067\U000e007f|\x00|\x01|\x7f|\x85|\xa0|\xad|\u200b|\u200d|\u200e|\u2028|\ufeff|�|\ufffe|"
    "\ue000|\U0010ffff| |  |   |       |                                        |\t|\n|\n\n|\r\n|\r| \n |\u3000|"
    "\u2003|▁|▁▁|▁the| ▁|0|7|12|345|1234567890|3.14|-1|1e-5|0x0A|²|٣|Ⅷ|½|def f(x):\n    return x|a[i] += 1;|<b>|</b>|"
    "{}|()|!=|->|##|---|…|$5|€|+|^|~|_|__init__|<start_of_turn>|<end_of_turn>|<end_of_|turn>|<pad>|</s>|<s>|<unk>|"
    "<0x0A>|<0xE2>|<0x|<|>|<<|<sep>|[MASK]|[mask]|Day|day|Ġ|Ċ|Ģ|ab|abab|aaaa|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|zzz|"
    "xq"
).split("|")


def parse_ranges(text: str) -> list[tuple[int, int]]:
    return [(int(first, 16), int(last, 16)) for first, last in (pair.split("-") for pair in text.split())]


# Code points. TAME leaves out what Unicode added after version 9, for libraries differ in the tables that they know.
WIDE = parse_ranges("0-2FF 300-36F 370-D7FF E000-FFFF 10000-10FFFF 1F300-1F64F")
TAME = parse_ranges(
    "0-17F 300-333 391-3A1 400-45F 5D0-5EA 621-63A 905-939 E01-E3A 1100-1112 1161-1175 2000-2064 2190-21FF "
    "3041-3096 4E00-9FA5 AC00-D7A3 E000-E0FF FF01-FF5E 1F300-1F5FF 20000-2A6D6"
)


class Random:
    """SplitMix64."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, n: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 33) % n


def make_string(random: Random, ranges: list[tuple[int, int]]) -> str:
    parts = []
    for _ in range(1 + random.below(12)):
        if random.below(4):
            parts.append(FRAGMENTS[random.below(len(FRAGMENTS))])
        else:
            first, last = ranges[random.below(len(ranges))]
            parts += [chr(first + random.below(last - first + 1)) for _ in range(1 + random.below(4))]
    return "".join(parts)


def make_ids(random: Random, size: int) -> list[int]:
    """Ids to decode: runs of neighbours now and then, so that byte pieces meet."""
    ids: list[int] = []
    for _ in range(1 + random.below(8)):
        start = random.below(size)
        ids += [(start + i * random.below(3)) % size for i in range(1 + random.below(4))]
    return ids


class Checksum:
    """CRC-32 of big-endian int32 lists, each after its length (-1 for an error), and of texts as UTF-8 after theirs."""

    def __init__(self) -> None:
        self.value = 0

    def ids(self, ids: list[int] | None) -> None:
        values = [-1] if ids is None else [len(ids), *ids]
        self.value = zlib.crc32(b"".join(v.to_bytes(4, "big", signed=True) for v in values), self.value)

    def text(self, text: str | None) -> None:
        data = None if text is None else text.encode()
        self.ids(None if data is None else [len(data)])
        self.value = zlib.crc32(data or b"", self.value)


def attempt(call: Callable[..., Any], argument: Any) -> Any:
    """None where the tokenizer refuses."""
    from dgemma.core.errors import TokenizerError

    try:
        return call(argument)
    except TokenizerError:
        return None


def block(tokenizer: Any, random: Random, ranges: list[tuple[int, int]]) -> int:
    check = Checksum()
    for _ in range(BLOCK):
        text = make_string(random, ranges)
        ids = attempt(tokenizer.encode, text)
        check.ids(ids)
        check.ids(attempt(tokenizer.encode_user, text))
        for each in (ids or [], make_ids(random, tokenizer.vocab_size)):
            check.text(attempt(tokenizer.decode, each))
    return check.value


def long_text(tokenizer: Any, random: Random, ranges: list[tuple[int, int]]) -> int:
    """Checksum of one text of 2,000 strings: sums over long texts round."""
    check = Checksum()
    check.ids(attempt(tokenizer.encode, "".join(make_string(random, ranges) for _ in range(2000))))
    return check.value


def vectors(path: Path, kind: str, seed: int, blocks: int) -> dict[str, Any]:
    from dgemma.runtime import tokenizer as runtime

    markers = [0, 1, 2, 4, 5, 6]
    classes: dict[str, Any] = {"sentencepiece": runtime.SentencePieceTokenizer, "tokenizers": runtime.HuggingFaceTokenizer}
    tokenizer = classes[kind](str(path), markers)
    name = "wide" if kind == "sentencepiece" else "tame"
    ranges = WIDE if name == "wide" else TAME
    random, examples = Random(seed), []
    for _ in range(EXAMPLES):
        text = make_string(random, ranges)
        ids = attempt(tokenizer.encode, text)
        shown = None if ids is None else tokenizer.decode(ids)
        examples.append([text, ids, shown, None if ids is None else tokenizer.pieces(ids)])
    return {
        "kind": kind,
        "markers": markers,
        "vocab_size": tokenizer.vocab_size,
        "ranges": name,
        "seed": seed,
        "examples": examples,
        "long": long_text(tokenizer, Random(seed << 32), ranges),
        "blocks": [block(tokenizer, Random((seed << 32) + i), ranges) for i in range(blocks)],
    }


def corpus() -> Iterator[str]:
    for _ in range(20):
        yield from SENTENCES
    yield from (line for line in (ROOT / "LICENSE").read_text().splitlines() if line.strip())


def sentencepiece_model(**options: Any) -> bytes:
    import sentencepiece

    out = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    defaults = {**ids, "num_threads": 1, "minloglevel": 2, "hard_vocab_limit": False}
    markers = ["<start_of_turn>", "<end_of_turn>", *options.pop("symbols", [])]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(), model_writer=out, user_defined_symbols=markers, **{**defaults, **options}
    )
    return out.getvalue()


def edited(model: bytes, edit: Callable[[Any], None]) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    edit(proto)
    return bytes(proto.SerializeToString())


def some_unused(proto: Any) -> None:
    """Every third merged piece may not be used: they are cut again after merging."""
    for i, piece in enumerate(proto.pieces):
        if piece.type == 1 and len(piece.piece) > 1 and i % 3 == 0:
            piece.type = 5


def far_scores(proto: Any) -> None:
    """Sums soon lie beyond 100,000, where the library begins to count anew."""
    for piece in proto.pieces:
        piece.score *= 20000


def plain_spaces(proto: Any) -> None:
    proto.normalizer_spec.escape_whitespaces = False
    proto.denormalizer_spec.CopyFrom(proto.normalizer_spec)


def sentencepiece_models(folder: Path) -> Iterator[tuple[str, bytes]]:
    plain = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False}
    runs = ["\n", *("\n" * n for n in range(2, 6)), *("▁" * n for n in range(2, 32)), "<b>", "</b>"]
    bpe = sentencepiece_model(
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        symbols=runs,
        **plain,
    )
    yield "sp-bpe-bytes", bpe
    rules = folder / "rules.tsv"
    rules.write_text("41\t61\n42\t62\n42 43\t78 79\n1F642\t3A 29\n9\t20\nA0\t20 20\n")
    yield (
        "sp-bpe-unused",
        edited(sentencepiece_model(model_type="bpe", vocab_size=600, normalization_rule_tsv=str(rules)), some_unused),
    )
    yield (
        "sp-unigram-nfkc",
        sentencepiece_model(model_type="unigram", vocab_size=600, symbols=["<sep>", "ab", " x"], unk_surface="⁇"),
    )
    suffix = {"treat_whitespace_as_suffix": True, "remove_extra_whitespaces": False, "normalization_rule_tsv": str(rules)}
    unigram = sentencepiece_model(model_type="unigram", vocab_size=700, byte_fallback=True, symbols=runs, **suffix)
    yield "sp-unigram-suffix", edited(unigram, far_scores)
    unigram = sentencepiece_model(model_type="unigram", vocab_size=500, byte_fallback=True, normalization_rule_tsv=str(rules))
    yield "sp-unigram-spaces", edited(unigram, plain_spaces)
    yield "sp-word", sentencepiece_model(model_type="word", vocab_size=400, normalization_rule_name="identity")
    rules.unlink()


def train(tokenizer: Any, special: list[str], size: int = 600, **options: Any) -> None:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(list(corpus()), trainer)


SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def gemma_style() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    train(tokenizer, [*SPECIAL, *BYTES], 900)
    keep = json.loads(tokenizer.to_str())
    keep["added_tokens"] = [t for t in keep["added_tokens"] if t["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(keep))


def llama2_style() -> Any:
    from tokenizers import AddedToken, decoders, normalizers

    tokenizer = gemma_style()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_tokens([AddedToken("Day", normalized=True, single_word=True), AddedToken("<sep>", lstrip=True, rstrip=True)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    return tokenizer


def gpt2_style() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer


def llama3_style() -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([AddedToken(f"<|reserved_{i}|>") for i in range(3)])
    return tokenizer


def unigram_style() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    strip = normalizers.Strip(left=False, right=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), strip])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(list(corpus()), trainer)
    tokenizer.add_tokens([AddedToken("[MASK]", normalized=True), AddedToken("ab", normalized=False, rstrip=True)])
    return tokenizer


def words_style() -> Any:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.NFC(), normalizers.Lowercase()])
    pres = pre_tokenizers
    tokenizer.pre_tokenizer = pres.Sequence([pres.Whitespace(), pres.Punctuation("merged_with_next"), pres.Digits(True)])
    train(tokenizer, SPECIAL, limit_alphabet=60)
    tokenizer.add_tokens([AddedToken("day", single_word=True), AddedToken("the", lstrip=True)])
    return tokenizer


HUGGING_FACE: dict[str, Callable[[], Any]] = {
    "hf-gemma": gemma_style,
    "hf-llama2": llama2_style,
    "hf-gpt2": gpt2_style,
    "hf-llama3": llama3_style,
    "hf-unigram": unigram_style,
    "hf-words": words_style,
}


def legacy_merges(text: str) -> str:
    """Merges as "left right", the notation of files before 2024."""
    tree = json.loads(text)
    tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]
    return json.dumps(tree, ensure_ascii=False)


def make_models(folder: Path) -> dict[str, tuple[Path, str]]:
    """Writes the models, unpacked, and returns name → file and kind."""
    models = {"tiny": (ROOT / "checkpoints" / "tiny" / "tokenizer.model", "sentencepiece")}
    for name, data in sentencepiece_models(folder):
        models[name] = (folder / f"{name}.model", "sentencepiece")
        models[name][0].write_bytes(data)
    for name, make in HUGGING_FACE.items():
        text = make().to_str()
        models[name] = (folder / f"{name}.json", "tokenizers")
        models[name][0].write_text(legacy_merges(text) if name in ("hf-gpt2", "hf-words") else text)
    return models


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tokenizers"
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for i, (name, (path, kind)) in enumerate(make_models(folder).items()):
        entry = vectors(path, kind, seed=100 + i, blocks=160 if name == "tiny" else 32)
        entries[name] = {"file": "checkpoints/tiny/tokenizer.model" if name == "tiny" else f"{path.name}.gz", **entry}
        if name != "tiny":
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
            path.unlink()
    head = {"format": 1, "block": BLOCK, "fragments": FRAGMENTS, "wide": WIDE, "tame": TAME, "models": entries}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    (folder / "vectors.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
