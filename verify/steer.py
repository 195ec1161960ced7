"""Options of generations, drawn by number: what the ladder lays beside one another on every backend, and test vectors hold.

It knows nothing of backends. Numbers give the same options on every machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dgemma.core.guidance import Guidance
from dgemma.core.manifest import Manifest
from dgemma.core.sampler_options import BANNED, IN_GRAPH, SamplerOptions

PLAIN = ("temperature", "greedy", "max_steps", "lower_bound", "schedule", "table", "confidence", "stability")
OF_CANDIDATES = ("higher_bound", "top_k", "top_p", "min_p", "logit_bias", "ban", "min_tokens")
ALONE = len((*PLAIN, *OF_CANDIDATES))  # so many draws have one option each; one more where guidance is drawn as well
MOST_OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Steer:
    """Options of one generation.

    Args:
        ban: ids.
        guidance: its negative prompt is ids.
    """

    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    ban: tuple[int, ...] = ()
    min_tokens: int = 0
    guidance: Guidance | None = None

    @property
    def biased(self) -> SamplerOptions:
        """The sampler's options with the bans as a bias."""
        if not self.ban:
            return self.sampler
        return replace(self.sampler, logit_bias={**dict(self.sampler.bias), **dict.fromkeys(self.ban, BANNED)})

    @property
    def negative(self) -> list[int]:
        """The negative prompt of guidance; empty where there is none."""
        found = None if self.guidance is None else self.guidance.negative
        assert not isinstance(found, str), "what is drawn is ids"
        return list(found or ())

    @property
    def in_graph(self) -> bool:
        """Whether the fused loop takes all of it."""
        return not self.ban and not self.min_tokens and self.guidance is None and set(self.sampler.given) <= set(IN_GRAPH)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, by the names of keywords; a bias of null is a ban."""
        found: dict[str, Any] = {}
        for name in self.sampler.given:
            value = getattr(self.sampler, name)
            if name == "logit_bias":
                value = [[i, None if bias == BANNED else bias] for i, bias in value]
            elif name == "schedule" and not isinstance(value, str):
                value = {key: list(getattr(value, key)) for key in ("temperature", "entropy_bound") if getattr(value, key)}
            found[name] = list(value) if isinstance(value, tuple) else value
        found |= {name: value for name, value in (("ban", list(self.ban)), ("min_tokens", self.min_tokens)) if value}
        if (one := self.guidance) is not None:
            said = (("guidance", one.scale), ("negative", self.negative or None), ("guidance_steps", one.steps))
            found |= {name: value for name, value in said if value is not None}
        return found

    def __str__(self) -> str:
        told = []
        for name, value in self.to_dict().items():
            many = name in ("logit_bias", "ban", "negative")
            table = isinstance(value, dict)
            pair = isinstance(value, list | tuple) and not many
            shown = (
                f"of {len(value)} ids" if many else "table" if table else ":".join(f"{x:.3g}" for x in value) if pair else value
            )
            told.append(f"{name} {shown:.3g}" if isinstance(shown, float) else f"{name} {shown}")
        return ", ".join(told)


def drawn(number: int, manifest: Manifest, ids: Sequence[int], *, candidates: bool = True, guidance: bool = False) -> Steer:
    """Options number 0, 1, 2…: the first ones have one option each (of the stop rule both), the others up to four.

    Args:
        ids: that come up in answers, for biases, bans and negative prompts.
        candidates: whether steps put out what some options need.
        guidance: whether steps can be guided.
    """
    draw = random.Random(f"options {number}")
    names = (*PLAIN, *(OF_CANDIDATES if candidates else ()), *(("guidance",) if guidance else ()))
    first = names[number % len(names)]
    more = draw.sample([name for name in names if name != first], draw.randint(1, MOST_OPTIONS - 1))
    chosen = [first] if number < len(names) else [first, *more]
    said: dict[str, Any] = {}
    for name in chosen:
        for key, value in _MADE[name](draw, manifest, ids).items():
            if key not in said and not _clashes(key, said):
                said[key] = value
    ban, least, pushed = said.pop("ban", ()), said.pop("min_tokens", 0), said.pop("guidance", None)
    return Steer(sampler=SamplerOptions(**said), ban=ban, min_tokens=least, guidance=pushed)


def _clashes(key: str, said: dict[str, Any]) -> bool:
    """Whether a table says what this one says, or the other way round."""
    is_table = isinstance(said.get("schedule"), dict)
    return (is_table and key in ("temperature", "entropy_bound", "max_steps")) or (
        key == "schedule" and bool(said.keys() & {"temperature", "entropy_bound", "max_steps"})
    )


def _table(draw: random.Random, manifest: Manifest) -> dict[str, Any]:
    steps, bound = draw.randint(1, manifest.steps), manifest.sampler.entropy_bound
    table = {"temperature": [round(draw.uniform(0.2, 3.0), 3) for _ in range(steps)]}
    return {"schedule": {**table, "entropy_bound": [round(bound * draw.uniform(0.05, 1.0), 6) for _ in range(steps)]}}


def _biases(draw: random.Random, ids: Sequence[int]) -> dict[str, Any]:
    return {"logit_bias": {i: draw.choice([-math.inf, -4.0, 3.0]) for i in draw.sample(ids, min(len(ids), 40))}}


def _guidance(draw: random.Random, manifest: Manifest, ids: Sequence[int]) -> dict[str, Any]:
    """Away from another prompt or from less self-conditioning, in every step or in some."""
    negative = draw.choice([None, draw.sample(ids, min(len(ids), 12))])
    steps = draw.choice([None, (2, manifest.steps)])
    return {"guidance": Guidance(scale=round(draw.uniform(0.0, 4.0), 3), negative=negative, steps=steps)}


_EVER = 100.0  # nats: as good as any mean entropy is below
_Make = Callable[[random.Random, Manifest, Sequence[int]], dict[str, Any]]
_MADE: dict[str, _Make] = {
    "temperature": lambda r, m, i: {"temperature": (round(r.uniform(0.5, 4.0), 3), round(r.uniform(0.1, 2.0), 3))},
    "greedy": lambda r, m, i: {"temperature": 0.0},
    "max_steps": lambda r, m, i: {"max_steps": r.randint(1, max(1, m.steps // 2))},
    "lower_bound": lambda r, m, i: {"entropy_bound": tuple(_share(r, m, 0.02, 1.0) for _ in range(2))},
    "higher_bound": lambda r, m, i: {"entropy_bound": tuple(_share(r, m, 1.5, 40.0) for _ in range(2))},
    "schedule": lambda r, m, i: {"schedule": "cosine"},
    "table": lambda r, m, i: _table(r, m),
    # The stop rule's two at once, for either alone changes nothing where a model does not come to the other.
    "confidence": lambda r, m, i: {"confidence": _EVER, "stability": r.choice([0, 1])},
    "stability": lambda r, m, i: {"stability": r.choice([0, 2, 3]), "confidence": _EVER},
    "top_k": lambda r, m, i: {"top_k": r.choice([1, 2, 5])},
    "top_p": lambda r, m, i: {"top_p": round(r.uniform(0.2, 0.95), 3)},
    "min_p": lambda r, m, i: {"min_p": round(r.uniform(0.02, 0.7), 3)},
    "logit_bias": lambda r, m, i: _biases(r, i),
    "ban": lambda r, m, i: {"ban": tuple(sorted(r.sample(i, min(len(i), 12))))},
    "min_tokens": lambda r, m, i: {"min_tokens": r.randint(m.canvas_length // 2, m.canvas_length)},
    "guidance": _guidance,
}


def _share(draw: random.Random, manifest: Manifest, low: float, high: float) -> float:
    return round(manifest.sampler.entropy_bound * draw.uniform(low, high), 6)
