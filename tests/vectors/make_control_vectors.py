"""Writes control.json: generations of a float32 bundle of tiny under options that say something of the answer.

    python tests/vectors/make_control_vectors.py build/tiny.dgemma [FOLDER]

The Python runtime makes it with ONNX Runtime; what the file holds any language can read. README.md describes the format.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from dgemma.core.errors import PromptTooLong, UsageError
from dgemma.core.generate_options import GenerateOptions
from dgemma.core.trajectory import Trajectory
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

HERE = Path(__file__).resolve().parent
REVERSE, WORDS = "Reverse the word table.", "Write 4271 in words."
SENTENCE = "Make a sentence: name Nina, item ladder, colour yellow, city Paris."
LONG = " ".join(["four thousand two hundred and seventy one"] * 12)  # more than one canvas
HOT: dict[str, Any] = {"temperature": (3.0, 1.5), "max_steps": 7}
NINA = ["Nina bought", "Nina bought a hat.", "x"]
PERSON = "As JSON: Paula from Zurich, age 30."
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "city": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["name", "age"],
}
LIST: dict[str, Any] = {"type": "array", "items": {"enum": ["Paula", "Zurich", "age", 30]}, "minItems": 25, "maxItems": 40}
EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "day": {"type": "string", "format": "date"},
        "at": {"type": ["number", "null"]},
        "tags": {"$ref": "#/$defs/tags"},
    },
    "required": ["day", "at", "tags"],
    "$defs": {
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+(-[a-z]+)?$"}, "minItems": 1, "maxItems": 3}
    },
}
# Prompts behind which canvases say nothing: greedy decoding says something behind the first, and padding behind the second.
SILENT = [2, 4, 608, 606, 592, 605, 6, 240, 12, 595, 596, 601, 594, 537, 5, 6, 4, 600, 602, 591, 592, 599, 6, 607, 601, 602,
          595, 607, 601, 607]  # fmt: skip
PADDED = [*SILENT, 602, 0, 0, 0, 0]
Prompt = str | list[int] | None
CASES: tuple[tuple[Prompt, dict[str, Any]], ...] = (
    (REVERSE, {"template": "el{{3}}"}),
    (REVERSE, {"template": "{{2}}b{{2}}", "logprobs": 2}),
    (None, {"template": "four {{6}} hundred{{1}}"}),
    (SENTENCE, {"template": "{{3}} bought a {{8}}ladder in {{4}}.", **HOT}),
    (SENTENCE, {"template": "{{12}}yellow{{1}}", "early_commit": 0.01, **HOT}),
    (SENTENCE, {"template": "{{24}}", "top_k": 2, "ban": "yellow", **HOT}),
    (SENTENCE, {"template": "{{62}}x", "early_commit": 0.01, "recheck": True, "adaptive": False, "max_steps": 5}),
    (SENTENCE, {"draft": "Nina bought a yellow ladder in Paris."}),
    (SENTENCE, {"draft": "Paul sold a red chair in Rome.", "strength": 0.8, **HOT}),
    (SENTENCE, {"draft": "Nina bought a yellow ladder in Paris.", "strength": 0.05, "schedule": "cosine", **HOT}),
    (WORDS, {"draft": "four", "strength": 1.0, "entropy_bound": (0.3, 0.02)}),
    (WORDS, {"draft": LONG, "strength": 0.3, "min_tokens": 100}),
    (WORDS, {"draft": LONG, "strength": 0.6, "min_tokens": 70, "early_commit": 0.01, **HOT}),
    (SILENT, {"fallback": "autoregressive", "temperature": (4.0, 3.0), "max_steps": 5}),
    (PADDED, {"fallback": "autoregressive", "loop": "graph"}),
    (WORDS, {"fallback": "autoregressive", "stop": "and"}),
    (REVERSE, {"choices": ["chair", "elbat", "table"], "choice_probabilities": True}),
    (SENTENCE, {"choices": NINA, "choice_probabilities": True, "early_commit": 0.01, **HOT}),
    (REVERSE, {"regex": "[a-e]+"}),
    (REVERSE, {"regex": "[^a-z]{3}", "max_steps": 1}),
    (WORDS, {"regex": r"\d{2}\.\d{2}\.\d{4}", "temperature": (0.0, 0.0), "adaptive": False}),
    (WORDS, {"regex": "[a-z]{70,90}( [a-z]+)*", **HOT}),
    (WORDS, {"regex": r"(?:[a-zé]+[ ,]){3,40}\w+!", "early_commit": 0.01, "recheck": True, **HOT}),
    (SENTENCE, {"regex": r"Nina .*(Paris|Rome)\.", "draft": "Nina bought a hat.", "strength": 0.8}),
    (PERSON, {"json_schema": FORM}),
    (PERSON, {"json_schema": FORM, "early_commit": 0.01, "entropy_bound": (0.3, 0.02), **HOT}),
    (PERSON, {"json_schema": LIST, "max_steps": 6}),
    (PERSON, {"json_schema": LIST, **HOT}),
    (SENTENCE, {"json_schema": EVENT, "schedule": "cosine", "temperature": (2.0, 1.0)}),
    (REVERSE, {"guidance": 2.0, "negative": WORDS}),
    (REVERSE, {"guidance": 1.0, "negative": WORDS}),
    (SENTENCE, {"guidance": 0.0, "negative": REVERSE, **HOT}),
    (SENTENCE, {"guidance": 3.0, **HOT}),
    (SENTENCE, {"guidance": 2.5, "negative": PADDED, "guidance_steps": "2:4", "adaptive": False, **HOT}),
    (SENTENCE, {"guidance": 1.5, "guidance_steps": "3", "top_k": 3, "logit_bias": [(600, -4.0)], "logprobs": 1, **HOT}),
    (SENTENCE, {"guidance": 2.0, "template": "{{3}} bought a {{8}}ladder in {{4}}.", **HOT}),
    (WORDS, {"guidance": 1.4, "negative": LONG, "draft": LONG, "strength": 0.6, "min_tokens": 70, **HOT}),
    (PERSON, {"guidance": 1.5, "negative": SENTENCE, "json_schema": FORM, **HOT}),
    (REVERSE, {"guidance": 2.0, "negative": WORDS, "raw": True, "entropy_bound": (0.5, 0.05)}),
    (SENTENCE, {"template": "{{70}} ladder in {{4}}.", **HOT}),
    (SENTENCE, {"template": "Nina {{100}}yellow{{18}}", "early_commit": 0.01, "logprobs": 1}),
    (SENTENCE, {"guidance": 2.0, "negative": REVERSE, "template": "{{66}}x{{2}}"}),
)  # fmt: skip
# Greedy decoding; the prompt may be a conversation, and may go on from the prefix before it.
DECODED: tuple[tuple[Prompt | list[dict[str, str]], dict[str, Any]], ...] = (
    (WORDS, {}),
    (WORDS, {"stop": "seventy"}),
    (WORDS, {"stop": ["y o", "and "], "max_new_tokens": 40}),
    (WORDS, {"max_new_tokens": 3}),
    (REVERSE, {"continue_": True}),
    ([{"role": "user", "content": REVERSE}], {}),
    ([{"role": "user", "content": WORDS}, {"role": "assistant", "content": "four"}, {"role": "user", "content": SENTENCE}],
     {"continue_": True, "stop": "."}),
    (SILENT, {}),
    (PADDED, {"raw": True}),
)  # fmt: skip
# What is refused before work.
REFUSED: tuple[tuple[Prompt, dict[str, Any]], ...] = (
    (WORDS, {"regex": "[a-z]{900}"}),
    (WORDS, {"json_schema": {"type": "array", "items": {"const": "abcdefgh"}, "minItems": 40}}),
    (WORDS, {"choices": ["a" * 600, "b" * 600]}),
    (WORDS, {"choices": ["a" * 100, "b"], "choice_probabilities": True}),
    ([2] * 900, {"regex": "[0-9]{99}"}),
    (WORDS, {"stop": "x", "fallback": "autoregressive", "regex": "a"}),
    (WORDS, {"regex": "a", "min_tokens": 2}),
    (WORDS, {"regex": "a", "think": True}),
    (WORDS, {"choices": ["a", "b"], "start_width": "auto"}),
    (WORDS, {"top_k": 3, "ban": "x", "json_schema": {"type": "null"}}),
    (WORDS, {"regex": "a", "choice_probabilities": True}),
    (WORDS, {"regex": "(a"}),
    (WORDS, {"guidance": 101.0}),
    (WORDS, {"guidance": 2.0, "negative": ""}),
    (WORDS, {"guidance": 2.0, "negative": [2, 618]}),
    (WORDS, {"guidance": 1.0, "negative": [2] * 1000}),
    (WORDS, {"guidance": 2.0, "guidance_steps": "3:2"}),
    (WORDS, {"guidance": 2.0, "loop": "graph"}),
    (WORDS, {"guidance": 2.0, "early_commit": 0.01}),
    (WORDS, {"guidance": 2.0, "decoder": "autoregressive"}),
    (WORDS, {"decoder": "autoregressive", "early_commit": 0.01}),
    (WORDS, {"decoder": "autoregressive", "loop": "graph"}),
    (WORDS, {"decoder": "autoregressive", "adaptive": False}),
    (WORDS, {"decoder": "autoregressive", "template": "a{{3}}"}),
    (WORDS, {"decoder": "autoregressive", "min_tokens": 3}),
    (WORDS, {"decoder": "autoregressive", "ban": "x"}),
    (WORDS, {"decoder": "autoregressive", "logprobs": 0}),
    (WORDS, {"decoder": "autoregressive", "regex": "a"}),
    (WORDS, {"decoder": "autoregressive", "max_steps": 3}),
    (WORDS, {"decoder": "autoregressive", "fallback": "autoregressive"}),
)  # fmt: skip
SAMPLES: tuple[tuple[Prompt, int, dict[str, Any]], ...] = (
    ("38 plus 77?", 6, {"max_steps": 1}),
    ("38 plus 77?", 4, {"early_commit": 0.01}),
    (SILENT, 3, {"fallback": "autoregressive", "temperature": (4.0, 3.0), "max_steps": 5}),
)


def trace(t: Trajectory) -> dict[str, Any]:
    """JSON values. `canvas_in` of every step that is the first of its canvas; other steps begin with the canvas before them."""
    first = [i == 0 or t.canvas_index[i] != t.canvas_index[i - 1] for i in range(len(t.step))]
    return {
        "canvas_index": t.canvas_index.tolist(),
        "step": t.step.tolist(),
        "begun": t.canvas_in[first].tolist(),
        "argmax": t.argmax.tolist(),
        "accepted": ["".join(str(int(x)) for x in row) for row in t.accepted],
        "canvas_out": t.canvas_out.tolist(),
    }


def answer(result: Result) -> dict[str, Any]:
    """What is the same wherever it is generated."""
    return {
        "text": result.text,
        "tokens": list(result.tokens),
        "holes": list(result.holes),
        "steps": result.steps,
        "canvases": result.canvases,
        "position_forwards": result.position_forwards,
        "stop_reason": result.stop_reason,
        "loop": result.loop,
        **({} if result.choice_probabilities is None else {"choice_probabilities": rounded(result.choice_probabilities)}),
    }


def rounded(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Kernels sum in other orders."""
    return {choice: round(value, 5) for choice, value in probabilities.items()}


