"""Generations under options drawn at random: every backend that takes options against the nearest such one above it.

Where two differ, the first difference is measured as in `divergence.py`, but with what the options make of a step: how far the
candidates, their cut and their draw were from going otherwise. Where a difference has no such excuse, an option was taken in
another way, or not at all; the first draws have one option each, so that they tell which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dgemma.core.errors import DgemmaError
from dgemma.core.manifest import Manifest
from dgemma.core.noise import step_words, uniform_from_word
from dgemma.core.sampler_options import BANNED, GREEDY
from dgemma.core.trajectory import Trajectory
from dgemma.runtime import cut_draw
from dgemma.runtime.cut_draw import Cut
from dgemma.verify import tolerance
from dgemma.verify.backend import Array, Backend
from dgemma.verify.divergence import NEAR, Divergence, Rule, first_divergence, sample_margin
from dgemma.verify.engine_backend import EngineBackend
from dgemma.verify.gate import Check
from dgemma.verify.steer import ALONE, Steer, drawn
from dgemma.verify.tolerance import Tolerance

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
DIVERGE = "generations with options that diverge without a near-tie"
FUSED = "fused generations with options that diverge without a near-tie"


@dataclass(frozen=True, kw_only=True)
class Steered:
    """One generation: its prompt's ids, its seed, the most tokens to answer with, its options and their number."""

    number: int
    ids: list[int]
    seed: int
    most: int
    steer: Steer


