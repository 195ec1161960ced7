"""Stories against their grammar: what is valid, by denoising steps, beside autoregressive samples of the same weights.

    python -m dgemma.benchmarks.studies.story CKPT [CKPT …] --out FILE
    python -m dgemma.benchmarks.studies.story_speed BUNDLE [BUNDLE …] --out FILE

Both ways of generating run in eager PyTorch in float32, diffusion with the contract's noise. The product decodes greedily,
which tells one story however often it is asked; tokens are sampled here, at the temperatures given.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import sentencepiece as spm
import torch

from dgemma.benchmarks import report
from dgemma.benchmarks.studies import story_table
from dgemma.core import machine
from dgemma.core.metrics import wilson
from dgemma.core.progress import progress
from dgemma.core.sampler import SamplerConfig
from dgemma.model import checkpoint
from dgemma.model.denoiser import Denoiser
from dgemma.train import rollout
from dgemma.train.rollout import Generated
from dgemma.train.story import dialogue, world
from dgemma.train.story.data import HELD_OUT_SEED
from dgemma.train.story.grammar import Broken, Draw, Read, Request, story, words

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
TEMPERATURES = (1.0, 0.6)  # of the grammar itself; and the middle of the sampler's schedule
MOST_CANVASES = 5
_KEEPS = ("pronoun", "place", "thing", "possession", "person")  # rules that tie a story to what was told before
# Free choices at fixed places of the first two sentences: place → the words that are as likely.
_SLOTS = {0: world.TIMES, 3: world.ROLES, 9: world.PLACES, 12: world.GETS, 14: world.LOOKS}
_OPTIONS: dict[str, dict[str, Any]] = {
    "stock": {},
    "entropy bound 0.03": {"entropy_bound": 0.03},
    "entropy bound 0.3": {"entropy_bound": 0.3},
    "entropy bound 1": {"entropy_bound": 1.0},
    "confidence 0.05": {"confidence_threshold": 0.05},
    "temperature 1 to 0.4": {"t_max": 1.0},
    "temperature 0.6 to 0.2": {"t_max": 0.6, "t_min": 0.2},
}

Ask = Callable[[Sequence[Sequence[int]], Sequence[int]], list[Generated]]  # prompts, seeds → answers


class Speech(Protocol):
    """Conversations as ids, and ids as text."""

    def ids(self, messages: dialogue.Messages) -> list[int]:
        """A conversation up to where the model answers."""

    def decode(self, tokens: Sequence[int]) -> str: ...


class Text:
    """The checkpoint's tokenizer and turns."""

    def __init__(self, folder: Path) -> None:
        self.sp: Any = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def ids(self, messages: dialogue.Messages) -> list[int]:
        """A conversation up to where the model answers."""
        said = "".join(
            f"<start_of_turn>{'model' if m['role'] == 'assistant' else 'user'}\n{m['content']}<end_of_turn>\n" for m in messages
        )
        return [2, *self.sp.encode(f"{said}<start_of_turn>model\n")]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.sp.decode(list(tokens)))


def diffusion(model: Denoiser, policy: SamplerConfig) -> Ask:
    return lambda prompts, seeds: rollout.generate_rows(model, policy, prompts, seeds, most_canvases=MOST_CANVASES)


def autoregressive(model: Denoiser, temperature: float) -> Ask:
    most = MOST_CANVASES * model.config.canvas_length

    def ask(prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Generated]:
        generator = torch.Generator().manual_seed(seeds[0])
        return rollout.sample_tokens(model, prompts, generator, temperature=temperature, most_tokens=most)

    return ask


def requests(count: int) -> list[Request]:
    rng = random.Random(HELD_OUT_SEED)
    return [Request.draw(rng) for _ in range(count)]


def stories(text: Speech, asked: Sequence[Request]) -> list[list[int]]:
    """Prompts that ask for these stories."""
    return [text.ids([{"role": "user", "content": one.prompt}]) for one in asked]


@dataclass(frozen=True)
class Verdict:
    """On a story: the rule that it breaks, None if it is valid; the word where, or the number of words; its log-likelihood."""

    rule: str | None
    at: int
    log_likelihood: float

    @staticmethod
    def of(said: str, request: Request) -> Verdict:
        tell = Read(words(said))
        try:
            story(tell, request)
            tell.finish()
        except Broken as error:
            return Verdict(error.rule, error.at, -math.inf)
        return Verdict(None, len(words(said)), tell.log_likelihood)


