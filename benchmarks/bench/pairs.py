"""Real prompts by both decoders of one bundle: diffusion and autoregressive, next to each other in time, order alternating.

Tokens are those up to, without, the stop token: no pads. A rate is tokens over wall-clock time of the whole call, prefill
and tokenizing included; the decoding rate leaves prefill out. What is measured of bundles with random weights says nothing
of speed, for they do not converge: they are left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from dgemma.benchmarks.bench.budget import Budget
from dgemma.benchmarks.held_out import TASKS, read_items
from dgemma.benchmarks.stats import quartiles
from dgemma.core.manifest import Manifest
from dgemma.runtime.result import Result
from dgemma.runtime.session import Session

# Tasks of the shipped model by how much of its canvas an answer fills (64 ids).
GROUPS = {
    "fills it to the end": ("letter",),  # 62 of 64 tokens
    "fills a canvas": ("letter", "spell_list", "numbers_list", "upper_list"),  # 43 to 62
    "several canvases": ("invitations",),
    "short": ("reverse", "number_words", "upper", "template"),
}
PER_TASK = 10
DECODERS = ("diffusion", "autoregressive")
_GOLDEN = "golden.npz"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text for the chat template, or ids taken verbatim; and the right answer where one is known."""

    given: str | list[int]
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One decoded answer; seconds of the call (graphs were loaded by the warm-up) and its parts."""

    tokens: int
    steps: int
    canvases: int
    right: bool | None
    seconds: float
    prefill_s: float
    denoise_s: float
    engine_s: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds

    @property
    def decoding_rate(self) -> float:
        return self.tokens / (self.seconds - self.prefill_s)

    @property
    def step_ms(self) -> float:
        return 1e3 * self.denoise_s / self.steps

    @property
    def host_share(self) -> float:
        """Share of the call that is not spent inside the engine: loop, noise, caches, tokenizer."""
        return 1 - self.engine_s / self.seconds


def sample(prompt: Prompt, result: Result) -> Sample:
    t = result.timings
    return Sample(
        tokens=len(result.tokens),
        steps=result.steps,
        canvases=max(1, result.canvases),
        right=None if prompt.answer is None else result.text.strip() == prompt.answer.strip(),
        seconds=t.total_s,
        prefill_s=t.prefill_s,
        denoise_s=t.denoise_s,
        engine_s=t.engine_s,
    )


def prompts(bundle: Path, manifest: Manifest) -> dict[str, list[Prompt]]:
    """Groups of prompts that suit a bundle: the shipped model's held-out tasks, else golden ones; none for random weights."""
    if "random_weights" in manifest.provenance:
        return {}
    if manifest.provenance.get("name") == "tiny" and manifest.tokenizer and manifest.chat:
        found = {}
        for group, tasks in GROUPS.items():
            found[group] = [Prompt(given=i.prompt, answer=i.answer) for i in read_items(TASKS, PER_TASK, tasks)]
        return found
    if _GOLDEN not in manifest.files:
        return {}
    with np.load(bundle / _GOLDEN) as arrays:
        ids = [arrays[name].tolist() for name in sorted(arrays.files) if name.startswith("artifact_") and "prompt_ids" in name]
    return {"golden prompts": [Prompt(given=given) for given in ids]} if ids else {}


Pair = dict[str, Sample]
Decoders = Mapping[str, Callable[[Prompt], Sample]]


def decoders(session: Session, max_new_tokens: int, seed: int) -> Decoders:
    """Both decoders of a session."""

    def diffusion(prompt: Prompt) -> Sample:
        return sample(prompt, session.generate(prompt.given, max_new_tokens=max_new_tokens, seed=seed))

    def autoregressive(prompt: Prompt) -> Sample:
        return sample(prompt, session.decode_greedy(prompt.given, max_new_tokens=max_new_tokens))

    return dict(zip(DECODERS, (diffusion, autoregressive), strict=True))


def paired_runs(given: Mapping[str, Sequence[Prompt]], by: Decoders, budget: Budget) -> dict[str, list[Pair]]:
    """Every prompt of every group by every decoder, next to each other in time; the order alternates.

    Groups take turns prompt by prompt, so that a busy minute slows all of them. Rounds are whole, so that counts of tokens and
    steps do not depend on the time there was. One warm-up of each decoder is dropped.
    """
    for decode in by.values():
        decode(next(iter(given.values()))[0])
    pairs: dict[str, list[Pair]] = {group: [] for group in given}
    for number in budget.start().rounds():
        for i, row in enumerate(zip_longest(*given.values())):
            for group, prompt in zip(given, row, strict=True):
                if prompt is None:
                    continue
                order = list(by) if (number + i) % 2 == 0 else list(by)[::-1]
                done = {name: by[name](prompt) for name in order}
                if all(s.tokens and s.steps for s in done.values()):  # an empty answer has no rate
                    pairs[group].append(done)
    return pairs


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Medians and quartiles by decoder; ratios pair by pair, and the ratio of all tokens over all time."""

    def spread(values: Iterable[float]) -> dict[str, Any]:
        return asdict(quartiles(list(values)))

    def total_rate(samples: Sequence[Sample]) -> float:
        return sum(s.tokens for s in samples) / sum(s.seconds for s in samples)

    sides = {name: [pair[name] for pair in pairs] for name in DECODERS}
    result: dict[str, Any] = {"pairs": len(pairs)}
    for name, samples in sides.items():
        judged = [s.right for s in samples if s.right is not None]
        result[name] = {
            "tokens_per_s": spread(s.rate for s in samples),
            "decoding_tokens_per_s": spread(s.decoding_rate for s in samples),
            "step_ms": spread(s.step_ms for s in samples),
            "first_canvas_ms": spread(1e3 * (s.prefill_s + s.denoise_s / s.canvases) for s in samples),
            "host_share": spread(s.host_share for s in samples),
            "engine_share": sum(s.engine_s for s in samples) / sum(s.seconds for s in samples),
            "tokens": spread(s.tokens for s in samples),
            "tokens_per_forward": sum(s.tokens for s in samples) / sum(s.steps for s in samples),
            "steps_per_canvas": sum(s.steps for s in samples) / sum(s.canvases for s in samples),
            "exact": sum(judged) / len(judged) if judged else None,
        }
    both = list(zip(sides["diffusion"], sides["autoregressive"], strict=True))
    result["ratio"] = spread(d.rate / a.rate for d, a in both)
    result["decoding_ratio"] = spread(d.decoding_rate / a.decoding_rate for d, a in both)
    result["total_ratio"] = total_rate(sides["diffusion"]) / total_rate(sides["autoregressive"])
    return result