def draw_all(
    count: int, manifest: Manifest, backends: Sequence[Backend], runs: Sequence[tuple[int, int, Trajectory]]
) -> list[Steered]:
    """So many generations: the first has options number 0, or where there are too few for each option to come alone, the first
    number that has several.

    Args:
        runs: seed, most tokens and what was recorded, of the golden prompts, which take turns; a prompt that comes again has
            another seed.
    """
    engines = [one for one in backends if isinstance(one, EngineBackend) and one.steers]
    candidates = all(one.gives_candidates for one in engines)
    # Without the logits of guided steps, a near-tie could not be told from a fault.
    guidance = all(one.guided for one in engines) and any(one.shows_guided for one in backends)
    alone, found = ALONE + guidance, []
    for i in range(count):
        number = i if count >= alone else alone + i
        seed, most, recorded = runs[i % len(runs)]
        likely = sorted(set(recorded.argmax.ravel().tolist()))
        steer = drawn(number, manifest, likely, candidates=candidates, guidance=guidance)
        most = max(most, steer.min_tokens)
        seed = (seed + i // len(runs)) % (1 << 64)
        found.append(Steered(number=number, ids=recorded.prompt_ids.tolist(), seed=seed, most=most, steer=steer))
    return found


def compare(
    backends: Sequence[Backend], tolerances: Sequence[Tolerance], asked: Sequence[Steered], progress: Progress
) -> dict[str, dict[str, Any]]:
    """Backend → figures: `drawn`, `equal`, `differences`, `checks`; `against` which backend, None for the first that takes
    options; `changed`: how many generations are others than without their options, of the first backend's."""
    found: dict[str, dict[str, Any]] = {}
    before: tuple[int, list[Trajectory]] | None = None
    for j, backend in enumerate(backends):
        if not backend.steers:
            continue
        runs = [backend.steered(o.ids, o.seed, o.most, o.steer) for o in progress(asked, f"with options, {backend.name}")]
        entry: dict[str, Any] = {"drawn": len(asked), "against": None, "checks": []}
        if before is None:
            plain = [backend.trajectory(one.ids, one.seed, one.most) for one in asked]
            entry["changed"] = sum(not _same(a, b) for a, b in zip(runs, plain, strict=True))
        else:
            i, above = before
            limits = tolerance.widest(*tolerances[i + 1 : j + 1]).margins
            entry |= {"against": backends[i].name, **differences([*backends[i::-1], backend], asked, above, runs, limits)}
            if limits is not None:
                entry["checks"].append(_check(DIVERGE, entry["differences"]))
        if isinstance(backend, EngineBackend) and backend.fuses_options:
            entry |= _fused(backend, asked, runs)
            entry["checks"] += [_check(FUSED, entry["fused"]["differences"])] if "fused" in entry else []
        backend.release()
        found[backend.name], before = entry, (j, runs)
    return found


def _fused(backend: EngineBackend, asked: Sequence[Steered], runs: Sequence[Trajectory]) -> dict[str, Any]:
    """The fused loop against the host loop, of the generations whose options it takes."""
    pairs = [(one, run) for one, run in zip(asked, runs, strict=True) if one.steer.in_graph]
    if not pairs:
        return {}
    mine = [backend.steered(one.ids, one.seed, one.most, one.steer, loop="graph") for one, _ in pairs]
    figures = differences([backend], [one for one, _ in pairs], [run for _, run in pairs], mine, NEAR)
    return {"fused": {"drawn": len(pairs), **figures}}


def _check(name: str, differences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return Check(name=name, value=sum(one["allowed"] is not True for one in differences), limit=0).to_dict()


def _same(a: Trajectory, b: Trajectory) -> bool:
    """Whether they decide the same in every step."""
    names = ("step", "argmax", "accepted", "canvas_out", "tokens")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def differences(
    judges: Sequence[Backend],
    asked: Sequence[Steered],
    first: Sequence[Trajectory],
    other: Sequence[Trajectory],
    limits: dict[Rule, float] | None,
) -> dict[str, Any]:
    """`equal`: how many pairs are; `differences`: the first of each other one, with its margin and whether the limits allow it.

    Args:
        judges: whose logits give margins: the first that shows a generation's steps.
        first, other: of each generation.
        limits: None: margins are told, not judged.
    """
    found = []
    for one, a, b in zip(asked, first, other, strict=True):
        judge = judges[0] if one.steer.guidance is None else next(x for x in judges if x.shows_guided)
        if (d := difference(judge, one, a, b)) is not None:
            allowed = None if limits is None else d.within(limits) is True
            limit = None if limits is None else limits[d.rule]
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(d).items()}
            found.append({"run": one.number, "options": str(one.steer), **plain, "limit": limit, "allowed": allowed})
    return {"equal": len(asked) - len(found), "differences": found}


def difference(above: Backend, asked: Steered, a: Trajectory, b: Trajectory) -> Divergence | None:
    """The first between two generations under the same options; its margin by the logits of the backend above."""
    sampler = asked.steer.sampler.applied(above.sampler)
    found = first_divergence(a, b, sampler, seed=asked.seed)
    if found is None or found.margin is not None or found.rule == "host" or found.position is None:
        return found
    try:
        tempered = above.steered_logits(a, found.row, asked.steer)[found.position]  # [V]
    except (ValueError, DgemmaError):  # no logits, and so no margin
        return found
    n = a.canvas_in.shape[1]
    words = step_words(asked.seed, found.canvas, sampler.steps - found.step + 1, n)[0, found.position : found.position + 1]
    is_early = found.canvas * n + found.position < asked.steer.min_tokens
    ends = (*above.config.eos_token_ids, above.config.pad_token_id) if is_early else ()
    count = above.sampler.candidates(len(tempered))
    temperature = float(a.temperature[found.row])
    margin = margin_of(found.rule, tempered, asked.steer, temperature, count, ends, float(uniform_from_word(words)[0]))
    return replace(found, margin=margin)


def margin_of(
    rule: Rule, tempered: Array, steer: Steer, temperature: float, count: int, ends: Sequence[int], uniform: float
) -> float:
    """How far one position was from another likeliest id, in logits, or from another draw, as a probability.

    Args:
        tempered: float32 [V].
        count: how many candidates a position has.
        ends: ids that it must not have.
    """
    order = np.argsort(-tempered, kind="stable")
    ids, beyond = order[:count], order[count : count + 1]
    shifted = tempered - tempered[ids[0]]
    log_probs = shifted - np.log(np.exp(shifted).sum())
    scale = temperature if temperature == float(np.float32(GREEDY)) else 1.0  # of a difference of logits
    bias = np.zeros(len(tempered))
    for i, value in steer.biased.bias:
        bias[i] = value
    bias[list(ends)] = BANNED
    candidates = cut_draw.ordered(ids[None], log_probs[ids][None].astype(np.float32))
    candidates, touched = cut_draw.tilted(candidates, bias[candidates.ids], temperature)
    values = candidates.log_probs[0].astype(np.float64)
    border = [float(tempered[ids[-1]] - tempered[beyond[0]]) * scale] if len(beyond) and touched[0] else []
    if rule == "argmax" or scale != 1.0:
        two = values if touched[0] else log_probs[order[:2]]
        gap = float(two[0] - two[1]) * scale if len(two) > 1 and np.isfinite(two[1]) else np.inf
        return min([gap, *border])
    cut = Cut(steer.sampler.top_k, steer.sampler.top_p, steer.sampler.min_p)
    if cut == Cut() and not touched[0]:
        return sample_margin(tempered, _drawn(tempered, uniform), uniform)
    chances = np.exp(values)
    borders = [*border, *_borders(chances, cut)]
    keeps = cut_draw.kept(candidates.log_probs, cut)[0]
    if not keeps.any():
        return min(borders, default=np.inf)
    by_id = np.argsort(candidates.ids[0][keeps])
    running = np.cumsum(chances[keeps][by_id]) / chances[keeps].sum()
    return float(min([*borders, *np.abs(running[:-1] - uniform), np.inf]))


def _drawn(tempered: Array, uniform: float) -> int:
    running = np.cumsum(np.exp((tempered - tempered.max()).astype(np.float64)))
    return int(np.argmax(running > uniform * running[-1]))


def _borders(chances: Array, cut: Cut) -> list[float]:
    """How far, as probabilities, candidates were from being kept, or cut."""
    found = []
    if cut.top_k is not None and cut.top_k < len(chances):
        found.append(float(chances[cut.top_k - 1] - chances[cut.top_k]))
    if cut.top_p is not None:
        found.append(float(np.abs(np.cumsum(chances)[:-1] - cut.top_p).min(initial=np.inf)))
    if cut.min_p is not None:
        found.append(float(np.abs(chances[1:] - cut.min_p * chances[0]).min(initial=np.inf)))
    return found
