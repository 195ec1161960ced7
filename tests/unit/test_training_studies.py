"""Studies of training: greedy decoding against a naive twin, figures, and what a checkpoint's logs add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import micro
import torch

from dgemma.benchmarks.eval.items import EvalItem
from dgemma.benchmarks.studies import adapt
from dgemma.model.denoiser import Denoiser

ROOT = Path(__file__).parents[2]


def lively() -> Denoiser:
    """A model that does not repeat its last token, as the micro model does."""
    model = micro.model()
    with torch.no_grad():
        model.embed_tokens.weight.mul_(0.02)
        for layer in model.layers:
            layer.self_attn.o_proj.weight.mul_(4)  # type: ignore[operator, union-attr]
    return model


def naive(model: Denoiser, prompt: list[int], most: int) -> list[int]:
    """Every token by encoding all that stands before it."""
    tokens = list[int]()
    with torch.no_grad():
        while len(tokens) < most:
            hidden, _ = model.encode(torch.tensor([[*prompt, *tokens]]))
            token = int(model.head(hidden)[0, -1].argmax())
            if token in model.config.eos_token_ids:
                break
            tokens.append(token)
    return tokens


def test_greedy_decoding_is_that_of_a_naive_twin() -> None:
    model, prompts = lively(), [micro.prompt(length) for length in (3, 12, 20)]
    found = [adapt.decode(model, prompt, 10) for prompt in prompts]
    assert found == [naive(model, prompt, 10) for prompt in prompts]
    assert all(len(set(tokens)) > 5 for tokens in found) and found[0] != found[1]
    stop = replace(model.config, eos_token_ids=(found[0][3],))
    model.config = stop
    assert adapt.decode(model, prompts[0], 10) == found[0][:3]


def test_figures_are_shares_of_all_and_of_each_task() -> None:
    items = [EvalItem(task=task, prompt="p", answer="a") for task in ("one", "one", "two", "two")]
    found = adapt.figures([True, False, True, True], items)
    assert (found["n"], found["right"], found["exact"]) == (4, 3, 0.75)
    assert found["tasks"] == {"one": 0.5, "two": 1.0} and found["low"] < 0.75 < found["high"]


def test_tiny_took_the_tokens_of_both_stages() -> None:
    assert adapt.tokens(ROOT / "checkpoints" / "tiny") == 20_547_760 + 15_546_384
