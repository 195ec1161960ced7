"""Writes compiled.json: compiled structures, what a float32 bundle of tiny answers with them, and calls that a toy model makes.

    python tests/vectors/make_compiled_vectors.py build/tiny.dgemma [FOLDER]

The Python runtime makes it with ONNX Runtime; what the file holds any language can read. README.md describes the format.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import fake_structured  # noqa: E402
import released_folder  # noqa: E402
import speaking  # noqa: E402
import structures  # noqa: E402
from program import load  # noqa: E402

from dgemma.core.compiled_structure import NotAStructure, decode, encode  # noqa: E402
from dgemma.core.roles import ToolForm  # noqa: E402
from dgemma.core.structure import Structure  # noqa: E402
from dgemma.runtime.bundle import Bundle  # noqa: E402
from dgemma.runtime.session import Session  # noqa: E402
from dgemma.runtime.structure.compiled import compile_structure  # noqa: E402
from dgemma.runtime.structure.languages import byte_automaton  # noqa: E402

control = load(HERE / "make_control_vectors.py")
HOT: dict[str, Any] = control.HOT
STRUCTURES: dict[str, dict[str, Any]] = {
    "sums": {"grammar": structures.SUMS},
    "flat": {"grammar": structures.SUMS, "grammar_depth": 0},
    "words": {"grammar": 'start: WORD ("," WORD)*\nWORD: /[a-zé]+/'},
    "lists": {"grammar": 'start: list\nlist: "[" [item ("," item)*] "]"\nitem: list | /[a-z]{1,5}/', "grammar_depth": 2},
    "loud": {"regex": "(?i)nina (bought|sold) .{3,20}[.!]"},
    "letters": {"regex": r"\p{Lu}\p{Ll}{2,8}( \p{Greek}+)?"},
    "consonants": {"regex": "[a-z&&[^aeiou]]{3,70}"},
    "form": {"json_schema": control.FORM},
    "three": {"choices": ["chair", "elbat", "é\n"]},
    "long": {"choices": ["a" * 100, "b"]},
    "call": {"calls": structures.TOOLS},
    "count": {"calls": [structures.COUNT]},
    "odd": {"calls": [structures.tool("f", structures.ODD["words"]), structures.tool("g", structures.ODD["nested"])]},
}
CASES: tuple[tuple[Any, dict[str, Any]], ...] = (
    ("Add 17 and 25.", {"structure": "sums"}),
    ("Add 17 and 25.", {"structure": "sums", "adaptive": False, **HOT}),
    (control.WORDS, {"structure": "flat", "early_commit": 0.01, **HOT}),
    (control.REVERSE, {"structure": "words"}),
    (control.SENTENCE, {"structure": "lists", "schedule": "cosine", **HOT}),
    (control.SENTENCE, {"structure": "lists", "draft": "[nina,[bought],hat]", "strength": 0.8}),
    (control.SENTENCE, {"structure": "loud"}),
    (control.SENTENCE, {"structure": "letters", **HOT}),
    (control.WORDS, {"structure": "consonants", "max_steps": 2}),
    (control.PERSON, {"structure": "form", "entropy_bound": (0.3, 0.02)}),
    (control.REVERSE, {"structure": "three", "choice_probabilities": True}),
    (control.SENTENCE, {"structure": "lists", "guidance": 2.0, "negative": control.WORDS, **HOT}),
)
REFUSED: tuple[tuple[Any, dict[str, Any]], ...] = (
    (control.WORDS, {"structure": "sums", "stop": "x", "fallback": "autoregressive"}),
    (control.WORDS, {"structure": "sums", "min_tokens": 2}),
    (control.WORDS, {"structure": "sums", "think": True}),
    (control.WORDS, {"structure": "sums", "start_width": "auto"}),
    (control.WORDS, {"structure": "sums", "top_k": 3, "ban": "x"}),
    (control.WORDS, {"structure": "sums", "logprobs": 2}),
    (control.WORDS, {"structure": "sums", "template": "el{{3}}"}),
    (control.WORDS, {"structure": "sums", "choice_probabilities": True}),
    (control.WORDS, {"structure": "long", "choice_probabilities": True}),
    (control.WORDS, {"structure": "sums", "loop": "graph"}),
    (control.WORDS, {"structure": "sums", "decoder": "autoregressive"}),
    (control.WORDS, {"structure": "call"}),
)
QUESTION = "How late is it?"
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (  # structure, what the toy model would say, options
    ("call", "I would rather talk about the weather.", {}),
    ("call", "", {"adaptive": False}),
    ("count", "call:clock{}", {"max_steps": 1}),
    ("count", "", {"temperature": (0.0, 0.0)}),
    ("odd", "Nothing.", {}),
    ("odd", "call:g{of:{when:", {"max_new_tokens": 90}),
)


class Toy(speaking.Speaker):
    """What it would say is likeliest; behind it come the ids 41, 82, … further on, each with exp(−3/4) of its probability."""

    def _candidates(self, argmax: Any) -> list[Any]:
        ids = (argmax[0][:, None] + 41 * np.arange(16)) % self.bundle.manifest.model.vocab_size
        log_probs = np.tile(-0.75 * np.arange(1, 17, dtype=np.float32), (len(ids), 1))
        return [ids[None], log_probs[None], ids[None, :, 0]]


@contextmanager
def toy() -> Iterator[Bundle]:
    """The bundle of conversations.json's first template."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(fake_structured, "K", 16):
        folder = Path(name)
        (folder / "text").mkdir()
        text = speaking.write_text(folder / "text", released_folder.template(later=False))
        yield Bundle.open(speaking.write_speaking(folder / "b", text))