def told(ask: Ask, text: Speech, asked: Sequence[Request], n: int) -> dict[str, Any]:
    """Stories for these requests: validity, what broke, coherence beyond the first canvas, surprise, spread, steps."""
    found = ask(stories(text, asked), range(len(asked)))
    texts = [text.decode(one.tokens) for one in found]
    verdicts = [Verdict.of(said, request) for said, request in zip(texts, asked, strict=True)]
    broken = Counter(one.rule for one in verdicts if one.rule is not None)
    likelihoods = [one.log_likelihood for one in verdicts if one.rule is None]
    begun = [one for one in verdicts if one.rule is None or one.at >= n]  # a word is a token: another canvas follows the first
    kept = sum(one.rule not in _KEEPS for one in begun)
    steps = [canvas.steps for one in found for canvas in one.canvases]
    return {
        "n": len(asked),
        "valid": share(len(likelihoods), len(asked)),
        "coherent": share(kept, len(begun)),
        "broken": dict(broken.most_common()),
        "nats_per_story": sum(likelihoods) / len(likelihoods) if likelihoods else None,
        "distinct": len(set(texts)) / len(texts),
        "spread": spread(texts),
        "steps_per_canvas": sum(steps) / len(steps) if steps else None,
        "tokens": sum(len(one.tokens) for one in found),
    }


def share(count: int, of: int) -> dict[str, float]:
    low, high = wilson(count, of)
    return {"value": count / of if of else math.nan, "low": low, "high": high}


def spread(texts: Sequence[str]) -> float | None:
    """Entropy of the choices that nothing binds over that of the grammar, the mean over slots; 1 where all are as likely."""
    ratios = list[float]()
    for place, options in _SLOTS.items():
        counts = Counter(said[place] for said in map(words, texts) if len(said) > place and said[place] in options)
        total = sum(counts.values())
        if not total:
            return None
        ratios.append(-sum(c / total * math.log(c / total) for c in counts.values()) / math.log(len(options)))
    return sum(ratios) / len(ratios)


def personas(ask: Ask, text: Speech, count: int) -> dict[str, Any]:
    """Dialogues of ten turns, every answer the model's own: how many have no wrong answer yet, by turn."""
    rng = random.Random(HELD_OUT_SEED + 1)
    talks = [dialogue.draw_dialogue(rng, dialogue.MOST_TURNS)[::2] for _ in range(count)]
    said: list[dialogue.Messages] = [[] for _ in talks]
    right = [0] * dialogue.MOST_TURNS
    alive = [True] * count
    for number in range(dialogue.MOST_TURNS):
        prompts = [text.ids([*done, talk[number]]) for done, talk in zip(said, talks, strict=True)]
        seeds = [1000 * (number + 1) + i for i in range(count)]
        for i, answer in enumerate(ask(prompts, seeds)):
            said[i] += dialogue.turn(talks[i][number]["content"], text.decode(answer.tokens))
            alive[i] = alive[i] and is_read(said[i])
        right[number] = sum(alive)
    return {"n": count, "kept": share(right[-1], count), "kept_by_turn": [r / count for r in right]}


def is_read(messages: dialogue.Messages) -> bool:
    try:
        dialogue.read(messages)
    except Broken:
        return False
    return True


def of_checkpoint(folder: Path, count: int, dialogues: int) -> dict[str, Any]:
    loaded, text = checkpoint.load(folder), Text(folder)
    model, policy, n = loaded.model.requires_grad_(False).eval(), loaded.sampler, loaded.model.config.canvas_length
    asked = requests(count)
    by_steps = {
        steps: told(diffusion(model, replace(policy, steps=steps)), text, asked, n)
        for steps in progress(STEPS, f"{folder.name}: steps")
    }
    by_temperature = {str(t): told(autoregressive(model, t), text, asked, n) for t in TEMPERATURES}
    by_option = {
        name: told(diffusion(model, replace(policy, **changes)), text, asked, n)
        for name, changes in progress(list(_OPTIONS.items()), f"{folder.name}: options")
        if policy.steps > 8
    }
    ways = {"diffusion": diffusion(model, policy), **{f"autoregressive at {t}": autoregressive(model, t) for t in TEMPERATURES}}
    return {
        "files": loaded.files(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampler": policy.to_dict(),
        "canvas": n,
        "by_steps": by_steps,
        "autoregressive": by_temperature,
        "by_option": by_option,
        "persona": {name: personas(ask, text, dialogues) for name, ask in ways.items()},
    }


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgemma.benchmarks.studies.story", description="Stories against their grammar."
    )
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=256, help="stories for each row")
    parser.add_argument("--dialogues", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    report.check_out(options.out)
    torch.set_num_threads(options.threads)
    rng = random.Random(HELD_OUT_SEED)
    truth = [story_likelihood(one, rng) for one in requests(4000)]
    result = {
        "benchmark": "story",
        "machine": machine.facts(),
        "options": {name: getattr(options, name) for name in ("count", "dialogues", "threads")},
        "truth": {"nats_per_story": sum(truth) / len(truth)},
        "checkpoints": {one.name: of_checkpoint(one, options.count, options.dialogues) for one in options.checkpoints},
    }
    if options.out:
        report.write_json(options.out, result)
        story_table.draw(result, options.out.with_name(story_table.PICTURE))
        print(f"wrote {options.out}")
    return 0


def story_likelihood(request: Request, rng: random.Random) -> float:
    """That of a story which the grammar itself tells."""
    tell = Draw(rng)
    story(tell, request)
    return tell.log_likelihood


if __name__ == "__main__":
    report.main(run)
