r"""Writes structure.json: expressions as automata, JSON schemas as expressions, what is refused, and what ids write.

    python tests/vectors/make_structure_vectors.py [FOLDER]

The Python runtime makes it; no model is needed. README.md describes the format.

With `classes`, prints the tables of \d, \s and \w for PerlClasses.java instead, as outlines-core has them:

    python tests/vectors/make_structure_vectors.py classes
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.core.errors import UsageError
from dgemma.core.structure import Structure
from dgemma.runtime.structure.byte_automaton import ByteAutomaton, compile_regex
from dgemma.runtime.structure.languages import expression
from dgemma.runtime.structure.vocabulary import read_vocabulary
from dgemma.runtime.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer

HERE = Path(__file__).resolve().parent
SCHEMAS = HERE.parents[1] / "benchmarks" / "studies" / "schemas.json"
REGEXES = [
    "", "a", "a|ab", "a*?", "^a$", r"a\$", r"a\\", "(|a)", "a|", "()", "(?:)*", "a**", "a*+", "a++", "a?{2}", "a{2}{3}",
    "a{0}", "a{2,}", "a{ 2 , 3 }", "a{1 }", "a{1,2}?", "x{1001}", "(a|b)*a(a|b){5}", "(ac|bc)*(ac|bc)", "[^\"\n]*", ".",
    ".*", "]", "}", "[]a]+", "[]-a]", "[^]a]", "[^-a]", "[-a]", "[a-]", "[--a]", "[a-z-9]", "[&~a]", r"[\]\[]", r"[\.-\/]",
    "[[:alpha:]]", "[[:^alpha:]]", "[[:word:]x-]", "[^[:space:]]", "[[:alpha:]-z]", "[:alpha:]", "[[:punct:][:cntrl:]]",
    "[[:blank:][:graph:]]", "[[:xdigit:]]", "[[:print:]]", "[[:ascii:]]", "[[:alnum:]]", "[[:lower:]]", "[[:upper:]]",
    "[[:digit:]]", r"\x41\x{1F600}\u00e9\U0001F601\u{41}", r"\a\f\t\n\r\v", r"\/\-\_\ \"\'\&\~\#\%\@\:\=", r"\d", r"\D",
    r"\s", r"\S", r"\w", r"\W", r"[^\d\s]", r"[\w.]+", r"[\s\S]", r"\d{4}-\d{2}-\d{2}", r"\w{1,8}",
    r"(?P<year>\d{4})|(?<other>x)", "(?<a.b[0]>x)", "é|ü", "[é-ü]", "(😀|a)+", "[😀-🙏]{2}", "[ -~]+", r"[\x{d7ff}-\x{e000}]",
    r"[^\x00-\x{10ffff}]|a", r"[\x{80}-\x{7ff}]", r"[\x{800}-\x{ffff}]", r"[\x{10000}-\x{10ffff}]", r"[\x{3f}-\x{10321}]",
    r"[\x{7f}\x{7ff}\x{ffff}]", r"\{\"name\": \"[^\"]*\", \"age\": [0-9]+\}", "(yes|no)", "[0-9]{16}|[a-z]{17}",
    "(a{0,150}b)?", r"(?:[a-z]+ ){3,9}[a-z]+\.", r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", "a{3,5}é",
    r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)", "(?:a?){0,30}a{30}", "((a|b)(c|d)?)*e", "x*y*z*",
    "[^a-z]{3}",
]  # fmt: skip
REFUSED = [
    "(?=a)a", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", r"\0", r"\e", r"\Q", r"\Z", r"\é", r"\h", r"\N", "(", "a)(b", "[a",
    "[^]", "[]", "(a", "a)", r"\x", r"\x4", r"\x{}", r"\x{110000}", r"\x{d800}", "a{,3}", "a{", "{", "a{2,1}", "a{1,a}",
    "a{99999999999}", "*a", "|*", "(*a)", "^*a", "[z-a]", r"[a-\d]", r"[\d-z]", "[a-[:alpha:]]", r"[\b]", r"[\A]", "(?#x)a",
    "(?P=n)", "(?P<n>a)(?P<n>b)", "(?<1>a)", r"\ba", r"a\B", r"\<a", "(^a)", "a|^b", r"\Aa",
]  # fmt: skip
LARGE = ["(a|b)*a(a|b){30}", "(((a{1000}){1000}){1000})", r"\w{300}", "[^x]{0,9000}"]
MORE_SCHEMAS: list[Any] = [
    {"properties": {"a": {"type": "null"}, 'quote " and \\': {"type": "boolean"}, "é\x7f\n": {"const": 1.5}},
     "required": ["a"]},
    {"enum": ["a.b", 1, 1.0, 1e100, -0.0, 12345678901234567890, True, None, [1, {"b": "é"}], {"k": ["^"]}]},
    {"type": ["integer", "boolean"], "enum": [1, 2.0, 2.5, True, "x"]},
    *({"type": "integer", "minimum": low, "maximum": high}
      for low, high in [(18, 130), (-12, 5), (7, 7), (95, 1203), (-99, -3)]),
    {"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "exclusiveMaximum": -7},
    {"type": "integer", "maximum": 40.0}, {"type": "integer", "minimum": 999999999999999},
    {"type": "number", "minimum": 3, "maximum": 12}, {"type": "number"},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": 2, "exclusiveMaximum": 5},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2}, {"type": "array", "maxItems": 0},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 1},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
    {"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object", "additionalProperties": False},
    {"type": "string", "pattern": r"^[A-Z]\d{2}(?:-[^\"\\\x00-\x1f]+)?\w\s$"},
    {"type": "string", "pattern": "^[-a&~.]?é{2}$"},
    *({"type": "string", "format": one} for one in ("date", "time", "date-time", "uuid", "email", "ipv4", "uri")),
    {"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"type": ["string", "null"], "minLength": 1}}},
    {"oneOf": [{"type": "integer"}, {"type": "string"}, {"$ref": "#/definitions/x"}], "definitions": {"x": {"type": "null"}}},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "required": ["b"]},
]  # fmt: skip
REFUSED_SCHEMAS: list[Any] = [
    {}, True, {"type": "any"}, {"type": "object", "properties": {"a": {}}}, {"type": "object"},
    {"type": "object", "properties": {}, "required": ["x"]}, {"type": "object", "properties": {}, "minProperties": 1},
    {"type": "array"}, {"type": "array", "items": {"type": "null"}, "uniqueItems": True},
    {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2},
    {"type": "array", "prefixItems": [{"type": "null"}]}, {"type": "string", "maxLength": -1},
    {"type": "string", "maxLength": 20001}, {"type": "object", "properties": {"a\nb": {"type": "x"}}},
    {"type": "string", "format": "regex"}, {"type": "string", "pattern": "a"},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": False, "maxItems": 0},
    {"type": "string", "pattern": "^.*$"}, {"type": "string", "pattern": r"^\p{L}$"},
    {"type": "string", "pattern": "^(?=a)a$"}, {"type": "string", "pattern": "^[a[b]$"},
    {"type": "string", "pattern": "^[a&&b]$"}, {"type": "string", "pattern": "^a^$"},
    {"type": "string", "pattern": "^a$", "maxLength": 3}, {"type": "string", "pattern": "^a$", "format": "date"},
    {"type": "integer", "multipleOf": 2}, {"type": "integer", "minimum": 0.5},
    {"type": "integer", "minimum": 3, "maximum": 2}, {"type": "integer", "minimum": 1e15},
    {"type": "integer", "minimum": 1, "exclusiveMinimum": 1}, {"type": "number", "minimum": -1}, {"not": {"type": "null"}},
    {"allOf": [{"type": "null"}, {"type": "null"}]}, {"anyOf": []}, {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"enum": []}, {"type": "string", "enum": [1]}, {"enum": ["a"], "minLength": 1}, {"$ref": "http://x/y"},
    {"$ref": "#/$defs/a"}, {"type": "string", "nullable": True}, {"type": "string", "minLength": 3, "maxLength": 2},
    {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, {"minLength": 3},
]  # fmt: skip


def random_regex(rng: random.Random, depth: int = 0) -> str:
    """Of the syntax's parts, at random."""
    atoms = ["a", "b", "é", "0", ".", "[a-c]", "[^ab]", r"\d", r"[\w-]", "😀", r"\.", r"[^\x00-\x{ffff}]", "[é-ヿ]"]
    kind = rng.randrange(6 if depth < 4 else 1)
    if kind < 2:
        return rng.choice(atoms)
    inner = [random_regex(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
    if kind == 2:
        return "".join(inner)
    if kind == 3:
        return f"(?:{'|'.join(inner)})"
    return f"(?:{inner[0]}){rng.choice(['*', '+', '?', '{2}', '{0,3}', '{1,}', '*?'])}"


def regexes() -> Iterator[str]:
    """All of them."""
    yield from REGEXES
    rng = random.Random(0)
    for _ in range(120):
        yield random_regex(rng)


def digest(automaton: ByteAutomaton) -> str:
    """Of an automaton, however its states are numbered: states in the order in which a walk by rising bytes first comes to
    them, each with whether it accepts and the numbers behind all bytes, from 1, or 0 for none, as 32 bits, little-endian."""
    number, order, said = {automaton.start: 1}, [automaton.start], hashlib.sha256()
    for state in order:
        row = []
        for target in automaton.table[state].tolist():
            if target != automaton.states and target not in number:
                number[target] = len(number) + 1
                order.append(target)
            row.append(number.get(target, 0))
        said.update(np.array([int(automaton.accepting[state]), *row], "<i4").tobytes())
    return said.hexdigest()[:16]


def refusal(regex: str) -> str:
    """What is said of it."""
    try:
        compile_regex(regex)
    except UsageError as error:
        return str(error)
    raise AssertionError(regex)


def schema(value: Any) -> list[Any]:
    """The schema as text, its expression, and its automaton's states and digest; or null and why it is refused."""
    text = json.dumps(value)
    try:
        made = expression(Structure(json_schema=text))
    except UsageError as error:
        return [text, None, str(error)]
    automaton = compile_regex(made)
    return [text, made, automaton.states, digest(automaton)]


def vocabulary(entry: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer, and what its ids write: of each id its texts as an answer's first and later one, behind their lengths, and
    its rank. Numbers are 32 bits, little-endian. Or why it has no such texts."""
    held = (HERE / "tokenizers" / entry["file"]).read_bytes()
    kind = SentencePieceTokenizer if entry["kind"] == "sentencepiece" else HuggingFaceTokenizer
    with tempfile.NamedTemporaryFile() as file:
        file.write(gzip.decompress(held))
        file.flush()
        tokenizer = kind(file.name, entry["markers"])
    made = {"file": entry["file"], "kind": entry["kind"], "markers": entry["markers"], "size": tokenizer.vocab_size + 3}
    try:
        found = read_vocabulary(tokenizer, made["size"])
    except UsageError as error:
        return {**made, "refused": str(error)}
    said = hashlib.sha256()
    for first, later, rank in zip(found.first, found.later, found.rank.tolist(), strict=True):
        for part in (first, later):
            said.update(len(part).to_bytes(4, "little") + part)
        said.update(rank.to_bytes(4, "little"))
    return {**made, "is_even": found.is_even, "digest": said.hexdigest()[:16]}


def text() -> str:
    """The file."""
    schemas = [*json.loads(SCHEMAS.read_text(encoding="utf-8")).values(), *MORE_SCHEMAS, *REFUSED_SCHEMAS]
    held = json.loads(gzip.decompress((HERE / "tokenizers" / "vectors.json.gz").read_bytes()))["models"]
    models = [held[name] for name in sorted(held) if held[name]["file"].endswith(".gz")]
    automata = [(regex, compile_regex(regex)) for regex in regexes()]
    parts = {
        "automata": [[regex, automaton.states, digest(automaton)] for regex, automaton in automata],
        "refused": [[regex, refusal(regex)] for regex in REFUSED],
        "large": LARGE,
        "schemas": [schema(value) for value in schemas],
        "vocabularies": [vocabulary(entry) for entry in models],
    }
    head = json.dumps({"format": 1, "command": "python tests/vectors/make_structure_vectors.py"}, indent=1)
    lists = [f' "{name}": [\n' + ",\n".join(map(json.dumps, entries)) + "\n ]" for name, entries in parts.items()]
    return ",\n".join([head[:-2], *lists]) + "\n}\n"


def classes() -> Iterator[str]:
    """Java constants: how far each end of a range is behind the one before, in hexadecimal."""
    for name, letter in (("DIGITS", "d"), ("SPACES", "s"), ("WORDS", "w")):
        automaton = compile_regex(f"\\{letter}")
        held = [i for i in range(0x110000) if not 0xD800 <= i < 0xE000 and automaton.matches(chr(i))]
        gaps = np.flatnonzero(np.diff(held) > 1)
        ends = np.sort([held[0], held[-1], *np.array(held)[gaps], *np.array(held)[gaps + 1]])
        deltas = " ".join(f"{delta:x}" for delta in [ends[0], *np.diff(ends)])
        rows = textwrap.wrap(deltas, 100, drop_whitespace=False)
        yield (
            f"    private static final int[] {name} = CodePoints.read(\n            "
            + "\n            + ".join(f'"{row}"' for row in rows)
            + ");"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["classes"]:
        print(*classes(), sep="\n")
    else:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
        (folder / "structure.json").write_text(text(), encoding="utf-8")
