"""Log-probabilities of an answer's tokens in OpenAI's two forms, chat's and completions'."""

from __future__ import annotations

import math
from typing import Any

from dgemma.runtime.result import Result
from dgemma.runtime.tokenizer import Tokenizer

IMPOSSIBLE = -9999.0  # what OpenAI's API gives for a probability of 0: JSON has no infinity


def of_chat(result: Result, tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """Each token with its text and bytes, thoughts and calls included; None where they were not asked for."""
    if not result.logprobs:
        return None
    found = [
        {**_one(token, value, tokenizer), "top_logprobs": [_one(other, less, tokenizer) for other, less in top]}
        for token, value, top in result.logprobs[: result.count]
    ]
    return {"content": found, "refusal": None}


def of_completion(result: Result, tokenizer: Tokenizer | None) -> dict[str, Any] | None:
    """Lists by token; offsets count characters of the tokens' texts."""
    if not result.logprobs:
        return None
    tokens, offsets, at = list[str](), list[int](), 0
    for one in result.logprobs[: result.count]:
        tokens.append(_text(one.token, tokenizer))
        offsets.append(at)
        at += len(tokens[-1])
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(one.logprob) for one in result.logprobs[: result.count]],
        "top_logprobs": [
            {_text(other, tokenizer): _finite(less) for other, less in one.top} for one in result.logprobs[: result.count]
        ],
        "text_offset": offsets,
    }


def _one(token: int, value: float, tokenizer: Tokenizer | None) -> dict[str, Any]:
    text = _text(token, tokenizer)
    return {"token": text, "logprob": _finite(value), "bytes": list(text.encode())}


def _text(token: int, tokenizer: Tokenizer | None) -> str:
    """A token's text; for one that has none, its id."""
    text = "" if tokenizer is None else tokenizer.pieces([token])[0]
    return text or f"<{token}>"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else IMPOSSIBLE