def refusal(session: Session, prompt: Prompt, options: dict[str, Any]) -> list[Any]:
    """One entry of `refused`."""
    try:
        session.generate(prompt, GenerateOptions.of(max_new_tokens=128, **options))
    except (UsageError, PromptTooLong) as error:
        return [prompt, options, str(error)]
    raise AssertionError(options)


def run(session: Session, prompt: Prompt, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """One entry of `runs`."""
    result = session.generate(prompt, GenerateOptions.of(seed=seed, max_new_tokens=128, trace=True, **options))
    assert result.trajectory is not None
    logprobs = [round(one.logprob, 5) for one in result.logprobs]
    entropies = [round(nats, 5) for nats in result.entropies]
    return {
        "prompt": prompt,
        "seed": str(seed),
        "options": options,
        **answer(result),
        "prefix": list(session.prefix_ids),
        "logprobs": logprobs,
        "entropies": entropies,
        **trace(result.trajectory),
    }


def decoded(session: Session, prompt: Prompt | list[dict[str, str]], options: dict[str, Any]) -> dict[str, Any]:
    """One entry of `decoded`."""
    asked = GenerateOptions.of(decoder="autoregressive", **{"max_new_tokens": 128, **options})
    if isinstance(prompt, list) and isinstance(prompt[0], dict):
        result = session.generate(messages=cast(list[dict[str, str]], prompt), options=asked)
    else:
        result = session.generate(cast(Prompt, prompt), asked)
    assert not result.entropies
    return {"prompt": prompt, "options": options, **answer(result), "prefix": list(session.prefix_ids)}


def several(session: Session, prompt: Prompt, n: int, options: dict[str, Any]) -> dict[str, Any]:
    """One entry of `samples`."""
    samples = session.sample(prompt, GenerateOptions.of(seed=2**64 - 2, max_new_tokens=128, **options), n=n)
    return {
        "prompt": prompt,
        "seed": str(2**64 - 2),
        "n": n,
        "options": options,
        "results": [answer(result) for result in samples.results],
        "votes": [[text, count] for text, count in samples.votes.items()],
        "best": samples.results.index(samples.best),
        "agreement": samples.agreement,
        "prefix": list(session.prefix_ids),
    }


def lines(entries: list[dict[str, Any]]) -> str:
    """A line for each."""
    return ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)


def main(bundle: str, folder: Path) -> None:
    with Session.load(bundle, engine="onnx", threads=1) as session:
        runs = [run(session, prompt, seed, options) for seed, (prompt, options) in enumerate(CASES)]
        greedy = [decoded(session, *case) for case in DECODED]
        samples = [several(session, *case) for case in SAMPLES]
        refused = [json.dumps(refusal(session, *case)) for case in REFUSED]
        manifest = session.manifest
    head = {
        "format": 1,
        "command": "python tests/vectors/make_control_vectors.py build/tiny.dgemma",
        "canvas_length": manifest.canvas_length,
        "steps": manifest.steps,
        "vocab_size": manifest.model.vocab_size,
    }
    parts = {"runs": lines(runs), "decoded": lines(greedy), "samples": lines(samples), "refused": ",\n".join(refused)}
    text = ",\n".join([json.dumps(head, indent=1)[:-2], *(f' "{name}": [\n{part}\n]' for name, part in parts.items())]) + "}\n"
    (folder / "control.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