def form(bundle: Bundle) -> ToolForm:
    chat = bundle.manifest.chat
    assert chat is not None and chat.roles is not None and chat.roles.tools is not None
    return chat.roles.tools


def files(tools: ToolForm) -> dict[str, bytes]:
    """Of every structure."""
    found = {}
    for name, given in STRUCTURES.items():
        compiled = compile_structure(Structure(**given), tools).compiled
        assert compiled is not None
        found[name] = compiled.data
    return found


def held(name: str, data: bytes, tools: ToolForm) -> list[Any]:
    """One entry of `files`."""
    structure = Structure(compiled=decode(data))
    digest = load(HERE / "make_structure_vectors.py").digest(byte_automaton(structure, tools=tools))
    return [name, base64.b64encode(data).decode(), decode(data).head["states"], digest, list(structure.choices)]


def run(session: Session, compiled: dict[str, bytes], prompt: Any, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """One entry of `runs`."""
    structure = Structure(compiled=decode(compiled[options["structure"]]))
    return {**control.run(session, prompt, seed, {**options, "structure": structure}), "options": options}


def refusal(session: Session, compiled: dict[str, bytes], prompt: Any, options: dict[str, Any]) -> list[Any]:
    """One entry of `refused`."""
    structure = Structure(compiled=decode(compiled[options["structure"]]))
    return [prompt, options, control.refusal(session, prompt, {**options, "structure": structure})[2]]


def call(bundle: Bundle, compiled: dict[str, bytes], seed: int, case: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """One entry of `calls`."""
    name, said, options = case
    engine = Toy(bundle, speaking._ids(said), stop=speaking.STOP)
    structure = Structure(compiled=decode(compiled[name]))
    tools = STRUCTURES[name]["calls"]
    told = {"max_new_tokens": 200, **options}
    result = Session(bundle, engine).generate(QUESTION, structure=structure, tools=tools, seed=seed, trace=True, **told)
    assert result.trajectory is not None
    return {
        "structure": name,
        "answer": speaking._ids(said),
        "tools": tools,
        "prompt": QUESTION,
        "seed": str(seed),
        "options": told,
        **control.answer(result),
        "tool_calls": [[made.name, made.arguments] for made in result.tool_calls],
        "warnings": list(result.warnings),
        **control.trace(result.trajectory),
    }


def damaged(data: bytes) -> Iterator[list[str]]:
    """Entries of `damaged`: a file in many ways, and what is said of it."""
    made = decode(data)
    ways = [
        b"",
        data[:-1],
        data[:100],
        b"x" + data,
        data.replace(b'"dgemma_structure": 1', b'"dgemma_structure": 2'),
        b"[]\n" + data,
    ]
    ways += [resealed(data, *change) for change in (
        (b'"states": 14', b'"states": 13'), (b'"states": 14', b'"states": 0'), (b'"states": 14', b'"states": "14"'),
        (b'"grammar"', b'"regex"'), (b'"grammar"', b'"lark"'), (b'"grammar_depth": 4', b'"grammar_depth": "4"'),
        (str(made.head["source"]).encode(), b"0"), (b"09\x02\x00", b"09\x0e\x00"), (b"09\x02\x00", b"0\xf5\x02\x00"),
        (b"09\x02\x00", b"90\x02\x00"), (b"09\x02\x00", b"(9\x02\x00"), (b"((\x01\x00", b"((\x02\x00"),
    )]  # fmt: skip
    zeros = np.zeros(len(made.accepting), np.bool_)
    with mock.patch("dgemma.core.compiled_structure.decode", lambda data: data):
        ways.append(encode(made.head, made.table, zeros, 0))  # type: ignore[arg-type]  # the bytes alone
    for one in ways:
        try:
            decode(one)
        except NotAStructure as error:
            yield [base64.b64encode(one).decode(), str(error)]
        else:
            raise AssertionError(one)


def resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """With a change and the checksum of that."""
    assert old in data, old
    changed = data[:-32].replace(old, new, 1)
    return changed + hashlib.sha256(changed).digest()


def main(bundle: str, folder: Path) -> None:
    with toy() as speaks:
        compiled = files(form(speaks))
        entries = [held(name, data, form(speaks)) for name, data in compiled.items()]
        calls = [call(speaks, compiled, seed, case) for seed, case in enumerate(CALLS)]
    with Session.load(bundle, engine="onnx", threads=1) as session:
        runs = [run(session, compiled, prompt, seed, options) for seed, (prompt, options) in enumerate(CASES)]
        refused = [refusal(session, compiled, *case) for case in REFUSED]
    head = {"format": 1, "command": "python tests/vectors/make_compiled_vectors.py build/tiny.dgemma"}
    parts = {"files": entries, "damaged": list(damaged(compiled["sums"])), "runs": runs, "refused": refused, "calls": calls}
    text = [f' "{name}": [\n{control.lines(part)}\n]' for name, part in parts.items()]
    (folder / "compiled.json").write_text(",\n".join([json.dumps(head, indent=1)[:-2], *text]) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
